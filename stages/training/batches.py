"""Which images each step sees: a pure function of seed and step, so a resume needs no state and threads read ahead.

    labeled     epoch 0 │ batch │ batch │ rest    epoch 1 │ batch │ batch │ rest    each epoch in an order of its own
    unlabeled   ───────── epoch 0 ─────────┬───────── epoch 1 ─────────┬───  `ratio` batches a step, none left out

Each piece of a batch is its labeled images, then its unlabeled ones. A sighting says which image is seen and, where
that is without its label, how often it was before: row + images · (1 + times). So every time it has other views.
"""

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from stages.training.randomness import derived, shuffled


class Beside(NamedTuple):
    """Images that a training sees without their labels: int64 rows on the host, and how many for one with a label."""

    rows: Tensor
    ratio: int


class Batches:
    """The sightings of every step: `size` of `rows`, and a ratio of those `beside`; `images` are there in all."""

    def __init__(self, rows: Tensor, beside: Beside | None, *, images: int, size: int, pieces: int, seed: int) -> None:
        self.rows, self.beside, self.images, self.size, self.pieces = rows, beside, images, size, pieces
        self.per_epoch = len(rows) // size
        self._order = lru_cache(3)(lambda epoch, device: shuffled(rows, seed=seed, epoch=epoch).to(device))
        self._stream = lru_cache(4)(self._streamed_epoch)  # the next epoch is asked for ahead, and on the device too
        self._stream_seed = derived("unlabeled", seed)

    @property
    def count(self) -> int:
        """How many images a step sees."""
        return self.size * (1 + (self.beside.ratio if self.beside else 0))

    def at(self, step: int, device: torch.device) -> Tensor:
        """The sightings of a step, int64 (count,); to the device goes a whole epoch at once."""
        epoch, position = divmod(step, self.per_epoch)
        batch = self._order(epoch, device)[position * self.size : (position + 1) * self.size]
        if self.beside is None:
            return batch
        number = self.size * self.beside.ratio
        parts = (batch, self._streamed(step * number, (step + 1) * number, device))
        return torch.cat([part.view(self.pieces, -1) for part in parts], 1).flatten()

    def row(self, sightings: Tensor) -> Tensor:
        """The image of each sighting."""
        return sightings % self.images

    def hidden(self, labels: Tensor) -> Tensor:
        """The labels of a piece, int64 (n,), with −1 for the images that are seen without."""
        if self.beside is not None:
            labels[len(labels) // (1 + self.beside.ratio) :] = -1
        return labels

    def _streamed(self, start: int, stop: int, device: torch.device) -> Tensor:
        """Sightings `start` … `stop` - 1 of the stream."""
        assert self.beside
        length = len(self.beside.rows)
        epochs = range(start // length, (stop - 1) // length + 1)
        return torch.cat([self._stream(e, device)[max(0, start - e * length) : stop - e * length] for e in epochs])

    def _streamed_epoch(self, epoch: int, device: torch.device) -> Tensor:
        assert self.beside
        order = shuffled(self.beside.rows, seed=self._stream_seed, epoch=epoch)
        return (order + self.images * (1 + epoch)).to(device)
