"""What an objective is: how a pretrained encoder learns from the labels of a budget."""

from torch import Tensor, nn

from stages.methods._method import Learner
from stages.networks.heads import classifier


class Objective(Learner):
    """A network (encoder, perhaps with the first projector layers) under a linear classifier that starts at zero."""

    def __init__(self, network: nn.Module, features: int, classes: int) -> None:
        super().__init__()
        self.network = network
        self.classifier = classifier(features, classes)

    def logits(self, images: Tensor) -> Tensor:
        """Class scores (n, classes) of normalized images."""
        return self.classifier(self.network(images))
