"""Scalars that depend on where the training stands: pure functions of the step, so a resume needs no state."""

import math
from typing import Literal

Schedule = Literal["cosine", "cosine_7_16"]  # what the learning rate does after its warmup


def rate(step: int, *, steps: int, warmup: int, schedule: Schedule) -> float:
    """Factor on the learning rate at `step` of `steps`."""
    return (warmup_cosine if schedule == "cosine" else warmup_cosine_7_16)(step, steps=steps, warmup=warmup)


def warmup_cosine(step: int, *, steps: int, warmup: int) -> float:
    """Linear from 1/warmup to 1, then a half cosine toward 0."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def warmup_cosine_7_16(step: int, *, steps: int, warmup: int) -> float:
    """Linear from 1/warmup to 1, then cos(7πk/16K) toward 0.195 (FixMatch, UDA)."""
    if step < warmup:
        return (step + 1) / warmup
    return math.cos(7 / 16 * math.pi * (step - warmup) / max(1, steps - warmup))
