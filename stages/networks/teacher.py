"""A teacher: a copy of the trained network that gets no gradient and follows it slowly.

    x ─ copy of the encoder ─ copy of the projector → target        θ' ← m θ' + (1 − m) θ after every step

Its batch normalization is as its mode says: while a method trains it normalizes by the batch, with statistics of its
own, as in BYOL and MoCo. Only parameters follow.
"""

import copy

import torch
from torch import Tensor, nn


class Teacher(nn.Module):
    """A frozen copy of `modules`, one after the other."""

    def __init__(self, *modules: nn.Module) -> None:
        super().__init__()
        self.copies = nn.ModuleList(copy.deepcopy(module) for module in modules).requires_grad_(False)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        for module in self.copies:
            x = module(x)
        return x

    @torch.no_grad()
    def follow(self, *modules: nn.Module, momentum: float) -> None:
        """Move towards the modules that it was copied from: momentum 1 stays, momentum 0 copies."""
        online: list[Tensor] = [p for module in modules for p in module.parameters()]
        torch._foreach_lerp_(list(self.parameters()), online, 1 - momentum)
