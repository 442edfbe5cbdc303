"""What lies in a folder of images: how many and how large, with which labels, groups and splits. A sample is decoded.

The folder is read by the source plug-in that will read it in the study, so what this finds is what `prepare` will see.
"""

import csv
import io
import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline import plugins
from pipeline.errors import Refusal

SAMPLE = 256  # files that are decoded
LEAST = 20  # files that a study takes
TABLES = (".csv", ".parquet")
EXPECTED = ("file", "label")
SPELLINGS = {  # of a column that ought to be called otherwise
    "file": ("filename", "file_name", "filepath", "path", "image", "image_path", "img", "image_id", "name"),
    "label": ("labels", "class", "class_name", "target", "category", "diagnosis", "y"),
}
GROUPS = tuple(  # columns whose images belong together, the widest first
    f"{noun}{ending}"
    for noun in (
        "patient",
        "subject",
        "participant",
        "donor",
        "case",
        "slide",
        "specimen",
        "site",
        "scene",
        "video",
        "group",
    )
    for ending in ("_id", "id", "")
)
PARTS = {"train", "val", "valid", "validation", "dev", "test"}  # folders of an own split
PREVIEW = {"short_side": 64, "quality": 95}  # what a sampled image is decoded to


class FolderError(Refusal):
    """A folder cannot become a study."""


@dataclass(frozen=True, kw_only=True)
class Survey:
    """A folder as a source, and what was seen there."""

    source: dict[str, Any]  # labels, group and split, as the plug-in `folder` takes them
    files: int
    labels: dict[str, int]  # class → how many images have it
    loose: dict[str, int]  # class → in how many groups, or lone images, that are in no own validation or test split
    parts: dict[str, int]  # of a split of its own: train, validation, test → how many images
    groups: int  # 0: every image stands by itself
    sizes: list[tuple[int, int]]  # height and width of the sampled images
    mean: tuple[float, ...]  # of red, green and blue, in 0 … 1
    std: tuple[float, ...]
    kinds: Counter[str]  # PNG, JPEG, … of the sampled images
    treatments: Counter[str]  # what was done to make them RGB, by its name in docs/data.md
    unusable: Counter[str]  # sampled files that are no images, by their kind in docs/data.md
    notes: list[str] = field(default_factory=list)  # what its reader should know

    @property
    def sampled(self) -> int:
        return len(self.sizes) + self.unusable.total()

    @property
    def labeled(self) -> int:
        return sum(self.labels.values())


def survey(folder: Path, labels: Path | None, group: str | None) -> Survey:
    """Look at `folder`.

    labels: a table in it, None for the one that it holds, if any; group: a column of it, or the level of a folder.
    FolderError, or the plug-in's own refusal, for what no study can be made of.
    """
    if not folder.is_dir():
        raise FolderError(
            f"{folder} is {'a file' if folder.exists() else 'not there'}: --path names a folder of images"
        )
    notes: list[str] = []
    table = _named(folder, labels) if labels else _found(folder, notes)
    columns = _columns(folder / table) if table else []
    source = {"labels": table, "group": _group(group, columns, folder), "split": None}
    images = None if group else _grouped(folder, columns, source, notes)
    images = images or _images(folder, source)
    if len(images) < LEAST:
        raise FolderError(f"{folder} holds {_many(len(images), 'file')}, and a study takes {LEAST} images or more")
    if _split_by_folders(images.ids):
        source["split"] = "folders"
    elif "split" in columns:
        source["split"] = "column"
    elif table is None:
        _refuse_wrapped(folder, images.ids)
    if source["split"]:
        images = _images(folder, source)
    return _seen(folder, images, source, notes)


def _images(folder: Path, source: dict[str, Any]) -> Any:
    """The images of the source, listed."""
    block = {"name": "folder", "path": str(folder), "store": PREVIEW, **source}
    return plugins.specify("datasets", block, "source").make()


# which labels


def _named(folder: Path, table: Path) -> str:
    """The table that was asked for, as a path below the folder; FolderError if it is elsewhere or has other columns."""
    if not table.is_file():
        raise FolderError(f"there is no {table}: --labels names a CSV or parquet file in {folder}")
    if not table.is_relative_to(folder):
        raise FolderError(f"{table} is not in {folder}, which is all that is watched: move it there")
    if missing := _missing(table):
        raise FolderError(f"{table} {missing}")
    return table.relative_to(folder).as_posix()


def _found(folder: Path, notes: list[str]) -> str | None:
    """The one table of labels in the folder; FolderError if it has to be said which, or what its columns mean."""
    visible = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    missing = {
        entry.name: _missing(entry) for entry in visible if entry.is_file() and entry.name.lower().endswith(TABLES)
    }
    good = [name for name, words in missing.items() if words is None]
    if len(good) > 1:
        raise FolderError(f"{folder} holds {len(good)} tables of labels, {', '.join(good)}: say which by --labels")
    if good:
        return good[0]
    for name, words in missing.items():
        if not any(entry.is_dir() for entry in visible):
            raise FolderError(f"{folder / name} {words}; if it is no table of labels, move it out of the folder")
        notes.append(f"{name} is not used, and as a file that is no image it counts as a bad one: it {words}")
    return None


