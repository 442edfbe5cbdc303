"""A number of labels in all, of every class as many as of any other, as far as they reach."""

import numpy as np

from pipeline.params import Count
from stages.budgets._permutation import Candidates, Selection, first, shuffled


def select(candidates: Candidates, seed: int, *, images: Count) -> Selection:
    """`images` of the candidates, or all: one of each class in turn, those of a class that is used up from the others.

    Classes take their turns in an order that the seed draws. The shortfall of a class is what it lacks of an equal
    part.
    """
    present, counts = np.unique(candidates.labels, return_counts=True)
    turns = shuffled(seed, [candidates.classes[label] for label in present])
    taken = np.zeros_like(counts)
    for turn in range(counts.max(initial=0)):
        open_ = turns[counts[turns] > turn][: images - taken.sum()]
        taken[open_] += 1
    found = first(candidates, seed, dict(zip(present.tolist(), taken.tolist(), strict=True)))
    part = images // max(1, len(present))
    short = {int(label): int(part - n) for label, n in zip(present, taken, strict=True) if n < part}
    return Selection(found.positions, short)
