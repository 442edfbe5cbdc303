"""A share of the labels, the same of every class and at least one of each."""

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from pydantic import Field

from stages.budgets._permutation import Selection, first


def select(
    labels: np.ndarray, ids: Sequence[str], seed: int, *, share: Annotated[float, Field(gt=0, le=1)]
) -> Selection:
    """Per class c with n_c images, max(1, round(share · n_c)) of them.

    labels: int64 (n,), those of the train images that have one; ids: n strings; share: of 1, so 0.01 is 1 %.
    """
    present, counts = np.unique(labels, return_counts=True)
    return first(labels, ids, seed, {int(c): max(1, round(share * n)) for c, n in zip(present, counts, strict=True)})
