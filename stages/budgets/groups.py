"""A share of the groups (patients, slides) with all their labels: what labeling some of them completely would cost."""

from typing import Annotated

import numpy as np
from pydantic import Field

from stages.budgets._permutation import Candidates, Selection, shuffled


def select(candidates: Candidates, seed: int, *, share: Annotated[float, Field(gt=0, le=1)]) -> Selection:
    """All candidates of max(1, round(share · n)) of the n groups: the first ones in the order of a hash.

    A class may get no label; no class lacks one, as none was asked for.
    """
    encoded = candidates.groups.dictionary_encode()
    order = shuffled(seed, encoded.dictionary.to_pylist())
    chosen = order[: max(1, round(share * len(order)))]
    return Selection(np.flatnonzero(np.isin(encoded.indices.to_numpy(), chosen)), {})
