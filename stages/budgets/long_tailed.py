"""Labels as the world gives them: many of the first class, few of the last (Cui et al. 2019, Class-Balanced Loss Based
on Effective Number of Samples, arXiv:1901.05555, §5.1).

    n_c = images · ratio^(−c / (C − 1)),  c = 0 … C − 1 in the order of the classes
"""

from typing import Annotated

import numpy as np
from pydantic import Field

from pipeline.params import Count
from stages.budgets._permutation import Candidates, Selection, first


def select(
    candidates: Candidates, seed: int, *, images: Count, ratio: Annotated[float, Field(ge=1, description="1 or more")]
) -> Selection:
    """`images` of the first class, `images / ratio` of the last, rounded, of each at least one."""
    present = np.unique(candidates.labels)
    fall = np.arange(len(present)) / max(1, len(present) - 1)
    wanted = np.maximum(1, np.rint(images * float(ratio) ** -fall)).astype(int)
    return first(candidates, seed, dict(zip(present.tolist(), wanted.tolist(), strict=True)))
