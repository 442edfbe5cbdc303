"""A share of the labels, the same of every class and at least one of each."""

from typing import Annotated

import numpy as np
from pydantic import Field

from stages.budgets._permutation import Candidates, Selection, first


def select(candidates: Candidates, seed: int, *, share: Annotated[float, Field(gt=0, le=1)]) -> Selection:
    """Per class c with n_c candidates, max(1, round(share · n_c)) of them; share: of 1, so 0.01 is 1 %."""
    present, counts = np.unique(candidates.labels, return_counts=True)
    wanted = {int(c): max(1, round(share * n)) for c, n in zip(present, counts, strict=True)}
    return first(candidates, seed, wanted)
