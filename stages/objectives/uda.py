"""UDA (Xie et al. 2020, arXiv:1904.12848): a strong view is to be told as the original, more sharply, was.

    labeled   x ─ weak ─── logits ─ cross-entropy with the label, of images that are not yet sure (annealing)
    unlabeled u ┬ weak ─── logits t ─ softmax(t / T), kept where max softmax(t) > threshold ┐
                └ strong ─ logits s ─ softmax(s) ───────────────────────────────────────────┴─ KL, over all u

One batch for all three; the weak view of u gets no gradient.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pipeline.params import Count, NonNegative, Positive
from stages.methods._method import Batch
from stages.networks.precision import full_precision
from stages.networks.schedule import Annealing
from stages.objectives._objective import Objective, Setting, Threshold


@full_precision
def divergence(weak: Tensor, strong: Tensor, temperature: float, threshold: float) -> tuple[Tensor, Tensor]:
    """Mean over all n of 1[max softmax(t) > τ] KL(softmax(t/T) ‖ softmax(s)), logits (n, classes); the share kept."""
    weak = weak.detach()
    target = (weak / temperature).log_softmax(1)
    kept = (weak.softmax(1).amax(1) > threshold).to(strong.dtype)
    return ((target.exp() * (target - strong.log_softmax(1))).sum(1) * kept).mean(), kept.mean()


@full_precision
def annealed(logits: Tensor, labels: Tensor, most: float) -> Tensor:
    """Cross-entropy of the images whose own class has at most the probability `most`, by their number or 1."""
    losses = cross_entropy(logits, labels, reduction="none")
    unsure = ((-losses.detach()).exp() <= most).to(losses.dtype)
    return (losses * unsure).sum() / unsure.sum().clamp_min(1)


class UDA(Objective):
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
        temperature: Positive,
        annealing: Annealing | None,
    ) -> None:
        super().__init__(network, setting)
        self.unlabeled, self.classes = unlabeled, setting.classes
        self.weight, self.threshold, self.temperature = weight, threshold, temperature
        self.annealing = annealing

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        [weak, strong], known = batch.views, self.labeled(batch)
        logits = self.logits(torch.cat([weak, strong[known:]]))
        labeled, guessing, guessed = logits.tensor_split([known, len(weak)])
        loss, kept = divergence(guessing, guessed, self.temperature, self.threshold)
        most = self.annealing.at(batch.progress, self.classes) if self.annealing else 1.0
        return {"loss": annealed(labeled, batch.labels[:known], most) + self.weight * loss, "kept": kept}
