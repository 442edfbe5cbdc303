"""Your own images: a folder with one sub-folder per class, or any folder with a table of labels.

data/raw/birds/heron/a.jpg      labels: null          the label is the first folder; an image outside any has none
data/raw/birds/2024/b.jpg       labels: labels.csv    the label stands in data/raw/birds/labels.csv: file,label
                                                      2024/b.jpg,heron; an image that is not listed has none

With a table, a label added later changes no id, so no encoder is trained again for it.
"""

import csv
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Discriminator, Field, Tag

from pipeline.params import Block, Count
from stages.datasets._images import DataError, Files, Images, Record
from stages.datasets._storage import decode

if TYPE_CHECKING:
    from PIL.Image import Image

LONGEST = 2  # times the short side: what is longer would make the canvas of every image longer
SUFFIXES = {".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}


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


def load(*, path: str, store: Store, labels: str | None) -> Images:
    """Every image below `path`, sorted by its path, which is its id; no split of its own.

    store: {shape, fit} keeps pixels of one shape, {short_side, quality} encoded images of many; they are read later.
    labels: a CSV file in `path` with the columns file and label, or null.
    """
    root = Path(path)
    if not root.is_dir():
        raise DataError(f"{path} is not a folder: put the images there, or a link to them")
    paths = (file.relative_to(root) for file in root.rglob("*") if file.suffix.lower() in SUFFIXES)
    files = sorted(file.as_posix() for file in paths if not any(part.startswith(".") for part in file.parts))
    if not files:
        raise DataError(f"{path} has no images: it holds none of {' '.join(sorted(SUFFIXES))}")
    names = _folders(root, files) if labels is None else _table(root / labels, files)
    classes = sorted(set(names.values()))
    number = {name: label for label, name in enumerate(classes)}
    return Images(
        pixels=Files([root / file for file in files], partial(_read, store=store), isinstance(store, ShortSide)),
        ids=files,
        labels=np.array([number[names[file]] if file in names else -1 for file in files], dtype=np.int64),
        classes=classes,
        split=None,
    )


def _folders(root: Path, files: list[str]) -> dict[str, str]:
    """File → name of the class folder that it lies in."""
    names = {file: file.split("/")[0] for file in files if "/" in file}
    for folder in sorted(root.iterdir()):
        if folder.is_dir() and not folder.name.startswith(".") and folder.name not in names.values():
            raise DataError(f"class {folder.name!r} has no images: {folder} holds none of {' '.join(sorted(SUFFIXES))}")
    return names


def _table(table: Path, files: list[str]) -> dict[str, str]:
    """File → label, for the files that the table lists."""
    if not table.is_file():
        raise DataError(f"{table} is missing: a CSV file with the columns file and label")
    with table.open(newline="", encoding="utf-8-sig") as lines:
        rows = list(csv.DictReader(lines))
    if not rows or not {"file", "label"} <= rows[0].keys():
        raise DataError(f"{table} needs a first line `file,label` and at least one label below it")
    names: dict[str, str] = {}
    known = set(files)
    for line, row in enumerate(rows, start=2):
        if row["file"] not in known:
            raise DataError(f"{table}, line {line}: there is no image {row['file']!r} in {table.parent}")
        if not row["label"]:
            raise DataError(f"{table}, line {line}: {row['file']} has an empty label; leave the line out instead")
        if names.setdefault(row["file"], row["label"]) != row["label"]:
            raise DataError(f"{table}, line {line}: {row['file']} already has the label {names[row['file']]!r}")
    return names


def _read(file: Path, store: OneShape | ShortSide) -> Record:
    if isinstance(store, ShortSide):
        return _encoded(file.read_bytes(), store.short_side, store.quality)
    return Record(_resized(file, store.shape, store.fit), None)


def _resized(file: Path, shape: tuple[int, int], fit: str) -> np.ndarray:
    from PIL import Image, ImageOps

    height, width = shape
    with Image.open(file) as image:
        upright = _upright(image, max(shape))
    if fit == "crop":
        return np.asarray(ImageOps.fit(upright, (width, height), Image.Resampling.BICUBIC))
    return np.asarray(upright.resize((width, height), Image.Resampling.BICUBIC))


def _encoded(content: bytes, side: int, quality: int) -> Record:
    from PIL import ExifTags, Image

    with Image.open(BytesIO(content)) as image:
        turned = image.getexif().get(ExifTags.Base.Orientation, 1)
        plain = image.format == "JPEG" and image.mode == "RGB" and turned == 1
        width, height = image.size if turned < 5 else reversed(image.size)
        upright = _upright(image, side)
    left, top, right, bottom = _middle(width, height)
    short = min(right - left, bottom - top)
    if short > side:
        size = (round((right - left) * side / short), round((bottom - top) * side / short))
        x, y = upright.width / width, upright.height / height
        small = upright.resize(size, Image.Resampling.BICUBIC, (left * x, top * y, right * x, bottom * y))
        content = _file(small, "JPEG", quality=quality)
        return Record(decode(content), content)
    pixels = np.asarray(upright)[top:bottom, left:right]
    if plain and pixels.shape[:2] == (height, width):
        return Record(pixels, content)
    return Record(pixels, _file(Image.fromarray(pixels), "PNG"))


def _upright(image: "Image", side: int) -> "Image":
    """RGB, turned as its camera says; ValueError for a depth that RGB cannot hold."""
    from PIL import ImageOps

    if image.mode.startswith(("I", "F")):
        raise ValueError("more than 8 bits per channel: save it with 8")
    image.draft("RGB", (2 * side, 2 * side))  # a JPEG far larger than needed is decoded at a lower scale
    return ImageOps.exif_transpose(image).convert("RGB")


def _middle(width: int, height: int) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of what is left when both ends of a long image are cut."""
    across, down = min(width, LONGEST * height), min(height, LONGEST * width)
    left, top = (width - across) // 2, (height - down) // 2
    return left, top, left + across, top + down


def _file(image: "Image", kind: str, **options: Any) -> bytes:
    stream = BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()
