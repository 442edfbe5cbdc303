"""What the ranks of a training see of each other: the rows of all, in the order of the whole batch.

    rank 0: x₀ ┐                       every rank then computes the same loss of the same rows, and
    rank 1: x₁ ┴─ gather ─ (x₀, x₁)    dL/dx₁ on rank 1 is its slice of dL/d(x₀, x₁)

The slice is all: the loss of another rank is this very loss, not a second one. The training sums the gradients of the
weights over ranks. Both together give what one process would compute on the whole batch, whatever the loss is.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from pipeline.errors import RankLost


def ranks() -> int:
    """How many processes train together; 1 outside a training that is shared."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Which of them this one is; 0 runs the stage."""
    return dist.get_rank() if dist.is_initialized() else 0


def gather(x: Tensor) -> Tensor:
    """The rows (n, …) of every rank as (ranks · n, …), x itself where there is one; gradient goes to the own rows."""
    return x if ranks() == 1 else _Gather.apply(x)


def all_rows(x: Tensor) -> Tensor:
    """As `gather`, without gradient."""
    rows = x.new_empty(ranks() * len(x), *x.shape[1:])
    collective(dist.all_gather, list(rows.chunk(ranks())), x.contiguous())
    return rows


def collective(operation: Callable[..., Any], *tensors: Any, **options: Any) -> None:
    """An operation of all ranks; RankLost if one of them is gone."""
    try:
        operation(*tensors, **options)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise RankLost(f"another rank of this training is gone ({str(error).splitlines()[0]})") from error


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.rows = slice(rank() * len(x), (rank() + 1) * len(x))
        return all_rows(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        [g] = gradients
        return g[ctx.rows]
