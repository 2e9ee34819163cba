"""The orientation tag of a photograph, and how to turn the image by it.

Cameras and editors write all kinds of things into EXIF. Only the orientation is read; if it is unreadable, the image is
left as it is.
"""

import re
import struct
from typing import Final

from PIL import Image

_TAG: Final = 0x0112
_SHORT, _LONG = 3, 4
_METHODS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS: Final = (5, 6, 7, 8)
_XMP: Final = re.compile(rb"tiff:Orientation(?:=\"|>)([1-8])")


def find_orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1 for an image that is upright or has no tag.

    It is 1 for TIFF and HEIC too, since their decoders have turned the image already.
    """
    if image.format in ("TIFF", "HEIF"):
        return 1
    blob = image.info.get("exif")
    if blob is None:
        blob = _unwrap(image.info.get("Raw profile type exif"))
    if isinstance(blob, bytes) and (found := parse_orientation(blob)) is not None:
        return found
    xmp = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp")
    xmp = xmp.encode("utf-8", "replace") if isinstance(xmp, str) else xmp
    match = _XMP.search(xmp) if isinstance(xmp, bytes) else None
    return int(match[1]) if match else 1


def is_sideways(orientation: int) -> bool:
    """Tell whether an orientation swaps width and height."""
    return orientation in _SIDEWAYS


def turn(image: Image.Image, orientation: int) -> Image.Image:
    """Turn an image upright by its orientation."""
    method = _METHODS.get(orientation)
    return image if method is None else image.transpose(method)


def parse_orientation(exif: bytes) -> int | None:
    """Return the orientation in a block of EXIF data, 1 to 8, or None if it has no valid one."""
    data = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None:
        return None
    try:
        at = struct.unpack_from(order + "I", data, 4)[0]
        count = struct.unpack_from(order + "H", data, at)[0]
        for entry in range(at + 2, at + 2 + 12 * count, 12):
            tag, kind, length = struct.unpack_from(order + "HHI", data, entry)
            if tag == _TAG:
                if length != 1 or kind not in (_SHORT, _LONG):
                    return None
                value = struct.unpack_from(order + ("H" if kind == _SHORT else "I"), data, entry + 8)[0]
                return value if 1 <= value <= 8 else None
    except struct.error:  # cut off
        pass
    return None


def _unwrap(text: object) -> bytes | None:
    """Decode the EXIF data that some editors write into a PNG as lines: a name, a length and hexadecimal digits."""
    if not isinstance(text, str):
        return None
    try:
        return bytes.fromhex("".join(text.split("\n")[3:]))
    except ValueError:
        return None
