"""SimCLRv2's third step (Chen et al. 2020, arXiv:2006.10029): a student learns what a tuned teacher says of images.

    labeled   x ┬ view ┬─ student ─ logits s ─ cross-entropy with the label, 1 − α
    unlabeled u ┘      └─ student ─ logits s ┐
                       └─ teacher ─ logits t ┴─ T² · cross-entropy of softmax(t / T) and softmax(s / T), α

The teacher is what another finetune left for the same draw of the same budget, so labels are no more than those; it
stays. With a student of the same network this is self-distillation.
"""

from torch import Tensor, nn

from pipeline.params import Count, Positive, Probability
from stages.methods._method import Batch
from stages.networks.precision import full_precision
from stages.networks.teacher import Frozen
from stages.objectives._objective import Objective, Setting, label_loss


@full_precision
def distillation(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Equation 2, times T²: −T² · mean Σ_k softmax(t/T)_k · log softmax(s/T)_k of logits (n, classes)."""
    targets = (teacher.detach() / temperature).softmax(1)
    return -(targets * (student / temperature).log_softmax(1)).sum(1).mean() * temperature**2


class Distill(Objective):
    """One view an image, the same for student and teacher; labels have the weight 1 − alpha."""

    has_teacher = True

    def __init__(
        self, network: nn.Module, setting: Setting, *, unlabeled: Count, alpha: Probability, temperature: Positive
    ) -> None:
        super().__init__(network, setting)
        assert setting.teacher, "params.yaml is checked for it"
        self.unlabeled = unlabeled
        self.alpha, self.temperature = alpha, temperature
        self.teacher = Frozen(setting.teacher)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        [view] = batch.views
        logits, known = self.logits(view), self.labeled(batch)
        said = distillation(logits, self.teacher(view), self.temperature)
        labels = label_loss(logits[:known], batch.labels[:known])
        return {"loss": (1 - self.alpha) * labels + self.alpha * said, "distillation": said.detach()}
