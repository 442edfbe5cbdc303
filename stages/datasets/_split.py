"""Who is in which split: decided by a hash of the group, never by labels, by order, or by who else is there.

Hence an image added later moves nobody, a new label moves nobody, and no group straddles splits. An image without a
group is a group with those that equal it, pixel for pixel.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stages.datasets._images import DataError, Images

SPLITS = ("train", "validation", "test")
Part = float | Literal["own"]


def uniform(purpose: str, seed: int, keys: Sequence[str]) -> np.ndarray:
    """One number in [0, 1) per key, float64 (n,): the first 53 bits of a sha256."""
    digests = (hashlib.sha256(f"{purpose}/{seed}/{key}".encode()).digest() for key in keys)
    return np.fromiter(((int.from_bytes(digest[:8], "big") >> 11) / 2**53 for digest in digests), float, len(keys))


def grouped(groups: np.ndarray | None, hashes: Sequence[str]) -> pa.Array:
    """The group of each image, str (n,): the source's, or, where it names none (""), the content hash of the image."""
    own = pa.array(hashes, pa.string())
    if groups is None:
        return own
    named = pa.array(groups, pa.string())
    return pc.if_else(pc.equal(named, ""), own, named)


def assign(groups: pa.Array, own: np.ndarray | None, *, validation: Part, test: Part, seed: int) -> np.ndarray:
    """The split of each image, (n,) of SPLITS.

    groups: of the images, str (n,): see `grouped`.
    own: the source's split, (n,) of SPLITS, or None.
    validation, test: shares of all images, in expectation; "own" keeps the source's, and shares are then of the others.
    """
    encoded = groups.dictionary_encode()
    u = uniform("split", seed, encoded.dictionary.to_pylist())[encoded.indices.to_numpy()]
    for name, part in (("test", test), ("validation", validation)):
        if part == "own" and (own is None or not (own == name).any()):
            raise DataError(f"the source has no {name} images of its own: set `split.{name}` to a share such as 0.2")
    edge = 0.0 if test == "own" else test
    tested = own == "test" if test == "own" else u < edge
    validated = own == "validation" if validation == "own" else (u >= edge) & (u < edge + validation)
    if validation == "own":
        tested &= ~validated
    return np.select([tested, validated], ["test", "validation"], "train")


def require_whole(groups: np.ndarray, splits: np.ndarray) -> None:
    """DataError if the images of a group are in more than one split, as a source's own split may have it."""
    pairs = pa.table({"group": groups, "split": splits}).group_by(["group", "split"]).aggregate([])
    pairs = pairs.filter(pc.not_equal(pairs["group"], ""))
    counts = pairs["group"].value_counts()
    torn = sorted(pair["values"] for pair in counts.filter(pc.greater(counts.field("counts"), 1)).to_pylist())
    if torn:
        where = sorted(pairs.filter(pc.equal(pairs["group"], torn[0]))["split"].to_pylist(), key=SPLITS.index)
        more = f", and so are {len(torn) - 1} other groups" if len(torn) > 1 else ""
        raise DataError(
            f"group {torn[0]!r} has images in {' and in '.join(where)}{more}: correct the source's own split, or set "
            "`split.validation` and `split.test` to shares, which keep groups whole"
        )


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


def require_images(splits: np.ndarray, groups: int) -> None:
    """DataError if a split is empty; `groups` is how many there are in all."""
    for split in SPLITS:
        if not (splits == split).any():
            raise DataError(
                f"the {split} split is empty, as {len(splits)} images in {groups} groups are too few for these shares: "
                "try another `split.seed` or other shares, or add images"
            )


def occurring(images: Images) -> Images:
    """The images without the classes that none of them has."""
    known = images.labels >= 0
    found, numbers = np.unique(images.labels[known], return_inverse=True)
    if len(found) == len(images.classes):
        return images
    labels = np.full_like(images.labels, -1)
    labels[known] = numbers
    return replace(images, labels=labels, classes=[images.classes[label] for label in found])


def unjudged(labels: np.ndarray, splits: np.ndarray, classes: list[str]) -> str | None:
    """Why no encoder can be judged by its classes here, in words; None if it can."""
    if len(classes) < 2:
        return "fewer than 2 classes have a label"
    known = labels >= 0
    seen = np.bincount(labels[known & (splits == "train")], minlength=len(classes))
    missing = [name for name, count in zip(classes, seen, strict=True) if count == 0]
    if missing:
        others = f", and {len(missing) - 1} other classes neither" if len(missing) > 1 else ""
        return f"class {missing[0]!r} has no image with a label in the train split{others}"
    empty = [split for split in SPLITS[1:] if not (known & (splits == split)).any()]
    return f"the {empty[0]} split has no image with a label" if empty else None
