"""Optimizers of the field, with its exclusions: biases and normalization get neither weight decay nor a trust ratio."""

from collections.abc import Iterable
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from pipeline.params import Block, NonNegative, Positive, Probability

Beta = Annotated[float, Field(ge=0, lt=1)]


class Sgd(Block):
    """Momentum SGD; `learning_rate` is per 256 images of the batch."""

    name: Literal["sgd"]
    learning_rate: Positive
    momentum: Probability
    nesterov: bool
    weight_decay: NonNegative

    @model_validator(mode="after")
    def _has_momentum(self) -> "Sgd":
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs a momentum above 0")
        return self


class Lars(Block):
    """Layer-wise adaptive rates; `learning_rate` is per 256 images of the batch, `trust` the paper's η."""

    name: Literal["lars"]
    learning_rate: Positive
    momentum: Probability
    weight_decay: NonNegative
    trust: Positive


class AdamW(Block):
    """Adam with decoupled decay (Loshchilov & Hutter 2019, arXiv:1711.05101), for transformers.

    `learning_rate` is per 256 images of the batch; `betas` are those of the gradient's mean and square.
    """

    name: Literal["adamw"]
    learning_rate: Positive
    betas: tuple[Beta, Beta]
    weight_decay: NonNegative


Optimizer = Annotated[Sgd | Lars | AdamW, Field(discriminator="name")]


def make_optimizer(module: nn.Module, settings: Sgd | Lars | AdamW) -> torch.optim.Optimizer:
    """Two parameter groups: weights of two and more dimensions, and the excluded 1-D rest."""
    trained = [p for p in module.parameters() if p.requires_grad]
    weights = [p for p in trained if p.ndim > 1]
    excluded = [p for p in trained if p.ndim <= 1]
    groups: list[dict[str, Any]] = [
        {"params": weights, "weight_decay": settings.weight_decay, "adapt": True},
        {"params": excluded, "weight_decay": 0.0, "adapt": False},
    ]
    groups = [group for group in groups if group["params"]]
    if isinstance(settings, Lars):
        return LARS(groups, momentum=settings.momentum, trust=settings.trust)
    if isinstance(settings, AdamW):
        return torch.optim.AdamW(groups, lr=0.0, betas=settings.betas, foreach=True)
    return torch.optim.SGD(groups, lr=0.0, momentum=settings.momentum, nesterov=settings.nesterov, foreach=True)


class LARS(torch.optim.Optimizer):
    """LARS (You et al. 2017, arXiv:1708.03888) as SimCLR uses it, over all tensors at once and without a sync.

        g' = g + weight_decay · w,   r = η |w| / |g'| (1 where either norm is 0),   v ← m v + lr · r · g',   w ← w − v

    Groups with `adapt: False` take r = 1. The learning rate is set on the groups before every step.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], *, momentum: float, trust: float, lr: float = 0.0) -> None:
        super().__init__(groups, {"lr": lr, "momentum": momentum, "trust": trust, "weight_decay": 0.0, "adapt": True})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # no closure: nothing here re-evaluates
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            weights = [p for p in group["params"] if p.grad is not None]
            if weights:
                self._update(group, weights)

    def _update(self, group: dict[str, Any], weights: list[Tensor]) -> None:
        gradients: list[Tensor] = [p.grad for p in weights if p.grad is not None]
        for p in weights:
            if "momentum" not in self.state[p]:
                self.state[p]["momentum"] = torch.zeros_like(p)
        velocities = [self.state[p]["momentum"] for p in weights]
        if group["weight_decay"]:
            gradients = list(torch._foreach_add(gradients, weights, alpha=group["weight_decay"]))
        steps = torch._foreach_mul(gradients, group["lr"])
        if group["adapt"]:
            torch._foreach_mul_(steps, _trust(weights, gradients, group["trust"]))
        torch._foreach_mul_(velocities, group["momentum"])
        torch._foreach_add_(velocities, steps)
        torch._foreach_sub_(weights, velocities)


def _trust(weights: list[Tensor], gradients: list[Tensor], trust: float) -> list[Tensor]:
    w = torch.stack(torch._foreach_norm(weights))
    g = torch.stack(torch._foreach_norm(gradients))
    ratio = torch.where((w > 0) & (g > 0), trust * w / g, torch.ones_like(w))
    return list(ratio.unbind())
