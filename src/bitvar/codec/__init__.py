"""Images to bit files and back."""

from bitvar.codec.bitfile import BitFile, BitHeader
from bitvar.codec.folders import decode_folder, encode_folder
from bitvar.codec.image_codec import ImageCodec

__all__ = ["BitFile", "BitHeader", "ImageCodec", "decode_folder", "encode_folder"]
