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


def early(step: int, momentum: float) -> float:
    """Mean Teacher's momentum after step 0, 1, …: min(1 − 1/(step + 1), m), at first the plain mean of all weights."""
    return min(1 - 1 / (step + 1), momentum)


class Average(Teacher):
    """A teacher that counts its steps and follows with `early`'s momentum; 1: the plain mean to the end.

    Statistics of averaged weights are no average of statistics: it needs batches of its own, in train mode.
    """

    def __init__(self, *modules: nn.Module, momentum: float) -> None:
        super().__init__(*modules)
        self.momentum = momentum
        self.steps = 0

    @torch.no_grad()
    def add(self, *modules: nn.Module) -> None:
        """Move towards the modules that it was copied from."""
        self.follow(*modules, momentum=early(self.steps, self.momentum))
        self.steps += 1

    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.steps)

    def set_extra_state(self, state: Tensor) -> None:
        self.steps = int(state)


class Frozen:
    """A network that is given and stays: no part of who asks it, nor of its state; in eval mode, without gradient."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network.eval().requires_grad_(False)

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        return self.network(x)
