"""Steps: what is done to the views of a batch, drawn for all of it and done to a piece at a time.

The draws of a batch are many small operations and its views few large ones, so the former are made once, and the latter
on pieces that fit a CPU's cache.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stages.views._draws import Source
from stages.views._operations import Pixels, as_floats

PIECE = 2**20  # float32 values, of the images or of their views, that are in work at once on a CPU
LARGE_PIECE = 2**28  # and on an accelerator: 1 GiB, and a few times that in between


class Step(NamedTuple):
    """An operation and its parameters, a tensor or a tuple of them with one row for every view."""

    operation: Callable[[Tensor, Any], Tensor]
    parameters: Any
    where: Tensor | None  # bool, the views that it changes; the parameters of the others are neutral. None: all

    def of(self, views: Tensor) -> "Step":
        """The same for some views: int64, where they stand among all."""
        return Step(self.operation, _rows(self.parameters, views), None if self.where is None else self.where[views])

    def done_to(self, views: Tensor) -> Tensor:
        """The views after it. On a CPU the others are passed over; elsewhere this would mean waiting for them."""
        if self.where is None or views.device.type != "cpu":
            return self.operation(views, self.parameters)
        if len(rows := self.where.nonzero()[:, 0]):
            views[rows] = self.operation(views.index_select(0, rows), _rows(self.parameters, rows))
        return views


def _rows(parameters: Any, rows: Tensor) -> Any:
    if isinstance(parameters, Tensor):
        return parameters.index_select(0, rows)
    return type(parameters)(*(None if part is None else part.index_select(0, rows) for part in parameters))


def render(images: Pixels, source: Source, size: int, steps: Sequence[Step | None], count: int) -> list[Tensor]:
    """`count` views of each of n images, float32 (n, 3, size, size) in [0, 1], channels last.

    The parameters of the steps are for count · n views: the first of every image, then the second of every image, …;
    the first step takes the n images and gives the views. A step that is off is None.
    """
    values, device = images.values, images.values.device
    if len(values) != len(source.index):
        raise ValueError(f"{len(values)} images need as many indices, not {len(source.index)}")
    views = torch.empty(count, len(values), size, size, 3, device=device).permute(0, 1, 4, 2, 3)
    places = torch.arange(count * len(values), device=device).view(count, -1)
    largest = max(1, views[:, :1].numel(), values[:1].numel())
    at_once = max(1, (PIECE if device.type == "cpu" else LARGE_PIECE) // largest)
    for start in range(0, len(values), at_once):
        piece = slice(start, start + at_once)
        made = as_floats(values[piece])
        for step in filter(None, steps):
            made = step.of(places[:, piece].flatten()).done_to(made)
        views[:, piece] = made.unflatten(0, (count, -1))
    return list(views)
