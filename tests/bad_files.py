"""Every sort of file that people have and nobody wants, made of nothing but Pillow and bytes; tests call `corpus`.

Each belongs to one or more lines of the table in docs/data.md, named by their first cells.
"""

import os
import struct
import zlib
from collections.abc import Iterator
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageCms

GRAY = "gray, with or without alpha"
DEEP = "16 bits per pixel, gray"
DIM = "16 bits per pixel, gray, no value above 4,095"
NUMBERS = "32-bit integers, floating-point numbers"
FORMAT = "HEIC, AVIF, JPEG XL, JPEG 2000, SVG, PDF, DICOM, a film and so on"
MANY = "animated GIF, WebP or PNG, TIFF of many pages, JPEG of many pictures (MPO)"
INKS = "CMYK, YCCK (also Adobe's inverted ones), YCbCr, Lab"
CLEAR = "see-through pixels (alpha, transparent color)"
TURNED = "JPEG, PNG, WebP or TIFF with an EXIF or XMP orientation of 2 to 8"
GOOD = "upright, RGB, 8 bits"
PLAIN = "interlaced PNG, progressive JPEG"
TAIL = "bytes after the end of the image"
NAMES = "name with any letters, spaces or line breaks"
SUFFIX = "suffix of another format"
EXIF = "EXIF that cannot be read"
PROFILE = "ICC profile"
BILEVEL = "1 bit per pixel"
PALETTE = "palette"
COLOR16 = "16 bits per channel, color"
BOMB = "more than 134,217,728 pixels"
STRIP = "longer than 50 times its short side"
TINY = "a side of 1 pixel"
EMPTY = "no bytes"
CUT = "ends before its picture does"
BROKEN = "damaged"
STRANGER = "no image (a web page that is called x.jpg, text)"
LINK = "link that leads nowhere or in a circle"
LOCKED = "file that may not be read"
NAME = "name that is not UTF-8"


class BadFile(NamedTuple):
    """A file: its name, its bytes, and the lines of the table that are about it."""

    name: str
    content: bytes
    lines: tuple[str, ...]


def pixels(height: int = 24, width: int = 32, seed: int = 0) -> np.ndarray:
    """Smooth colors, uint8 (height, width, 3): an upper left corner unlike any other."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def saved(image: Image.Image | np.ndarray, kind: str, **options: object) -> bytes:
    """The bytes of a file."""
    stream = BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(stream, kind, **options)
    return stream.getvalue()


def chunk(name: bytes, content: bytes) -> bytes:
    """A piece of a PNG."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(width: int, height: int, depth: int, color: int, data: bytes, interlaced: int = 0) -> bytes:
    """A PNG of raw `data`: lines, each after a filter byte of 0."""
    head = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, interlaced)
    whole = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + whole


def lines(values: np.ndarray) -> bytes:
    """Lines of big-endian numbers (h, w, …), each after a filter byte of 0."""
    return b"".join(b"\0" + line.astype(values.dtype.newbyteorder(">")).tobytes() for line in values)


def interlaced(values: np.ndarray) -> bytes:
    """A PNG in Adam7's seven passes, of uint8 (h, w, 3)."""
    passes = ((0, 8, 0, 8), (0, 8, 4, 8), (4, 8, 0, 4), (0, 4, 2, 4), (2, 4, 0, 2), (0, 2, 1, 2), (1, 2, 0, 1))
    data = b"".join(lines(values[top::down, left::right]) for top, down, left, right in passes)
    return png(values.shape[1], values.shape[0], 8, 2, data, interlaced=1)


def segment(marker: int, content: bytes) -> bytes:
    """A piece of a JPEG's head."""
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def inserted(jpeg: bytes, *segments: bytes) -> bytes:
    """A JPEG with more pieces in its head."""
    return jpeg[:2] + b"".join(segments) + jpeg[2:]


