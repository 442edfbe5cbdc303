"""Losses are computed in full precision, also where autocast computes the networks in bf16.

A similarity divided by a small temperature is off by 1 % in bf16, and so is a covariance.
"""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

P = ParamSpec("P")
R = TypeVar("R")


def full_precision(loss: Callable[P, R]) -> Callable[P, R]:
    """Decorate a loss: without autocast, its tensors in float32, or float64 where they are. A tensor comes first."""

    @wraps(loss)
    def in_full_precision(*args: P.args, **kwargs: P.kwargs) -> R:
        with torch.autocast(args[0].device.type, enabled=False):  # type: ignore[attr-defined]
            return loss(*map(_exact, args), **{name: _exact(value) for name, value in kwargs.items()})  # type: ignore[arg-type]

    return in_full_precision


def _exact(value: object) -> object:
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.to(torch.promote_types(value.dtype, torch.float32))
    return value


@full_precision
def unit(rows: Tensor) -> Tensor:
    """Rows (…, d) on the unit sphere, in full precision."""
    return normalize(rows, dim=-1)
