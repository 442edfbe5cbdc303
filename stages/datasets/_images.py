"""What a data set plug-in hands over: images, their ids, and the labels that are known."""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from stages.datasets._storage import DataError as DataError


class Record(NamedTuple):
    """One image as it is kept."""

    pixels: np.ndarray  # uint8 (h, w, 3), RGB
    content: bytes | None  # a JPEG or PNG file that decodes to these pixels; None: they are kept as they are
    treatment: tuple[str, ...] = ()  # how it was made RGB of 8 bits and upright: keys of the table in docs/data.md

    @property
    def sha256(self) -> str:
        """Of shape and pixels: equal exactly where two images are."""
        shape = np.array(self.pixels.shape, dtype="<i8").tobytes()
        return hashlib.sha256(shape + self.pixels.tobytes()).hexdigest()


@dataclass(frozen=True, eq=False)
class Files:
    """Images that are read when they are asked for, since all of them need not fit into memory.

    items: what names a file to `content` and `stamp`: its path below a folder, its place in a shard.
    content: an item → the bytes of the file. `Unusable` if it cannot be read.
    keep: these bytes → the record. `Unusable` if they are not an image that can be used.
    stamp: an item → a text that is another one when the file may have changed; nothing is read for it.
    encoded: whether the records have content, and may differ in shape.

    The functions can be pickled, and called by any thread or process.
    """

    items: Sequence[Any] | np.ndarray
    content: Callable[[Any], bytes]
    keep: Callable[[bytes], Record]
    stamp: Callable[[Any], str]
    encoded: bool

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, rows: np.ndarray) -> "Files":
        whole = self.items
        items = whole[rows] if isinstance(whole, np.ndarray) else [whole[row] for row in rows]
        return Files(items, self.content, self.keep, self.stamp, self.encoded)

    def read(self, item: Any) -> Record:
        """The record of a file; `Unusable` if it has none."""
        return self.keep(self.content(item))


@dataclass(frozen=True, eq=False)
class Images:
    """The images of a source, in source order.

    pixels: uint8 (n, h, w, 3), RGB, or files, of which some may turn out not to be images.
    ids: n unique strings; an image keeps its id when others are added.
    labels: int64 (n,), a position in `classes`, -1 for no label.
    classes: the names of the classes.
    split: (n,) of "train", "validation" and "test" where the source comes with a split of its own, else None.
    groups: str (n,), what an image shares with others and never with another split (a patient, a slide), else None.
    """

    pixels: np.ndarray | Files
    ids: list[str]
    labels: np.ndarray
    classes: list[str]
    split: np.ndarray | None
    groups: np.ndarray | None = None

    def __post_init__(self) -> None:
        n = len(self.ids)
        if isinstance(self.pixels, np.ndarray):
            assert self.pixels.dtype == np.uint8
            assert self.pixels.ndim == 4
            assert self.pixels.shape[3] == 3
        assert len(self.pixels) == len(self.labels) == n
        assert self.labels.dtype == np.int64
        assert self.split is None or len(self.split) == n
        assert self.groups is None or len(self.groups) == n
        if len(set(self.ids)) < n:
            twice = [name for name, count in Counter(self.ids).items() if count > 1]
            raise DataError(f"{len(twice)} ids occur more than once, {twice[0]!r} among them; each image needs its own")

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: np.ndarray) -> "Images":
        """The images at `rows`, the classes unchanged."""
        split, groups = (None if each is None else each[rows] for each in (self.split, self.groups))
        ids = [self.ids[row] for row in rows]
        return Images(self.pixels[rows], ids, self.labels[rows], self.classes, split, groups)

    def record(self, row: int) -> Record:
        """One image, read now if it is a file."""
        if isinstance(self.pixels, Files):
            return self.pixels.read(self.pixels.items[row])
        return Record(self.pixels[row], None)
