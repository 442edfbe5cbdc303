"""The bytes of one file → an upright RGB image of 8 bits, with what was done to it, or the reason why there is none.

docs/data.md, "What happens to bad files", is the table of every case: each `Treatment` and each `Kind` has its line.
"""

import errno
import os
import re
import stat
import warnings
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from stages.datasets import _png

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFile import ImageFile

Treatment = Literal[
    "alpha", "bilevel", "color", "deep", "first_frame", "gray", "palette", "profile", "rotated", "suffix"
]
Kind = Literal[
    "bomb",
    "broken",
    "depth",
    "empty",
    "format",
    "link",
    "name",
    "not_image",
    "strip",
    "tiny",
    "truncated",
    "unreadable",
]

LIMIT = 2**27  # pixels; a larger image is never decoded: it would take 512 MiB and more
LARGEST = 8 * LIMIT  # bytes of a file: as many pixels of four times 16 bits
BOMB = f"more than {LIMIT:,} pixels, so it is not decoded: save it smaller"
STRIP = 50  # times the short side
DARK = 2**12  # of 2**16: where the largest value is below it, 8 bits would keep fewer than 16 levels
SUFFIXES = {  # of the formats that are read
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
    "GIF": (".gif",),
    "BMP": (".bmp", ".dib"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
}
FORMATS = tuple(SUFFIXES)
STARTS = re.compile(  # first bytes, of which format
    rb"(?P<JPEG>\xff\xd8\xff)|(?P<PNG>\x89PNG)|(?P<WEBP>RIFF....WEBP)|(?P<TIFF>II\*\0|MM\0\*|II\+\0|MM\0\+)"
    rb"|(?P<GIF>GIF8)|(?P<BMP>BM)|(?P<PPM>P[1-6]\s)",
    re.DOTALL,
)
TURNED = {  # orientation → what turns it upright
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
MODES: dict[str, Treatment] = {
    "1": "bilevel",
    "L": "gray",
    "LA": "gray",
    "La": "gray",
    "P": "palette",
    "PA": "palette",
    "CMYK": "color",
    "YCbCr": "color",
    "LAB": "color",
    "HSV": "color",
}
OTHERS = (  # where a format's bytes stand, these bytes, its name
    (0, b"%PDF", "a PDF"),
    (0, b"8BPS", "a Photoshop document"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\0\0\0\x0cJXL ", "JPEG XL"),
    (0, b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (0, b"\0\0\1\0", "an icon"),
    (0, b"\x89HDF", "HDF5"),
    (0, b"\x93NUMPY", "a NumPy array"),
    (128, b"DICM", "DICOM"),
    *((4, b"ftyp" + brand, "HEIC") for brand in (b"heic", b"heix", b"hevc", b"mif1", b"msf1")),
    *((4, b"ftyp" + brand, "AVIF") for brand in (b"avif", b"avis")),
    (4, b"ftyp", "a film"),
)
MODULE = r"PIL\."
QUIET = ("ignore", None, Warning, re.compile(MODULE), 0)


class Unusable(Exception):
    """A file that goes to quarantine: `kind` is a key of the table, `words` say what is wrong and what would be right.

    Not a Refusal: it never ends a stage, too many of them do.
    """

    def __init__(self, kind: Kind, words: str) -> None:
        self.kind, self.words = kind, words.encode("utf-8", "backslashreplace").decode()  # a path may be no text
        super().__init__(kind, self.words)


class Opened(NamedTuple):
    """A decoded file.

    image: RGB, 8 bits, upright; a JPEG that is far larger than asked for may come at a half, quarter or eighth.
    size: width and height of the whole image, upright.
    plain: an upright RGB JPEG of one picture, whose bytes may be kept as they are.
    """

    image: "Image"
    treatments: tuple[Treatment, ...]
    size: tuple[int, int]
    plain: bool


def format_of(content: bytes) -> str:
    """A key of SUFFIXES, by the first bytes of a file; "" for none of them."""
    start = STARTS.match(content)
    return (start and start.lastgroup) or ""


def misnamed(name: str, kind: str) -> bool:
    """Whether a file of the format `kind` (a key of SUFFIXES) has a suffix, but none of that."""
    stem, dot, suffix = name.rpartition("/")[2].rpartition(".")
    return stem != "" and suffix != "" and dot + suffix.lower() not in SUFFIXES[kind]


def content(file: str) -> bytes:
    """The bytes of a file; Unusable for a link into the void or in a circle, for what may not be read or is no file."""
    try:
        handle = os.open(file, os.O_RDONLY | os.O_NONBLOCK)  # a pipe would wait for a writer
        try:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode):
                raise Unusable("unreadable", "it is no file but a pipe, a socket or a device: remove it")
            if status.st_size > LARGEST:
                raise Unusable("bomb", f"more than {LARGEST / 2**30:g} GiB, so it is not read: save it smaller")
            whole = os.read(handle, status.st_size)  # a file object takes as long to make as the rest together
            while len(whole) < status.st_size and (more := os.read(handle, status.st_size - len(whole))):
                whole += more
            return whole
        finally:
            os.close(handle)
    except OSError as error:
        if error.errno == errno.ELOOP or (isinstance(error, FileNotFoundError) and Path(file).is_symlink()):
            raise Unusable("link", "the link leads nowhere or in a circle: put the file there") from error
        reason = (error.strerror or "it cannot be read").lower()
        raise Unusable("unreadable", f"{reason}: let the user who runs the stage read it") from error


def opened(content: bytes, side: int) -> Opened:
    """The image in the bytes of a file; Unusable if there is none.

    side: pixels; of a larger JPEG (draft mode) at least twice this is decoded in height and width.
    """
    if simple := _png.plain(content):
        _measure(*simple.size)
        if picture := _png.decoded(simple):
            return Opened(picture, (), simple.size, plain=False)
    _quiet()
    image = _identified(content)
    size = image.size
    _measure(*size)
    try:
        treatments = _notes(image)
        plain = image.format == "JPEG" and image.mode == "RGB"
        image.draft("RGB", (2 * side, 2 * side))
        image.load()
        orientation = _orientation(image)
        upright = _rgb(image, treatments)
    except (Unusable, MemoryError):
        raise
    except Exception as error:  # on damaged files decoders raise nearly anything
        raise _damaged(content, str(error) or type(error).__name__) from error
    if orientation > 1:
        treatments.add("rotated")
        upright = _turned(upright, orientation)
    return Opened(
        upright, tuple(sorted(treatments)), size[::-1] if orientation > 4 else size, plain and orientation == 1
    )


def _quiet() -> None:
    """Pillow says the rest of what it finds in a file as warnings: the table says what happens then, so nobody need."""
    if QUIET not in warnings.filters:
        warnings.filterwarnings("ignore", module=MODULE)


def _identified(content: bytes) -> "ImageFile":
    """The image, of which only the header is read yet: what the bytes are decides, not the suffix."""
    from PIL import Image, UnidentifiedImageError

    if not content:
        raise Unusable("empty", "the file has no bytes: copy it again")
    try:
        return Image.open(BytesIO(content), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise Unusable("bomb", BOMB) from error
    except UnidentifiedImageError as error:
        raise _damaged(content, "its head cannot be read") if format_of(content) else _stranger(content) from error
    except Exception as error:
        raise _damaged(content, str(error) or type(error).__name__) from error


def _stranger(content: bytes) -> Unusable:
    """For what is no image, or an image of a format that is not read."""
    for offset, signature, name in OTHERS:
        if content[offset : offset + len(signature)] == signature:
            return Unusable("format", f"{name} is not read: save it as PNG or JPEG")
    text = content[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html")):
        return Unusable("not_image", "the file is an HTML page: download it again")
    if b"<svg" in text:
        return Unusable("format", "SVG is not read: save it as PNG or JPEG")
    return Unusable("not_image", f"the bytes are not those of {', '.join(FORMATS[:-1])} or {FORMATS[-1]}: remove it")


def _damaged(content: bytes, reason: str) -> Unusable:
    short = content[:4] == b"RIFF" and len(content) < 8 + int.from_bytes(content[4:8], "little")
    if short or "truncated" in reason.lower():
        return Unusable("truncated", "the file ends before its picture does: copy it again")
    return Unusable("broken", f"the picture cannot be decoded ({reason}): copy it again")


def _measure(width: int, height: int) -> None:
    """Unusable for sizes that are none of a picture."""
    short, long = sorted((width, height))
    if width * height > LIMIT:
        raise Unusable("bomb", BOMB)
    if short == 1:
        raise Unusable("tiny", f"{width}×{height} pixels show nothing: remove it")
    if long > STRIP * short:
        raise Unusable("strip", f"{width}×{height} is longer than {STRIP} times its short side: cut it up")


def _notes(image: "ImageFile") -> set[Treatment]:
    """What the header alone says."""
    from PIL import ExifTags

    notes: set[Treatment] = set()
    if getattr(image, "is_animated", False):
        notes.add("first_frame")
    if image.info.get("icc_profile"):
        notes.add("profile")
    if getattr(image, "tag_v2", {}).get(ExifTags.Base.Orientation) in TURNED:  # a TIFF is turned while it is decoded
        notes.add("rotated")
    return notes


def _orientation(image: "Image") -> int:
    """How the camera was held, 2 to 8 as in EXIF; 1 for upright and for unknown. A TIFF has been turned by now."""
    from PIL import ExifTags

    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # the picture is whole, what stands beside it is not
        return 1
    return orientation if orientation in TURNED else 1


def _turned(image: "Image", orientation: int) -> "Image":
    from PIL.Image import Transpose

    return image.transpose(Transpose[TURNED[orientation]])


def _rgb(image: "Image", notes: set[Treatment]) -> "Image":
    """RGB of 8 bits; what is see-through lies on white."""
    from PIL import Image

    if image.mode.startswith(("I", "F")):
        notes.add("deep")
        return _upper(image).convert("RGB")
    if image.mode in MODES:
        notes.add(MODES[image.mode])
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        clear = image.convert("RGBA")
        if clear.getchannel("A").histogram()[255] < image.width * image.height:
            notes.add("alpha")
            return Image.alpha_composite(Image.new("RGBA", image.size, "white"), clear).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _upper(image: "Image") -> "Image":
    """The upper 8 of 16 bits, gray; Unusable for numbers whose black and white nobody knows."""
    from PIL import Image

    if image.mode.startswith("F") or (image.mode == "I" and image.format != "PPM"):
        kind = "floating-point" if image.mode == "F" else "32-bit"
        raise Unusable("depth", f"{kind} pixels have no known black and white: save it with 8 or 16 bits")
    values = np.asarray(image)
    top = int(values.max())
    if 0 < top < DARK:
        raise Unusable("depth", f"of 16 bits the upper 4 are empty (largest value {top}): scale it to 0…65535")
    return Image.fromarray((values >> 8).astype(np.uint8))
