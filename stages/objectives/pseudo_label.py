"""Pseudo-Label (Lee 2013, ICML workshop): what the network is sure of becomes a label.

    labeled   x ┬ weak ─ logits ┬─ cross-entropy with the label
    unlabeled u ┘               └─ softmax p, kept where max p ≥ threshold ─ cross-entropy with argmax p, over all u

The guess gets no gradient. Its weight grows, as first guesses are bad ones.
"""

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pipeline.params import Count
from stages.methods._method import Batch
from stages.networks.precision import full_precision
from stages.networks.schedule import Growth
from stages.objectives._objective import Objective, Setting, Threshold, label_loss


@full_precision
def self_training(logits: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Mean over all n of 1[max p ≥ τ] CE(argmax p, p) of logits (n, classes); and the share that is kept."""
    confidence, guesses = logits.detach().softmax(1).max(1)
    kept = (confidence >= threshold).to(logits.dtype)
    return (cross_entropy(logits, guesses, reduction="none") * kept).mean(), kept.mean()


class PseudoLabel(Objective):
    """One view an image."""

    def __init__(
        self, network: nn.Module, setting: Setting, *, unlabeled: Count, weight: Growth, threshold: Threshold
    ) -> None:
        super().__init__(network, setting)
        self.unlabeled = unlabeled
        self.weight, self.threshold = weight, threshold

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        [view], known = batch.views, self.labeled(batch)
        labeled, guessed = self.logits(view).tensor_split([known])
        loss, kept = self_training(guessed, self.threshold)
        weight = self.weight.at(batch.progress)
        return {"loss": label_loss(labeled, batch.labels[:known]) + weight * loss, "kept": kept}
