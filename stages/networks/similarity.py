"""Sums over a similarity matrix that is never held whole: memory grows with the batch, not with its square.

s_ij = z_i·z_j / τ        out_i = log Σ_{j≠i} exp s_ij        p_ij = exp(s_ij − out_i), p_ii = 0

∂/∂z = (diag(g) p + (diag(g) p)ᵀ) z / τ        for the gradient g of out; p is computed again, a slab at a time
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

SLAB = 2**24  # similarities held at a time: 64 MiB in float32


def log_sum_exp_of_others(z: Tensor, temperature: float) -> Tensor:
    """Log Σ_{j≠i} exp(z_i·z_j / τ) of every row of z (n, d), as (n,); the gradient is exact."""
    return _LogSumExpOfOthers.apply(z, temperature)


class _LogSumExpOfOthers(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, temperature: float) -> Tensor:
        out = torch.cat([slab.logsumexp(1) for _, slab in _slabs(z, temperature)])
        ctx.save_for_backward(z, out)
        ctx.temperature = temperature
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        [g] = gradients
        z, out = ctx.saved_tensors
        dz = torch.zeros_like(z)
        for rows, slab in _slabs(z, ctx.temperature):
            weighted = slab.sub_(out[rows, None]).exp_().mul_(g[rows, None])
            dz[rows] += weighted @ z
            dz += weighted.T @ z[rows]
        return dz / ctx.temperature, None


def _slabs(z: Tensor, temperature: float) -> Iterator[tuple[slice, Tensor]]:
    """Rows of the similarity matrix with −∞ on the diagonal, as many at a time as SLAB allows."""
    step = max(1, SLAB // len(z))
    for start in range(0, len(z), step):
        rows = slice(start, min(start + step, len(z)))
        slab = z[rows] @ z.T / temperature
        slab.diagonal(start).fill_(float("-inf"))
        yield rows, slab