def turned(kind: str, orientation: int, image: np.ndarray) -> bytes:
    """A file that asks to be turned."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"tiffinfo": {0x0112: orientation}} if kind == "TIFF" else {"exif": exif}
    if kind == "WEBP":
        options["lossless"] = True
    return saved(image, kind, **options)


def many(kind: str, count: int = 3) -> bytes:
    """A file of several pictures."""
    frames = [Image.fromarray(pixels(seed=seed)) for seed in range(count)]
    return saved(frames[0], kind, save_all=True, append_images=frames[1:])


def good_files() -> Iterator[BadFile]:
    """Files without a fault, some of them unusual."""
    made = partial(BadFile, lines=(GOOD,))
    jpeg, plain = saved(pixels(), "JPEG"), saved(pixels(), "PNG")
    yield made("good.jpg", jpeg)
    yield made("good.png", plain)
    yield made("GOOD.PNG", plain)
    yield made("good", plain)
    yield made("good.webp", saved(pixels(), "WEBP"))
    yield made("good.tif", saved(pixels(), "TIFF"))
    yield made("lzw.tiff", saved(pixels(), "TIFF", compression="tiff_lzw"))
    yield made("good.bmp", saved(pixels(), "BMP"))
    yield made("good.ppm", saved(pixels(), "PPM"))
    yield made("opaque.png", saved(Image.fromarray(pixels()).convert("RGBA"), "PNG"))
    yield made("upright.jpg", turned("JPEG", 1, pixels()))
    yield made("orientation-9.jpg", turned("JPEG", 9, pixels()))
    yield BadFile("interlaced.png", interlaced(pixels()), (PLAIN,))
    yield BadFile("progressive.jpg", saved(pixels(), "JPEG", progressive=True), (PLAIN,))
    yield BadFile("tail.jpg", jpeg + b"<?php evil(); ?>" * 50, (TAIL,))
    yield BadFile("tail.png", plain + jpeg, (TAIL,))
    for name in ("line\nbreak.png", "tab\tand space .png", "ü composed.png", "u\u0308 decomposed.png", "🦜,\"'.png"):
        yield BadFile(name, plain, (NAMES,))


def odd_files() -> Iterator[BadFile]:
    """Files that have to be converted."""
    image = Image.fromarray(pixels())
    gray, jpeg = image.convert("L"), saved(image, "JPEG")
    yield BadFile("png.jpg", saved(image, "PNG"), (SUFFIX,))
    yield BadFile("jpeg.png", jpeg, (SUFFIX,))
    yield BadFile("jpeg.txt", jpeg, (SUFFIX,))
    for orientation in range(2, 9):
        for kind, suffix in (("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp"), ("TIFF", "tif")):
            yield BadFile(f"turned-{orientation}.{suffix}", turned(kind, orientation, pixels()), (TURNED,))
    xmp = b'http://ns.adobe.com/xap/1.0/\0<x:xmpmeta><a tiff:Orientation="6"/></x:xmpmeta>'
    yield BadFile("turned-xmp.jpg", inserted(jpeg, segment(0xE1, xmp)), (TURNED,))
    yield BadFile("exif-torn.jpg", inserted(jpeg, segment(0xE1, b"Exif\0\0II*\0\x08\0\0\0\xff\x00\x12\x01")), (EXIF,))
    yield BadFile("exif-noise.jpg", inserted(jpeg, segment(0xE1, b"Exif\0\0" + bytes(range(40)))), (EXIF,))
    yield BadFile("exif-noise.webp", saved(image, "WEBP", exif=b"Exif\0\0" + bytes(range(40))), (EXIF,))
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    yield BadFile("profile.jpg", saved(image, "JPEG", icc_profile=profile), (PROFILE,))
    yield BadFile("profile-broken.png", saved(image, "PNG", icc_profile=b"not a profile"), (PROFILE,))
    yield BadFile("gray.jpg", saved(gray, "JPEG"), (GRAY,))
    yield BadFile("gray.png", saved(gray, "PNG"), (GRAY,))
    yield BadFile("gray.pgm", saved(gray, "PPM"), (GRAY,))
    yield BadFile("gray-alpha.png", saved(merged("LA", gray), "PNG"), (GRAY, CLEAR))
    yield BadFile("bilevel.png", saved(gray.convert("1"), "PNG"), (BILEVEL,))
    yield BadFile("fax.tif", saved(gray.convert("1"), "TIFF", compression="group4"), (BILEVEL,))
    yield BadFile("palette.png", saved(image.quantize(16), "PNG"), (PALETTE,))
    yield BadFile("palette.gif", saved(image.quantize(16), "GIF"), (PALETTE,))
    yield BadFile(
        "palette-clear.png", saved(image.quantize(16), "PNG", transparency=bytes(range(0, 256, 16))), (PALETTE, CLEAR)
    )
    yield BadFile("palette-clear.gif", saved(image.quantize(16), "GIF", transparency=3), (PALETTE, CLEAR))
    yield BadFile("clear.png", saved(merged("RGBA", image), "PNG"), (CLEAR,))
    yield BadFile("clear.webp", saved(merged("RGBA", image), "WEBP"), (CLEAR,))
    yield BadFile("clear-color.png", saved(image, "PNG", transparency=tuple(pixels()[0, 0].tolist())), (CLEAR,))
    inks = saved(image.convert("CMYK"), "JPEG")
    yield BadFile("cmyk.jpg", inks, (INKS,))
    yield BadFile("ycck.jpg", inks.replace(b"Adobe\0d\0\0\0\0\0", b"Adobe\0d\0\0\0\0\2"), (INKS,))
    yield BadFile("cmyk.tif", saved(image.convert("CMYK"), "TIFF"), (INKS,))
    yield BadFile("lab.tif", saved(lab(image), "TIFF"), (INKS, PROFILE))
    deep = np.arange(24 * 32, dtype=np.uint16).reshape(24, 32) * 85
    for kind, suffix in (("PNG", "png"), ("TIFF", "tif"), ("PPM", "pgm")):
        yield BadFile(f"deep.{suffix}", saved(deep, kind), (DEEP,))
    yield BadFile("deep-black.png", saved(deep * 0, "PNG"), (DEEP,))
    yield BadFile("deep-color.png", png(32, 24, 16, 2, lines(pixels().astype(np.uint16) * 257)), (COLOR16,))
    for kind, suffix in (("GIF", "gif"), ("WEBP", "webp"), ("PNG", "png"), ("TIFF", "tif"), ("MPO", "jpg")):
        yield BadFile(f"many.{suffix}", many(kind), (MANY, *((PALETTE,) if kind == "GIF" else ())))
    plain = saved(image, "PNG")
    yield BadFile("apng-invalid.png", plain[:33] + chunk(b"acTL", bytes(8)) + plain[33:], (GOOD,))
    yield BadFile("mpo-invalid.jpg", inserted(jpeg, segment(0xE2, b"MPF\0II*\0\x08\0\0\0\x01\0")), (GOOD,))


def hopeless_files() -> Iterator[BadFile]:
    """Files that nothing can be made of."""
    jpeg, plain, webp = (saved(pixels(240, 320), kind) for kind in ("JPEG", "PNG", "WEBP"))
    for share in (20, 50, 97):
        yield BadFile(f"cut-{share}.jpg", jpeg[: len(jpeg) * share // 100], (CUT,))
        yield BadFile(f"cut-{share}.png", plain[: len(plain) * share // 100], (CUT,))
        yield BadFile(f"cut-{share}.webp", webp[: len(webp) * share // 100], (CUT,))
    yield BadFile("cut.bmp", saved(pixels(), "BMP")[:-700], (CUT,))
    yield BadFile("cut.tif", saved(pixels(), "TIFF")[:-700], (CUT,))
    yield BadFile("cut.gif", saved(pixels(), "GIF")[:-400], (CUT,))
    yield BadFile("cut-progressive.jpg", saved(pixels(240, 320), "JPEG", progressive=True)[:-900], (CUT,))
    yield BadFile("empty.jpg", b"", (EMPTY,))
    middle = len(plain) // 2
    yield BadFile(
        "flipped.png",
        plain[:middle] + bytes(byte ^ 255 for byte in plain[middle : middle + 99]) + plain[middle + 99 :],
        (BROKEN,),
    )
    yield BadFile("head-only.png", plain[:33], (BROKEN,))
    yield BadFile("headless.jpg", jpeg[:2] + jpeg[-5000:], (BROKEN,))
    yield BadFile("cut-lzw.tif", saved(pixels(), "TIFF", compression="tiff_lzw")[:-90], (BROKEN,))
    yield BadFile("deep-dim.png", saved(np.full((24, 32), 4095, np.uint16), "PNG"), (DIM,))
    yield BadFile("float.tif", saved(np.linspace(0, 1, 24 * 32, dtype=np.float32).reshape(24, 32), "TIFF"), (NUMBERS,))
    yield BadFile("integers.tif", saved(np.full((24, 32), 70_000, np.int32), "TIFF"), (NUMBERS,))
    yield BadFile("bomb.png", png(12_000, 12_000, 8, 2, b""), (BOMB,))
    yield BadFile("bomb-large.png", png(60_000, 60_000, 8, 2, b""), (BOMB,))
    yield BadFile(
        "bomb.gif",
        b"GIF89a" + struct.pack("<HHBBB", 65_535, 65_535, 0, 0, 0) + b",\0\0\0\0\1\0\1\0\0\2\2D\1\0;",
        (BOMB,),
    )
    yield BadFile("strip.png", saved(pixels(2, 101), "PNG"), (STRIP,))
    yield BadFile("one.png", saved(pixels(1, 1), "PNG"), (TINY,))
    yield BadFile("line.gif", saved(pixels(40, 1), "GIF"), (TINY,))
    yield BadFile("page.jpg", b"<!DOCTYPE html>\n<html><title>404</title></html>", (STRANGER,))
    yield BadFile("notes.txt", "Ein Bild, später.".encode(), (STRANGER,))
    yield BadFile("Thumbs.db", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(500), (STRANGER,))
    yield BadFile("zeros.jpg", bytes(3000), (STRANGER,))
    yield BadFile("drawing.svg", b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', (FORMAT,))
    yield BadFile("paper.pdf", b"%PDF-1.7\n", (FORMAT,))
    yield BadFile("phone.heic", b"\0\0\0\x18ftypheic\0\0\0\0", (FORMAT,))
    yield BadFile("web.avif", b"\0\0\0\x1cftypavif\0\0\0\0", (FORMAT,))
    yield BadFile("film.mp4", b"\0\0\0\x18ftypisom\0\0\0\0", (FORMAT,))
    yield BadFile("next.jxl", b"\0\0\0\x0cJXL \r\n\x87\n", (FORMAT,))
    yield BadFile("scan.jp2", saved(pixels(), "JPEG2000"), (FORMAT,))
    yield BadFile("scan.dcm", bytes(128) + b"DICM" + bytes(64), (FORMAT,))
    yield BadFile("layers.psd", b"8BPS\0\1" + bytes(20), (FORMAT,))
    yield BadFile("site.ico", saved(pixels(16, 16), "ICO"), (FORMAT,))
    yield BadFile("array.npy", b"\x93NUMPY\1\0", (FORMAT,))


def merged(mode: str, image: Image.Image) -> Image.Image:
    """The image with an alpha that falls from left to right."""
    ramp = Image.linear_gradient("L").rotate(90).resize(image.size)
    return Image.merge(mode, (*image.split(), ramp))


def lab(image: Image.Image) -> Image.Image:
    """The image in CIE L*a*b*."""
    spaces = (ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"))
    return ImageCms.applyTransform(image, ImageCms.buildTransform(*spaces, "RGB", "LAB"))


def corpus() -> list[BadFile]:
    """All of them but those that are more than a name and bytes."""
    return [*good_files(), *odd_files(), *hopeless_files()]


def write(root: Path) -> list[BadFile]:
    """The whole corpus below `root`, also links, a pipe and folders; those that `prepare` must account for."""
    made = corpus()
    for file in made:
        (root / file.name).write_bytes(file.content)
    (root / "dangling.jpg").symlink_to("nowhere.jpg")
    (root / "circle.jpg").symlink_to("circle.jpg")
    (root / "linked.png").symlink_to("good.png")
    os.mkfifo(root / "pipe.jpg")
    (root / "folder.jpg").mkdir()
    (root / "folder.jpg" / "inside.png").write_bytes(saved(pixels(), "PNG"))
    (root / "folder.jpg" / "up").symlink_to("..")
    (root / ".hidden.png").write_bytes(b"")
    with open(os.fsencode(root) + b"/\xff\xfe.png", "wb") as file:  # noqa: PTH123  # a Path cannot name it
        file.write(saved(pixels(), "PNG"))
    others = [
        ("dangling.jpg", LINK),
        ("circle.jpg", LINK),
        ("linked.png", GOOD),
        ("pipe.jpg", LOCKED),
        ("folder.jpg/inside.png", GOOD),
        ("\\xff\\xfe.png", NAME),
    ]
    return made + [BadFile(name, b"", (line,)) for name, line in others]
