"""The plainest PNG, as scripts write small images: 8-bit RGB, not interlaced, no chunks but IHDR, IDAT and IEND.

Pillow's Python takes as long to walk through such a file as its C code to decode it. Here the chunks are found in a
few lines, and the pixels are decoded by Pillow all the same. Anything else, and all that is wrong, is for Pillow alone.
"""

import struct
import zlib
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from PIL.Image import Image

START = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
RGB = b"\x08\x02\0\0\0"  # bits, color type, compression, filter, interlace
CHUNK = struct.Struct(">I4s")  # length and name; then follow that many bytes and their CRC


class Plain(NamedTuple):
    """Width and height, and the compressed pixels."""

    size: tuple[int, int]
    data: bytes


def plain(content: bytes) -> Plain | None:
    """What the file holds if it is of that kind and its checksums are right, else None."""
    if not content.startswith(START) or content[24:29] != RGB:
        return None
    place = 8
    data: list[bytes] = []
    while place + CHUNK.size <= len(content):
        length, name = CHUNK.unpack_from(content, place)
        end = place + CHUNK.size + length
        if zlib.crc32(content[place + 4 : end]).to_bytes(4, "big") != content[end : end + 4]:
            return None
        if name == b"IEND":
            width, height = struct.unpack_from(">II", content, 16)
            return Plain((width, height), b"".join(data)) if width and height else None
        if name == b"IDAT":
            data.append(content[place + CHUNK.size : end])
        elif place > 8:
            return None
        place = end + 4
    return None


def decoded(image: Plain) -> "Image | None":
    """Its picture; None if it is not whole."""
    from PIL import Image

    try:
        return Image.frombytes("RGB", image.size, image.data, "zip", "RGB", False)
    except ValueError:
        return None
