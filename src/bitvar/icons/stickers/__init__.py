"""The sticker set: everyday things in eleven styles at 256 pixels, on transparent or coloured backgrounds."""
