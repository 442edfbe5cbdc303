"""The same number of labels of every class."""

import numpy as np

from pipeline.params import Count
from stages.budgets._permutation import Candidates, Selection, first


def select(candidates: Candidates, seed: int, *, images: Count) -> Selection:
    """Per class `images` of them; a class that has fewer gives all it has, and the shortfall says how many it lacks."""
    return first(candidates, seed, {int(label): images for label in np.unique(candidates.labels)})
