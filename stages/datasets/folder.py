"""Your own images: a folder with one sub-folder per class, or any folder with a table of labels.

data/raw/birds/heron/a.jpg      labels: null          the label is the first folder; an image outside any has none
data/raw/birds/2024/b.jpg       labels: labels.csv    the label stands in data/raw/birds/labels.csv: file,label
                                                      2024/b.jpg,heron; an image that is not listed has none

With a table, a label added later changes no id, so no encoder is trained again for it.
"""

import csv
from pathlib import Path
from typing import Literal

import numpy as np

from pipeline.params import Count
from stages.datasets._images import DataError, Images

SUFFIXES = {".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}


def load(*, path: str, shape: tuple[Count, Count], fit: Literal["crop", "stretch"], labels: str | None) -> Images:
    """Every image below `path`, sorted by its path, which is its id; no split of its own.

    shape: height and width in pixels that each image is resized to (bicubic, antialiased).
    fit: crop = scale until the image covers `shape`, cut the overhang on both sides; stretch = change its proportions.
    labels: a CSV file in `path` with the columns file and label, or null.
    """
    root = Path(path)
    if not root.is_dir():
        raise DataError(f"{path} is not a folder: put the images there, or a link to them")
    paths = (file.relative_to(root) for file in root.rglob("*") if file.suffix.lower() in SUFFIXES)
    files = sorted(file.as_posix() for file in paths if not any(part.startswith(".") for part in file.parts))
    names = _folders(root, files) if labels is None else _table(root / labels, files)
    classes = sorted(set(names.values()))
    number = {name: label for label, name in enumerate(classes)}
    return Images(
        pixels=_pixels(root, files, shape, fit),
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


def _pixels(root: Path, files: list[str], shape: tuple[int, int], fit: str) -> np.ndarray:
    """uint8 (n, h, w, 3); DataError if a file cannot be read, after a look at all of them."""
    pixels = np.empty((len(files), *shape, 3), dtype=np.uint8)
    unreadable: dict[str, Exception] = {}
    for row, file in enumerate(files):
        try:
            pixels[row] = _read(root / file, shape, fit)
        except Exception as error:  # on damaged files decoders raise nearly anything
            unreadable[file] = error
    if unreadable:
        (file, reason), *others = unreadable.items()
        more = f", nor can {len(others)} others: {', '.join(name for name, _ in others[:10])}" if others else ""
        raise DataError(
            f"{root / file} cannot be read ({reason}){more}{', …' if len(others) > 10 else ''}. "
            "Replace or remove what is named here, then run the stage again"
        ) from reason
    return pixels


def _read(file: Path, shape: tuple[int, int], fit: str) -> np.ndarray:
    from PIL import Image, ImageOps

    height, width = shape
    with Image.open(file) as image:
        if image.mode.startswith(("I", "F")):
            raise ValueError("more than 8 bits per channel: save it with 8")
        image.draft(
            "RGB", (2 * max(shape), 2 * max(shape))
        )  # a JPEG far larger than needed is decoded at a lower scale
        upright = ImageOps.exif_transpose(image).convert("RGB")
    if fit == "crop":
        return np.asarray(ImageOps.fit(upright, (width, height), Image.Resampling.BICUBIC))
    return np.asarray(upright.resize((width, height), Image.Resampling.BICUBIC))
