"""Images as bytes, arrays and pixels in [-1, 1]: decoding, conversion, resizing and grids."""
