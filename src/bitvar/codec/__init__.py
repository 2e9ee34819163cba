"""Pictures to bit files and back."""

from bitvar.codec.bitfile import BitFile, BitHeader
from bitvar.codec.image_codec import PictureCodec

__all__ = ["BitFile", "BitHeader", "PictureCodec"]
