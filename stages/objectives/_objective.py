"""What an objective is: how a pretrained encoder learns from the labels of a budget, and from images without."""

from typing import Annotated, ClassVar, Literal, NamedTuple

from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from stages.methods._method import Batch, Learner
from stages.networks.heads import classifier
from stages.networks.precision import full_precision

Role = Literal["weak", "strong"]
Threshold = Annotated[float, Field(gt=0, le=1)]  # the probability from which on a guess counts


@full_precision
def label_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of logits (n, classes) and labels, int64 (n,)."""
    return cross_entropy(logits, labels)


class Setting(NamedTuple):
    """What an objective may need to know to build itself."""

    features: int  # width of what the classifier gets
    classes: int
    teacher: nn.Module | None  # images → class scores, of the finetune that params.yaml names


class Objective(Learner):
    """A network (encoder, perhaps with the first projector layers) under a linear classifier that starts at zero."""

    views: ClassVar[tuple[Role, ...]] = ("weak",)  # of an image, in this order
    has_teacher: ClassVar[bool] = False  # whether it learns from another finetune's network
    unlabeled: int = 0  # images without label that it sees for each one with

    def __init__(self, network: nn.Module, setting: Setting) -> None:
        super().__init__()
        self.network = network
        self.classifier = classifier(setting.features, setting.classes)

    def logits(self, images: Tensor) -> Tensor:
        """Class scores (n, classes) of normalized images."""
        return self.classifier(self.network(images))

    def labeled(self, batch: Batch) -> int:
        """How many images of the batch have a label; they come first."""
        return len(batch.labels) // (1 + self.unlabeled)

    def result(self) -> nn.Module:
        """What is judged and kept after the training: the network, then the classifier."""
        return nn.Sequential(self.network, self.classifier)
