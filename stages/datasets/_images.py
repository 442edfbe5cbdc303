"""What a data set plug-in hands over: images, their ids, and the labels that are known."""

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from stages.datasets._storage import DataError as DataError


class Record(NamedTuple):
    """One image as it is kept."""

    pixels: np.ndarray  # uint8 (h, w, 3), RGB
    content: bytes | None  # a JPEG or PNG file that decodes to these pixels; None: they are kept as they are

    @property
    def sha256(self) -> str:
        """Of shape and pixels: equal exactly where two images are."""
        shape = np.array(self.pixels.shape, dtype="<i8").tobytes()
        return hashlib.sha256(shape + self.pixels.tobytes()).hexdigest()


@dataclass(frozen=True, eq=False)
class Files:
    """Images that are read when they are asked for, since all of them need not fit into memory.

    read: a file → its record; whatever it raises is told with the file's name.
    encoded: whether the records have content, and may differ in shape.
    """

    paths: list[Path]
    read: Callable[[Path], Record]
    encoded: bool

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, rows: np.ndarray) -> "Files":
        return Files([self.paths[row] for row in rows], self.read, self.encoded)


@dataclass(frozen=True, eq=False)
class Images:
    """The images of a source, in source order.

    pixels: uint8 (n, h, w, 3), RGB, or files.
    ids: n unique strings; an image keeps its id when others are added.
    labels: int64 (n,), a position in `classes`, -1 for no label.
    classes: the names of the classes.
    split: (n,) of "train" and "test" where the source comes with a split of its own, else None.
    """

    pixels: np.ndarray | Files
    ids: list[str]
    labels: np.ndarray
    classes: list[str]
    split: np.ndarray | None

    def __post_init__(self) -> None:
        n = len(self.ids)
        if isinstance(self.pixels, np.ndarray):
            assert self.pixels.dtype == np.uint8
            assert self.pixels.ndim == 4
            assert self.pixels.shape[3] == 3
        assert len(self.pixels) == len(self.labels) == n
        assert self.labels.dtype == np.int64
        assert self.split is None or len(self.split) == n
        twice = [name for name, count in Counter(self.ids).items() if count > 1]
        if twice:
            raise DataError(f"{len(twice)} ids occur more than once, {twice[0]!r} among them; each image needs its own")

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: np.ndarray) -> "Images":
        """The images at `rows`, the classes unchanged."""
        split = None if self.split is None else self.split[rows]
        return Images(self.pixels[rows], [self.ids[row] for row in rows], self.labels[rows], self.classes, split)

    def record(self, row: int) -> Record:
        """One image, read now if it is a file."""
        if isinstance(self.pixels, Files):
            return self.pixels.read(self.pixels.paths[row])
        return Record(self.pixels[row], None)
