"""How an image of any size becomes one that is kept: pixels of one shape, or an encoded file of its own shape."""

from io import BytesIO
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Discriminator, Field, Tag

from pipeline.params import Block, Count
from stages.datasets._decoding import opened
from stages.datasets._images import Record
from stages.datasets._storage import decode

if TYPE_CHECKING:
    from PIL.Image import Image

LONGEST = 2  # times the short side: what is longer would make the canvas of every image longer


class OneShape(Block):
    """Pixels of one shape, for small images: height and width that each is resized to (bicubic, antialiased).

    fit: crop = scale until the image covers `shape`, cut the overhang on both sides; stretch = change its proportions.
    """

    shape: tuple[Count, Count]
    fit: Literal["crop", "stretch"]


class ShortSide(Block):
    """Encoded images of their own shapes, for large ones and for many.

    What is longer than twice its short side is cut in the middle to that. A short side above `short_side` pixels is
    resized to it (bicubic, antialiased) and the image becomes a JPEG of `quality` (of 100; Pillow's scale). Smaller
    ones keep their pixels: an upright RGB JPEG byte for byte, anything else as a PNG.
    """

    short_side: Count
    quality: Annotated[int, Field(ge=1, le=100)]


def _kind(store: object) -> str:
    encoded = isinstance(store, ShortSide) or (isinstance(store, dict) and not store.keys().isdisjoint(ENCODED))
    return "encoded" if encoded else "packed"


ENCODED = ShortSide.model_fields.keys()
Store = Annotated[Annotated[OneShape, Tag("packed")] | Annotated[ShortSide, Tag("encoded")], Discriminator(_kind)]


def fitted(content: bytes, store: OneShape | ShortSide) -> Record:
    """The bytes of a file as the image that `store` asks for; Unusable if it is none."""
    if isinstance(store, ShortSide):
        return _encoded(content, store.short_side, store.quality)
    return _resized(content, store.shape, store.fit)


def _resized(content: bytes, shape: tuple[int, int], fit: str) -> Record:
    height, width = shape
    upright, treatments, *_ = opened(content, max(shape))
    if upright.size == (width, height):
        return Record(np.asarray(upright), None, treatments)
    from PIL import Image, ImageOps

    if fit == "crop":
        small = ImageOps.fit(upright, (width, height), Image.Resampling.BICUBIC)
    else:
        small = upright.resize((width, height), Image.Resampling.BICUBIC)
    return Record(np.asarray(small), None, treatments)


def _encoded(content: bytes, side: int, quality: int) -> Record:
    from PIL import Image

    upright, treatments, (width, height), plain = opened(content, side)
    left, top, right, bottom = _middle(width, height)
    short = min(right - left, bottom - top)
    if short > side:
        size = (round((right - left) * side / short), round((bottom - top) * side / short))
        x, y = upright.width / width, upright.height / height
        small = upright.resize(size, Image.Resampling.BICUBIC, (left * x, top * y, right * x, bottom * y))
        content = _file(small, "JPEG", quality=quality)
        return Record(decode(content), content, treatments)
    pixels = np.asarray(upright)[top:bottom, left:right]
    if plain and pixels.shape[:2] == (height, width):
        return Record(pixels, content, treatments)
    return Record(pixels, _file(Image.fromarray(pixels), "PNG"), treatments)


def _middle(width: int, height: int) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of what is left when both ends of a long image are cut."""
    across, down = min(width, LONGEST * height), min(height, LONGEST * width)
    left, top = (width - across) // 2, (height - down) // 2
    return left, top, left + across, top + down


def _file(image: "Image", kind: str, **options: Any) -> bytes:
    stream = BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()
