"""What an objective is: how a pretrained encoder learns from the labels of a budget."""

from torch import Tensor, nn

from stages.methods._method import Batch
from stages.networks.heads import classifier


class Objective(nn.Module):
    """A network (encoder, perhaps with the first projector layer) under a linear classifier that starts at zero."""

    def __init__(self, network: nn.Module, features: int, classes: int) -> None:
        super().__init__()
        self.network = network
        self.classifier = classifier(features, classes)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """`{"loss": scalar, ...}`, as a method's."""
        raise NotImplementedError

    def after_step(self, progress: float) -> None:
        """Called after every optimizer step; `progress` runs from 0 to 1 over the training."""

    def logits(self, images: Tensor) -> Tensor:
        """Class scores (n, classes) of normalized images."""
        return self.classifier(self.network(images))
