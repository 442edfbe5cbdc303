"""Random numbers without a generator: each is a hash of what it is for.

    (seed, epoch, view, image index) → state        draw k = SplitMix64's k-th output from that state

So an image's draws depend neither on the batch it is in nor on the worker, rank or device that asks. Integers wrap
around at 64 bits and a uniform keeps the 24 high bits, which float32 holds exactly: all devices agree to the bit.
Source: Steele, Lea & Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014 (SplitMix64).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

# SplitMix64's constants as signed 64-bit integers
GOLDEN = 0x9E3779B97F4A7C15 - 2**64
FIRST = 0xBF58476D1CE4E5B9 - 2**64
SECOND = 0x94D049BB133111EB - 2**64


def splitmix64(state: Tensor) -> Tensor:
    """The output that follows `state` (int64, any shape), of the same shape."""
    z = state + GOLDEN
    z = (z ^ _shifted(z, 30)) * FIRST
    z = (z ^ _shifted(z, 27)) * SECOND
    return z ^ _shifted(z, 31)


def _shifted(z: Tensor, bits: int) -> Tensor:
    """Logical right shift: torch's keeps the sign."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


class Draws:
    """A stream of draws for each of n images; every call takes the next numbers of all streams.

    `index`: int64 (n,), where each image stands in its data set; `view`: one for all, or int64 (n,).
    """

    def __init__(self, seed: int, epoch: int, view: int | Tensor, index: Tensor):
        if index.dtype != torch.int64 or index.ndim != 1:
            raise TypeError(f"image indices must be torch.int64 of shape (n,), not {index.dtype} {tuple(index.shape)}")
        state = splitmix64(splitmix64(torch.tensor(seed)) ^ epoch)
        self._state = splitmix64(splitmix64(state ^ view) ^ index)
        self._drawn = 0

    def uniform(self, low: float, high: float) -> Tensor:
        """float32 (n,) in [low, high)."""
        return self.uniforms(low, high, 1)[:, 0]

    def uniforms(self, low: float, high: float, count: int) -> Tensor:
        """float32 (n, count) in [low, high)."""
        return self._integers(count).to(torch.float32) * 2.0**-24 * (high - low) + low

    def bernoulli(self, *probability: float) -> Tensor:
        """Whether, bool (n,): true with the given probability, one for all or one for each of the stacked views."""
        parts = self.uniform(0, 1).chunk(len(probability))
        return torch.cat([part < chance for part, chance in zip(parts, probability, strict=True)])

    def integers(self, bound: int | Tensor) -> Tensor:
        """int64 (n,) in 0 … bound - 1; a bound per image is int64 (n,) of at most 2²⁴."""
        return (self._integers(1)[:, 0] * bound) >> 24

    def permutation(self, length: int) -> Tensor:
        """int64 (n, length): an order of 0 … length - 1 for each image."""
        return self._integers(length).argsort(dim=1, stable=True)

    def _integers(self, count: int) -> Tensor:
        """int64 (n, count) in 0 … 2²⁴ - 1."""
        first, self._drawn = self._drawn, self._drawn + count
        steps = torch.arange(first, self._drawn, device=self._state.device) * GOLDEN
        return _shifted(splitmix64(self._state[:, None] + steps), 40)


@dataclass(frozen=True)
class Source:
    """Where the draws of one batch come from; `index` is int64 (n,) on the device where the images are."""

    seed: int
    epoch: int
    index: Tensor

    def view(self, view: int) -> Draws:
        """The draws of one view of the n images."""
        return Draws(self.seed, self.epoch, view, self.index)

    def views(self, count: int, first: int) -> Draws:
        """The draws of views first … first + count - 1, stacked: image i of the v-th stands at v·n + i."""
        view = torch.arange(first, first + count, device=self.index.device).repeat_interleave(len(self.index))
        return Draws(self.seed, self.epoch, view, self.index.repeat(count))
