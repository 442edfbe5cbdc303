"""What a method is: a network with a loss, and nothing about devices, optimizers, loggers or other methods."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Batch:
    """What one step sees: every tensor has the same n images in the same order."""

    views: list[Tensor]  # float (n, 3, h, w), normalized, one entry a view
    index: Tensor  # int64 (n,): which images of the data set these are
    labels: Tensor  # int64 (n,): −1 where the image has no label
    progress: float = 0.0  # how much of the training was done before this step, 0 … 1


def per_size(network: Callable[[Tensor], Tensor], views: Sequence[Tensor]) -> list[Tensor]:
    """The network's output for every view: one forward for neighboring views of one size, normalized as one batch."""
    outputs: list[Tensor] = []
    for _, group in groupby(views, key=lambda view: view.shape[2:]):
        same = list(group)
        outputs += network(torch.cat(same)).chunk(len(same))
    return outputs


class Setting(NamedTuple):
    """What a method may need to know to build itself."""

    features: int  # width of the encoder's output
    images: int  # images in the data set, the range of Batch.index
    rows: Tensor  # int64 (m,): those that the run may see, the only values of Batch.index
    classes: int  # 0 when the method sees no labels
    batch_size: int  # images that a loss compares: those of a piece, of all ranks


class Learner(nn.Module):
    """What the training loop trains: forward gives the loss, after_step moves what has no gradient."""

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """`{"loss": scalar, ...}`; every other entry is a detached scalar for the curves."""
        raise NotImplementedError

    def after_step(self, progress: float) -> None:
        """Called after every optimizer step; `progress` runs from 0 to 1 over the training."""

    def on_epoch_start(self, progress: float, represented: Callable[[], tuple[Tensor, Tensor]]) -> None:
        """Called before the first step of every epoch; what it finds out is kept in buffers.

        `represented()` goes once over the images: the index of each, int64 (m,) as in Batch.index, and what `represent`
        gives of it, (m, d), in eval mode and without augmentation. Who does not call it pays nothing.
        """

    def represent(self, images: Tensor) -> Tensor:
        """Embeddings (n, d) of normalized images (n, 3, h, w), for `on_epoch_start`."""
        raise NotImplementedError


class Method(Learner):
    """Trains `encoder` without being the encoder: what else it owns is thrown away, but for the projector."""

    needs_labels: ClassVar[bool] = False  # its run has to see them
    trains: ClassVar[bool] = True
    starts: ClassVar[Literal["anyhow", "fresh", "from weights"]] = "anyhow"  # what `init` of its run may be
    views: ClassVar[int | range] = 2  # views of an image that forward expects; in a range the first two are the large

    def __init__(self, encoder: nn.Module, setting: Setting) -> None:
        super().__init__()
        self.encoder = encoder
        self.projector: nn.Module | None = None


class Untrained(Method):
    """Has no loss: its run trains for 0 epochs and hands on the encoder as it started."""

    trains = False
    views = 1
