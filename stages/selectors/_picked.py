"""What a selector answers: which of the candidates to label, the best first."""

from typing import NamedTuple

from torch import Tensor


class Picked(NamedTuple):
    """positions: int64 (m,), of the candidates, no one twice; cluster: int64 (m,); density, score: float32 (m,)."""

    positions: Tensor
    cluster: Tensor
    density: Tensor
    score: Tensor
