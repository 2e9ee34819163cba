"""Image metrics: of single images (`distances`), of sets (`frechet`), and their feature networks (`networks`)."""
