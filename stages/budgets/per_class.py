"""The same number of labels of every class."""

from collections.abc import Sequence

import numpy as np

from pipeline.params import Count
from stages.budgets._permutation import Selection, first


def select(labels: np.ndarray, ids: Sequence[str], seed: int, *, images: Count) -> Selection:
    """Per class `images` of them; a class that has fewer gives all it has, and the shortfall says how many it lacks.

    labels: int64 (n,), those of the train images that have one; ids: n strings.
    """
    return first(labels, ids, seed, {int(label): images for label in np.unique(labels)})
