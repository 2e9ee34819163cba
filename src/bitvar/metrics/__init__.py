"""Metrics of images, one by one (`distances`) and as sets (`frechet`), with feature networks (`networks`)."""
