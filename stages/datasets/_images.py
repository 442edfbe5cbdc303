"""What a data set plug-in hands over: images of one size, their ids, and the labels that are known."""

import hashlib
from collections import Counter
from dataclasses import dataclass

import numpy as np

from pipeline.errors import Refusal


class DataError(Refusal):
    """The images or their labels cannot be used as they are."""


@dataclass(frozen=True, eq=False)
class Images:
    """The images of a source, in source order.

    pixels: uint8 (n, h, w, 3), RGB.
    ids: n unique strings; an image keeps its id when others are added.
    labels: int64 (n,), a position in `classes`, -1 for no label.
    classes: the names of the classes.
    split: (n,) of "train" and "test" where the source comes with a split of its own, else None.
    """

    pixels: np.ndarray
    ids: list[str]
    labels: np.ndarray
    classes: list[str]
    split: np.ndarray | None

    def __post_init__(self) -> None:
        n = len(self.ids)
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

    def hashes(self) -> list[str]:
        """Sha256 of each image's shape and pixels: equal exactly where two images are."""
        shape = np.array(self.pixels.shape[1:], dtype="<i8").tobytes()
        return [hashlib.sha256(shape + image.tobytes()).hexdigest() for image in self.pixels]
