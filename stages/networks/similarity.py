"""Sums over a similarity matrix that is never held whole: memory grows with the batch, not with its square.

s_ij = z_i·z_j / τ        out_i = log Σ_{j≠i} exp s_ij        p_ij = exp(s_ij − out_i), p_ii = 0

∂/∂z_i = Σ_j w_ij z_j / τ        w_ij = g_i p_ij + g_j p_ji        for the gradient g of out

p is computed again, a slab of rows at a time; s is symmetric, so p_ji = exp(s_ij − out_j) comes from the same slab.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

SLAB = 2**22  # similarities held at a time: 16 MiB in float32; less or more is slower


def log_sum_exp_of_others(z: Tensor, temperature: float) -> Tensor:
    """Log Σ_{j≠i} exp(z_i·z_j / τ) of every row of z (n, d), as (n,); the gradient is exact."""
    return _LogSumExpOfOthers.apply(z, temperature)


class _LogSumExpOfOthers(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, temperature: float) -> Tensor:
        out = z.new_empty(len(z))
        for rows, slab in _slabs(z, temperature):
            most = slab.amax(1)
            out[rows] = slab.sub_(most[:, None]).exp_().sum(1).log_().add_(most)
        ctx.save_for_backward(z, out)
        ctx.temperature = temperature
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        [g] = gradients
        z, out = ctx.saved_tensors
        dz, transposed = torch.empty_like(z), _slab(z)
        for rows, slab in _slabs(z, ctx.temperature):
            other = torch.sub(slab, out, out=transposed[: len(slab)]).exp_().mul_(g)
            weights = slab.sub_(out[rows, None]).exp_().mul_(g[rows, None]).add_(other)
            torch.mm(weights, z, out=dz[rows])
        return dz / ctx.temperature, None


def _slab(z: Tensor) -> Tensor:
    """Room for as many rows of the similarity matrix as SLAB allows."""
    return z.new_empty(min(len(z), max(1, SLAB // len(z))), len(z))


def _slabs(z: Tensor, temperature: float) -> Iterator[tuple[slice, Tensor]]:
    """Rows of the similarity matrix with −∞ on the diagonal, one slab after the other in the same place."""
    scaled, room = z / temperature, _slab(z)
    for start in range(0, len(z), len(room)):
        rows = slice(start, min(start + len(room), len(z)))
        slab = torch.mm(scaled[rows], z.T, out=room[: rows.stop - start])
        slab.diagonal(start).fill_(float("-inf"))
        yield rows, slab
