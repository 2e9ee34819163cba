"""How alike pictures are, one by one (`distances`) and as sets (`frechet`), by named networks (`networks`)."""
