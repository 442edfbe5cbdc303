"""Every random choice of a training from its seed: initial weights, the order of the images, global draws."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


def derived(purpose: str, *numbers: int) -> int:
    """A seed of 63 bits of its own for every purpose and numbers: streams never coincide by arithmetic."""
    words = " ".join([purpose, *map(str, numbers)])
    return int.from_bytes(hashlib.sha256(words.encode()).digest()[:8], "big") >> 1


def shuffled(rows: Tensor, *, seed: int, epoch: int) -> Tensor:
    """The rows in the order of this epoch, whatever came before: a resume needs only the position."""
    generator = torch.Generator().manual_seed(derived("order", seed, epoch))
    return rows[torch.randperm(len(rows), generator=generator)]


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Global torch draws (initial weights, dropout) come from `seed` inside; the caller's streams go on after."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(derived("global", seed))
        yield
