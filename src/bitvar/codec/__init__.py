"""Images to bit files and back."""

from bitvar.codec.bitfile import BitFile, BitHeader
from bitvar.codec.image_codec import ImageCodec

__all__ = ["BitFile", "BitHeader", "ImageCodec"]
