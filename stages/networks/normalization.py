"""Batch normalization over the images of all ranks, on the CPU as on a GPU (torch's SyncBatchNorm: on GPUs only).

    every rank: mean_r, var_r of its values ─ gather ─ mean = mean(mean_r)
                                                       var  = mean(var_r) + mean((mean_r − mean)²)

Ranks hold equally many values, so the merge (Chan, Golub & LeVeque 1983) needs no counts and loses no digits to large
means. Backward sums Σ dy and Σ dy·x̂ over ranks, as Ioffe & Szegedy's gradient (arXiv:1502.03167) has them.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.errors import ParamsError
from stages.networks.gathering import all_rows, collective, ranks

PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d)


def share_normalization(module: nn.Module) -> None:
    """Let every batch normalization in `module` see the images of all ranks; state_dict and weights stay as they are.

    ParamsError for a layer that is a batch normalization and more, whose extra would be lost.
    """
    for name, layer in module.named_modules():
        if type(layer) in PLAIN:
            layer.__class__ = SharedBatchNorm
        elif isinstance(layer, _BatchNorm) and not isinstance(layer, SharedBatchNorm):
            raise ParamsError(
                f"the layer {name} is a {type(layer).__name__}, whose statistics ranks cannot share, only those of "
                "BatchNorm1d and BatchNorm2d: set hardware.ranks to 1, or choose another encoder"
            )


class SharedBatchNorm(_BatchNorm):
    """Values (n, c) or (n, c, …), normalized per channel over those of all ranks; in eval mode the plain layer."""

    def _check_input_dim(self, values: Tensor) -> None: ...

    def forward(self, values: Tensor) -> Tensor:
        if not self.training and self.running_mean is not None:
            return super().forward(values)
        out, mean, var = _Normalize.apply(values, self.weight, self.bias, self.eps)
        if self.training and self.running_mean is not None:
            self._follow(mean, var, count=ranks() * values.numel() // values.shape[1])
        return out

    @torch.no_grad()
    def _follow(self, mean: Tensor, var: Tensor, count: int) -> None:
        """Move the running statistics, which hold the unbiased variance."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        share = self.num_batches_tracked.double().reciprocal() if self.momentum is None else self.momentum
        self.running_mean.mul_(1 - share).add_(mean * share)
        self.running_var.mul_(1 - share).add_(var * (share * count / (count - 1)))


class _Normalize(torch.autograd.Function):
    """Values, weight, bias → normalized values, mean (c,), biased variance (c,) over all ranks."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> tuple[Tensor, ...]:
        exact = x.to(torch.promote_types(x.dtype, torch.float32))
        own = torch.var_mean(exact, dim=[d for d in range(x.ndim) if d != 1], correction=0)
        variances, means = all_rows(torch.stack(own)[None]).unbind(1)
        mean = means.mean(0)
        var = variances.mean(0) + (means - mean).square().mean(0)
        ctx.save_for_backward(x, weight, mean, (var + eps).rsqrt())
        ctx.mark_non_differentiable(mean, var)
        return F.batch_norm(x, mean, var, weight, bias, training=False, eps=eps), mean, var

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, scale = ctx.saved_tensors
        dy = gradients[0]
        dims = [d for d in range(x.ndim) if d != 1]
        shape = [1, -1, *[1] * (x.ndim - 2)]
        exact = dy.to(mean.dtype)
        normal = (x.to(mean.dtype) - mean.view(shape)) * scale.view(shape)
        own = torch.stack([exact.sum(dims), (exact * normal).sum(dims)])
        total = own.clone()
        collective(dist.all_reduce, total)
        shift, tilt = total / (ranks() * x.numel() / x.shape[1])
        slope = scale if weight is None else scale * weight
        dx = (exact - shift.view(shape) - normal * tilt.view(shape)) * slope.view(shape)
        dbias, dweight = (None, None) if weight is None else own
        return dx.to(x.dtype), dweight, dbias, None
