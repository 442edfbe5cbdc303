"""What a method is: a network with a loss, and nothing about devices, optimizers, loggers or other methods."""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from torch import Tensor, nn


@dataclass(frozen=True)
class Batch:
    """What one step sees: every tensor has the same n images in the same order."""

    views: list[Tensor]  # float (n, 3, h, w), normalized, one entry a view
    index: Tensor  # int64 (n,): which images of the data set these are
    labels: Tensor  # int64 (n,): −1 where the image has no label


class Setting(NamedTuple):
    """What a method may need to know to build itself."""

    features: int  # width of the encoder's output
    images: int  # images in the data set, the range of Batch.index
    classes: int  # 0 when the method sees no labels
    batch_size: int


class Learner(nn.Module):
    """What the training loop trains: forward gives the loss, after_step moves what has no gradient."""

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """`{"loss": scalar, ...}`; every other entry is a detached scalar for the curves."""
        raise NotImplementedError

    def after_step(self, progress: float) -> None:
        """Called after every optimizer step; `progress` runs from 0 to 1 over the training."""


class Method(Learner):
    """Trains `encoder` without being the encoder: what else it owns is thrown away, but for the projector."""

    needs_labels: ClassVar[bool] = False
    views: ClassVar[int] = 2  # views of an image that forward expects

    def __init__(self, encoder: nn.Module, setting: Setting) -> None:
        super().__init__()
        self.encoder = encoder
        self.projector: nn.Module | None = None