def _missing(table: Path) -> str | None:
    """What is wrong with the columns of a table, None if they are as expected."""
    columns = _columns(table)
    lacking = [name for name in EXPECTED if name not in columns]
    if not lacking:
        return None
    guesses = [
        f"{found!r} to {name!r}"
        for name in lacking
        for found in [next((column for column in columns if column.strip().lower() in (name, *SPELLINGS[name])), None)]
        if found
    ]
    hint = f": rename {' and '.join(guesses)}" if guesses else ""
    found = ", ".join(columns) or "of an empty file"
    return f"has the columns {found}, and a table of labels has {' and '.join(EXPECTED)}{hint}"


def _columns(table: Path) -> list[str]:
    """The names in the first line, or of a parquet file; none of what cannot be read."""
    if table.suffix.lower() == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            return list(pq.read_schema(table).names)
        except pa.ArrowInvalid:
            return []
    with table.open(newline="", encoding="utf-8-sig", errors="replace") as lines:
        return next(csv.reader(lines), [])


def _split_by_folders(files: list[str]) -> bool:
    """Whether the first folders are train and others of its kind."""
    tops = {name.split("/")[0] for name in files if "/" in name}
    return tops <= PARTS and "train" in tops and len(tops) > 1 and all("/" in name for name in files)


def _refuse_wrapped(folder: Path, files: list[str]) -> None:
    """FolderError where all files lie in one folder that holds folders: the classes are further down."""
    if all("/" in name for name in files):
        first, inner = {name.split("/")[0] for name in files}, {tuple(name.split("/")[1:-1][:1]) for name in files}
        if len(first) == 1 and len(inner - {()}) > 1:
            inside = folder / first.pop()
            raise FolderError(
                f"all images of {folder} lie in {inside}, in {len(inner)} folders: is it --path {inside}?"
            )


# which groups


def _group(group: str | None, columns: list[str], folder: Path) -> str | int | None:
    if group is None or group in columns:
        return group
    if group.isdecimal() and int(group):
        return int(group)
    has = f"the columns there are {', '.join(columns)}" if columns else "there is no table"
    raise FolderError(
        f"--group {group} is neither a column of a table in {folder} ({has}) nor the level of a folder, such as 1"
    )


def _grouped(folder: Path, columns: list[str], source: dict[str, Any], notes: list[str]) -> Any:
    """The images by the first column that looks like groups and is known of every image; None if there is none.

    That column is then in `source`; `notes` say why others are not.
    """
    for column in sorted(
        (name for name in columns if name.lower() in GROUPS), key=lambda name: GROUPS.index(name.lower())
    ):
        try:
            images = _images(folder, source | {"group": column})
        except Refusal as refusal:
            notes.append(f"the column {column} is not used as a group: {refusal}")
            continue
        if 2 < len(set(images.groups.tolist())) < len(images):
            source["group"] = column
            return images
    return None


# what the images are like


def _seen(folder: Path, images: Any, source: dict[str, Any], notes: list[str]) -> Survey:
    names = [images.classes[label] for label in images.labels.tolist() if label >= 0]
    sizes, moments = [], []
    kinds, treatments, unusable = Counter[str](), Counter[str](), Counter[str]()
    rows = sorted(random.Random(0).sample(range(len(images)), min(SAMPLE, len(images))))
    for row in rows:
        try:
            content = images.pixels.content(images.pixels.items[row])
            record = images.pixels.keep(content)
        except Exception as error:
            if not hasattr(error, "kind"):  # what `Unusable` says of a file
                raise
            unusable[error.kind] += 1
            continue
        kind, size = _header(content)
        kinds[kind] += 1
        sizes.append(size)
        treatments.update(record.treatment)
        values = record.pixels.reshape(-1, 3) / 255
        moments.append((values.mean(0), (values**2).mean(0)))
    if len(sizes) * 2 < len(rows):
        reasons = ", ".join(f"{count} {kind}" for kind, count in unusable.most_common())
        raise FolderError(
            f"{len(rows) - len(sizes)} of {len(rows)} files of {folder} looked at are no images: {reasons}"
        )
    mean = sum(first for first, _ in moments) / len(moments)
    spread = (sum(second for _, second in moments) / len(moments) - mean**2) ** 0.5
    return Survey(
        source=source,
        files=len(images),
        labels=dict(sorted(Counter(names).items())),
        loose=_loose(images),
        parts=dict(Counter(images.split.tolist())) if images.split is not None else {},
        groups=0 if images.groups is None else len(set(images.groups.tolist())),
        sizes=sizes,
        mean=tuple(round(float(value), 3) for value in mean),
        std=tuple(round(max(float(value), 0.01), 3) for value in spread),
        kinds=kinds,
        treatments=treatments,
        unusable=unusable,
        notes=notes,
    )


def _loose(images: Any) -> dict[str, int]:
    """Class → how many groups or lone images of it the shares of the study's split divide."""
    groups = images.ids if images.groups is None else images.groups.tolist()
    splits = ["train"] * len(images) if images.split is None else images.split.tolist()
    found: dict[str, set[str]] = {name: set() for name in images.classes}
    for label, group, split in zip(images.labels.tolist(), groups, splits, strict=True):
        if label >= 0 and split == "train":
            found[images.classes[label]].add(group)
    return {name: len(members) for name, members in found.items()}


def _header(content: bytes) -> tuple[str, tuple[int, int]]:
    """Format, height and width of an image that can be decoded."""
    from PIL import Image

    with Image.open(io.BytesIO(content)) as image:
        return str(image.format), (image.height, image.width)


def _many(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}" if count else f"no {noun}"


def middle(values: Iterable[int]) -> int:
    """The median, the lower one of two."""
    ordered = sorted(values)
    return ordered[(len(ordered) - 1) // 2]
