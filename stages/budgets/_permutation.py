"""One order of the images per class and seed. A budget takes the first ones of each class, so a smaller budget is part
of a larger one, whatever plug-in chose them.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Selection:
    """positions: int64, sorted; shortfall: label → how many images the class lacks, only where it lacks some."""

    positions: np.ndarray
    shortfall: dict[int, int]


def first(labels: np.ndarray, ids: Sequence[str], seed: int, wanted: dict[int, int]) -> Selection:
    """The first `wanted[label]` images of each class, in the order of a hash of seed and id.

    labels: int64 (n,); ids: n strings. The choice depends on neither their order nor on the other classes.
    """
    order = np.argsort([hashlib.sha256(f"budget/{seed}/{name}".encode()).hexdigest() for name in ids])
    members = {label: order[labels[order] == label] for label in wanted}
    return Selection(
        positions=np.sort(np.concatenate([members[label][:count] for label, count in wanted.items()])),
        shortfall={label: n - len(members[label]) for label, n in wanted.items() if n > len(members[label])},
    )
