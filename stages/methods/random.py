"""No training: the encoder as it was initialized, the floor of every table."""

from torch import Tensor

from pipeline.errors import TrainingError
from stages.methods._method import Batch, Method


class Random(Method):
    """Has no loss; its run trains for 0 epochs."""

    views = 1

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        raise TrainingError("the method `random` is not trained: set its training.epochs to 0")
