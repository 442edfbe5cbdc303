"""Every random choice of a training from its seed: initial weights, the order of the images, global draws."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

_ORDER, _INITIAL = 1, 2  # one stream a purpose


def shuffled(rows: Tensor, *, seed: int, epoch: int) -> Tensor:
    """The rows in the order of this epoch, whatever came before: a resume needs only the position."""
    generator = torch.Generator().manual_seed(_stream(seed, _ORDER, epoch))
    return rows[torch.randperm(len(rows), generator=generator)]


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Global torch draws (initial weights, dropout) come from `seed` inside; the caller's stream goes on after."""
    with torch.random.fork_rng():
        torch.manual_seed(_stream(seed, _INITIAL, 0))
        yield


def _stream(seed: int, purpose: int, number: int) -> int:
    return (seed * 0x9E3779B1 + purpose * 0x85EBCA77 + number * 0xC2B2AE3D) % 2**63
