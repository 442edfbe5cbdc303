"""What a budget chooses from, and one order of it per class and seed. A budget takes the first ones of each class, so a
smaller budget of the same plug-in is part of a larger one.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa


@dataclass(frozen=True, eq=False)
class Candidates:
    """The train images that have a label.

    labels: int64 (n,), a position in `classes`.
    ids: n strings.
    groups: str (n,); an image without a group has one of its own.
    classes: the names of the classes.
    """

    labels: np.ndarray
    ids: Sequence[str]
    groups: pa.Array
    classes: list[str]


@dataclass(frozen=True, eq=False)
class Selection:
    """positions: int64, sorted; shortfall: label → how many images the class lacks, only where it lacks some."""

    positions: np.ndarray
    shortfall: dict[int, int]


def shuffled(seed: int, names: Iterable[str]) -> np.ndarray:
    """Positions of n names in the order of a hash of seed and name, int64 (n,)."""
    digests = b"".join(hashlib.sha256(f"budget/{seed}/{name}".encode()).digest() for name in names)
    return np.argsort(np.frombuffer(digests, dtype="S32"), kind="stable")


def first(candidates: Candidates, seed: int, wanted: dict[int, int]) -> Selection:
    """The first `wanted[label]` images of each class, in the order of a hash of seed and id.

    The choice depends on neither the order of the candidates nor on the other classes.
    """
    order = shuffled(seed, candidates.ids)
    order = order[np.argsort(candidates.labels[order], kind="stable")]  # class by class
    edges = np.searchsorted(candidates.labels[order], [[label, label + 1] for label in wanted])
    members = {label: order[start:stop] for label, (start, stop) in zip(wanted, edges, strict=True)}
    taken = [members[label][:count] for label, count in wanted.items()]
    return Selection(
        positions=np.sort(np.concatenate([*taken, np.empty(0, np.int64)])),
        shortfall={label: n - len(members[label]) for label, n in wanted.items() if n > len(members[label])},
    )
