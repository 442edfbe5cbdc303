"""Embeddings of earlier steps: negatives and neighbors beyond the batch."""

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from pipeline.errors import ParamsError


class RingQueue(nn.Module):
    """The last `size` rows (size, width) that were pushed, all on the unit sphere; starts with random directions.

    `step` is how many rows are pushed at a time; ParamsError unless the queue holds a whole number of that.
    """

    rows: Tensor
    pointer: Tensor  # int64 (): where the next row goes, that of the oldest one

    def __init__(self, size: int, width: int, *, step: int) -> None:
        super().__init__()
        if size % step:
            down = size // step * step
            near = f"{down} or {down + step}" if down else f"{step} or a multiple of it"
            raise ParamsError(
                f"params.yaml: a queue of {size} embeddings is no multiple of the {step} that it takes at a time, one "
                f"an image of the batch or of its pieces (accumulate): make it {near}"
            )
        self.register_buffer("rows", normalize(torch.randn(size, width), dim=1))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def push(self, rows: Tensor) -> None:
        """Put unit rows (n, width), n at most the size, in the place of the oldest ones."""
        assert len(rows) <= len(self.rows), "a row would be overwritten by another one of the same push"
        places = (self.pointer + torch.arange(len(rows), device=rows.device)) % len(self.rows)
        self.rows.index_copy_(0, places, rows.to(self.rows.dtype))
        self.pointer.copy_((self.pointer + len(rows)) % len(self.rows))


class Bank(nn.Module):
    """A unit row for each image of `index`, int64 (m,): V_i ← momentum·V_i + (1 − momentum)·f_i, back on the sphere.

    Starts with random rows (NPID's official code draws them from a cube of the same mean length). Of the `images` of
    the data set, those that are not in `index` have no row.
    """

    rows: Tensor  # (m, width)
    index: Tensor  # int64 (m,): the image of each row
    places: Tensor  # int64 (images,): the row of each image, −1 where it has none

    def __init__(self, images: int, index: Tensor, width: int, *, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("rows", normalize(torch.rand(len(index), width) * 2 - 1, dim=1))
        places = torch.full((images,), -1).index_copy(0, index, torch.arange(len(index)))
        self.register_buffer("index", index.clone(), persistent=False)  # given, not learned
        self.register_buffer("places", places, persistent=False)

    @torch.no_grad()
    def update(self, index: Tensor, rows: Tensor) -> None:
        """Move the rows of the images int64 (n,), all different, towards rows (n, width)."""
        places = self.places[index]
        moved = torch.lerp(rows.to(self.rows.dtype), self.rows[places], self.momentum)
        self.rows.index_copy_(0, places, normalize(moved, dim=1))
