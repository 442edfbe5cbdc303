"""FixMatch (Sohn et al. 2020, arXiv:2001.07685): what is said of a weak view, if surely, is the label of a strong one.

    labeled   x ─ weak ─── logits ─ cross-entropy with the label
    unlabeled u ┬ weak ─── logits ─ softmax p, kept where max p ≥ threshold ─ argmax p ┐
                └ strong ─ logits ─────────────────────────────────────────────────────┴─ cross-entropy, over all u

One batch for all three; the weak view of u gets no gradient. The average of the weights is judged. It looks at the weak
views as well, as batch normalization needs statistics that go with averaged weights.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pipeline.params import Count, NonNegative, Probability
from stages.methods._method import Batch
from stages.networks.precision import full_precision
from stages.networks.teacher import Average
from stages.objectives._objective import Objective, Setting, Threshold, label_loss


@full_precision
def agreement(weak: Tensor, strong: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Equation 4: mean over all n of 1[max p ≥ τ] CE(argmax p, q) of logits (n, classes); and the share kept."""
    confidence, guesses = weak.detach().softmax(1).max(1)
    kept = (confidence >= threshold).to(strong.dtype)
    return (cross_entropy(strong, guesses, reduction="none") * kept).mean(), kept.mean()


class FixMatch(Objective):
    """A weak and a strong view an image; of labeled images only the weak one is looked at."""

    views = ("weak", "strong")

    def __init__(
        self,
        network: nn.Module,
        setting: Setting,
        *,
        unlabeled: Count,
        weight: NonNegative,
        threshold: Threshold,
        momentum: Probability,
    ) -> None:
        super().__init__(network, setting)
        self.unlabeled = unlabeled
        self.weight, self.threshold = weight, threshold
        self.average = Average(self.network, self.classifier, momentum=momentum)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        [weak, strong], known = batch.views, self.labeled(batch)
        logits = self.logits(torch.cat([weak, strong[known:]]))
        labeled, guessing, guessed = logits.tensor_split([known, len(weak)])
        loss, kept = agreement(guessing, guessed, self.threshold)
        self.average(weak)
        return {"loss": label_loss(labeled, batch.labels[:known]) + self.weight * loss, "kept": kept}

    def after_step(self, progress: float) -> None:
        self.average.add(self.network, self.classifier)

    def result(self) -> nn.Module:
        return nn.Sequential(*self.average.copies)
