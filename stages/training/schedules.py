"""Scalars that depend on where the training stands: pure functions of the step, so a resume needs no state."""

import math


def warmup_cosine(step: int, *, steps: int, warmup: int) -> float:
    """Factor on the learning rate at `step` of `steps`: linear from 1/warmup to 1, then a half cosine toward 0."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
