"""S4L with rotation (Zhai et al. 2019, arXiv:1905.03670): to tell how an image is turned helps where labels are few.

    labeled   x ┬ weak ─ 0°, 90°, 180°, 270° ─ network ┬─ classifier ─ cross-entropy with the label, x only
    unlabeled u ┘                                      └─ linear ─ cross-entropy with the turn, x and u

Four images a view. Views that are turned already would blur the question.
"""

from torch import Tensor, nn

from pipeline.params import Count, NonNegative
from stages.methods._method import Batch
from stages.networks.heads import classifier
from stages.networks.turns import TURNS, turn_loss, turned
from stages.objectives._objective import Objective, Setting, label_loss


class S4L(Objective):
    """One view an image; the classifier of turns is thrown away."""

    def __init__(self, network: nn.Module, setting: Setting, *, unlabeled: Count, weight: NonNegative) -> None:
        super().__init__(network, setting)
        self.unlabeled = unlabeled
        self.weight = weight
        self.turns = classifier(setting.features, TURNS)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        features = self.network(turned(batch.views[0]))
        labels = batch.labels[: self.labeled(batch)].repeat_interleave(TURNS)
        supervised = label_loss(self.classifier(features[: len(labels)]), labels)
        turns = turn_loss(self.turns(features))
        return {"loss": supervised + self.weight * turns, "turns": turns.detach()}
