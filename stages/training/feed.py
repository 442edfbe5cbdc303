"""The images of every batch, on the device, before the training asks for them.

    resident   packed pixels that fill little of a GPU's memory live there; a batch is gathered there
    mapped     packed pixels on a CPU are gathered from the memory map
    streamed   all else: threads read and decode the next batches into pinned memory, which the GPU copies from

Which of them it is changes no bit, nor does the number of threads: each gives the same images for the same rows. The
host holds a few batches, however large the data set.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipeline.hardware import cores
from stages.datasets._storage import Encoded, Packed, Stored
from stages.views._operations import Pixels

LOOK_AHEAD = 3  # batches that are read before they are asked for, at most
HELD = 2**29  # bytes of read batches from which on only one more is begun
PIECE = 16  # images that a thread reads in one go
THREADS = 16  # at most: more of them wait for the interpreter rather than decode
SHARE = 0.25  # of the free memory of a GPU that may become resident


@dataclass(frozen=True, eq=False)
class Resident:
    """Packed pixels on a GPU: uint8 (n, h, w, 3)."""

    pixels: Tensor

    def __len__(self) -> int:
        return len(self.pixels)


Store = Stored | Resident


def placed(images: Stored, device: torch.device) -> Store:
    """The images where the batches of `device` should come from; once for all trainings of a stage."""
    if device.type != "cuda" or isinstance(images, Encoded):
        return images
    free, _ = torch.cuda.mem_get_info(device)
    if images.bytes > SHARE * free:
        return images
    pixels = torch.empty((len(images), *images.canvas, 3), dtype=torch.uint8, device=device)
    for part, rows in zip(pixels.split(2**12), torch.arange(len(images)).split(2**12), strict=True):
        part.copy_(fetched(images, rows, device).values)
    return Resident(pixels)


def fetched(images: Store, rows: Tensor, device: torch.device) -> Pixels:
    """The images at `rows` on the device, here and now."""
    if isinstance(images, Resident):
        return Pixels(images.pixels[rows.to(device)], None)
    pixels, extents = images.read(rows.numpy())
    return _on(device, Pixels(torch.from_numpy(pixels), None if extents is None else torch.from_numpy(extents)))


def in_order(images: Store, rows: Tensor, count: int, device: torch.device) -> Iterator[Pixels]:
    """The images at `rows` on the device, `count` at a time."""
    parts = rows.split(count)
    with Feed(images, lambda step: parts[step] if step < len(parts) else rows[:0], device) as feed:
        for step in range(len(parts)):
            yield feed.take(step)


class Feed:
    """The batches of one training; close it, or use it in a `with`.

    rows_of: step → int64 rows of its batch on the host, a pure function; none after the last step.
    A step that is not the next one (a resume, a replay) starts the reading ahead anew.
    """

    def __init__(self, images: Store, rows_of: Callable[[int], Tensor], device: torch.device) -> None:
        self.images, self.rows_of, self.device = images, rows_of, device
        self._reader: Reader | None = None
        if isinstance(images, Encoded) or (isinstance(images, Packed) and device.type == "cuda"):
            self._reader = Reader(images, pinned=device.type == "cuda")

    def take(self, step: int, here: Tensor | None = None) -> Pixels:
        """The images of a step, on the device; what a thread met while it read them is raised here.

        here: the rows of the step where they are on the device already, or a GPU would wait for them.
        """
        if self._reader is None:
            return fetched(self.images, self.rows_of(step) if here is None else here, self.device)
        return _on(self.device, self._reader.take(step, self.rows_of))

    def close(self) -> None:
        """Read no further: what has begun is finished (a few images), the rest is not begun."""
        if self._reader is not None:
            self._reader.close()

    def __enter__(self) -> "Feed":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Batch(NamedTuple):
    """A batch that is being read: complete when all its pieces are."""

    step: int
    pixels: Pixels
    pieces: list[Future[None]]


class Reader:
    """Threads that read ahead, the batches of coming steps after the one that is asked for."""

    def __init__(self, images: Stored, pinned: bool) -> None:
        self._images, self._pinned = images, pinned
        ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # the processes that share the cores
        self._pool = ThreadPoolExecutor(max(1, min(THREADS, cores() // ranks)), "reader")
        self._ahead: deque[Batch] = deque()

    def take(self, step: int, rows_of: Callable[[int], Tensor]) -> Pixels:
        """The images of a step, on the host."""
        if not self._ahead or self._ahead[0].step != step:
            self._drop()
        while self._has_room():
            coming = step + len(self._ahead)
            rows = rows_of(coming)
            if not len(rows):
                break
            self._ahead.append(self._begin(coming, rows))
        batch = self._ahead.popleft()
        for piece in batch.pieces:
            piece.result()
        return batch.pixels

    def close(self) -> None:
        self._drop()
        self._pool.shutdown()

    def _has_room(self) -> bool:
        held = sum(batch.pixels.values.nbytes for batch in self._ahead)
        return len(self._ahead) < 2 or (len(self._ahead) <= LOOK_AHEAD and held < HELD)

    def _begin(self, step: int, rows: Tensor) -> Batch:
        shape = (len(rows), *self._images.canvas, 3)
        values = torch.empty(shape, dtype=torch.uint8, pin_memory=self._pinned)
        extents = torch.empty((len(rows), 2), dtype=torch.int64, pin_memory=self._pinned)
        pixels = Pixels(values, extents if isinstance(self._images, Encoded) else None)
        pieces = zip(pixels.split(PIECE), rows.split(PIECE), strict=True)
        return Batch(step, pixels, [self._pool.submit(self._fill, piece, part.numpy()) for piece, part in pieces])

    def _fill(self, piece: Pixels, rows: np.ndarray) -> None:
        extents = self._images.fill(rows, piece.values.numpy())
        if piece.extents is not None:
            piece.extents.numpy()[:] = extents

    def _drop(self) -> None:
        for batch in self._ahead:
            for piece in batch.pieces:
                piece.cancel()
        self._ahead.clear()


def _on(device: torch.device, images: Pixels) -> Pixels:
    extents = None if images.extents is None else images.extents.to(device, non_blocking=True)
    return Pixels(images.values.to(device, non_blocking=True), extents)
