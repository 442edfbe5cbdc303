"""Who is in which split: decided by a hash of the pixels, never by labels, by order, or by who else is there.

Hence an image added later moves nobody, a new label moves nobody, and equal images are in one split.
"""

import hashlib
from collections.abc import Sequence
from typing import Literal

import numpy as np

from stages.datasets._images import DataError, Images

SPLITS = ("train", "validation", "test")


def uniform(purpose: str, seed: int, keys: Sequence[str]) -> np.ndarray:
    """One number in [0, 1) per key, float64 (n,): the first 53 bits of a sha256."""
    digests = (hashlib.sha256(f"{purpose}/{seed}/{key}".encode()).digest() for key in keys)
    return np.array([(int.from_bytes(digest[:8], "big") >> 11) / 2**53 for digest in digests])


def assign(
    hashes: Sequence[str],
    own: np.ndarray | None,
    *,
    validation: float,
    test: float | Literal["own"],
    seed: int,
) -> np.ndarray:
    """The split of each image, (n,) of SPLITS.

    hashes: content hashes of the images.
    own: the source's split, (n,) of "train" and "test", or None.
    validation, test: shares of all images; with test "own" the source's test images are the test split and `validation`
        is a share of the others.
    """
    u = uniform("split", seed, hashes)
    if test != "own":
        return np.select([u < test, u < test + validation], ["test", "validation"], "train")
    if own is None:
        raise DataError("the source has no test images of its own: set `split.test` to a share such as 0.2")
    return np.select([own == "test", u < validation], ["test", "validation"], "train")


def subset(images: Images, n: int) -> np.ndarray:
    """Rows of n images (or of all, if there are fewer), int64 sorted: classes as equal as they can be.

    Inside a class a hash of the id chooses. The source's own split, and the images without a label, keep their
    proportions.
    """
    if n >= len(images):
        return np.arange(len(images))
    own = np.full(len(images), "train") if images.split is None else images.split
    groups = [np.flatnonzero((own == s) & ((images.labels >= 0) == known)) for s in np.unique(own) for known in (0, 1)]
    ends = np.rint(np.cumsum([len(group) for group in groups]) * n / len(images)).astype(int)
    u = uniform("subset", 0, images.ids)
    chosen = [
        group[_round_robin(images.labels[group], u[group])[:quota]]
        for group, quota in zip(groups, np.diff(ends, prepend=0), strict=True)
    ]
    return np.sort(np.concatenate(chosen))


def _round_robin(labels: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Positions in the order: the first of each class, the second of each class, …; `u` orders a class."""
    order = np.lexsort((u, labels))
    turn = np.arange(len(order)) - np.searchsorted(labels[order], labels[order])
    return order[np.argsort(turn, kind="stable")]


def check(images: Images, splits: np.ndarray) -> None:
    """DataError unless every class can be learned from the train split and judged on the other two."""
    if len(images.classes) < 2:
        raise DataError("fewer than 2 classes have a label: judging an encoder takes 2 or more")
    known = images.labels >= 0
    seen = np.bincount(images.labels[known & (splits == "train")], minlength=len(images.classes))
    missing = [name for name, count in zip(images.classes, seen, strict=True) if count == 0]
    if missing:
        raise DataError(
            f"class {missing[0]!r} has no image with a label in the train split"
            f"{f', and {len(missing) - 1} other classes neither' if len(missing) > 1 else ''}: add some, "
            "or make the shares of validation and test smaller"
        )
    for split in SPLITS[1:]:
        if not (known & (splits == split)).any():
            raise DataError(f"the {split} split has no image with a label: make its share larger, or add images")


def leaked(hashes: Sequence[str], splits: np.ndarray) -> int:
    """How many test images are, pixel for pixel, also in train or validation."""
    others = {name for name, split in zip(hashes, splits, strict=True) if split != "test"}
    return sum(name in others for name, split in zip(hashes, splits, strict=True) if split == "test")
