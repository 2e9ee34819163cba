"""Pictures to bit files and back."""

from bitvar.codec.bitfile import BitFile, BitHeader
from bitvar.codec.pictures import PictureCodec

__all__ = ["BitFile", "BitHeader", "PictureCodec"]
