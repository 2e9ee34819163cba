"""How alike images are, one by one (`distances`) and as sets (`frechet`), by named networks (`networks`)."""
