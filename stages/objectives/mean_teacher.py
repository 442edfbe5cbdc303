"""Mean Teacher (Tarvainen & Valpola 2017, arXiv:1703.01780): agree with the average of the weights so far.

    labeled   x ┬ view a ─ student ┬─ logits ─ cross-entropy with the label
    unlabeled u ┤                  └─ softmax p ┐
                └ view b ─ teacher ── softmax q ┴─ weight · (p − q)², mean over images and classes

The teacher gets no gradient, normalizes by its own batches, follows by min(1 − 1/(step + 1), momentum), and is judged.
"""

from torch import Tensor, nn

from pipeline.params import Count, Probability
from stages.methods._method import Batch
from stages.networks.precision import full_precision
from stages.networks.schedule import Growth
from stages.networks.teacher import Average
from stages.objectives._objective import Objective, Setting, label_loss


@full_precision
def consistency(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over images and classes of (softmax(s) − softmax(t))², of logits (n, classes)."""
    return (student.softmax(1) - teacher.detach().softmax(1)).square().mean()


class MeanTeacher(Objective):
    """Two weak views an image, one for each network."""

    views = ("weak", "weak")

    def __init__(
        self, network: nn.Module, setting: Setting, *, unlabeled: Count, weight: Growth, momentum: Probability
    ) -> None:
        super().__init__(network, setting)
        self.unlabeled = unlabeled
        self.weight = weight
        self.teacher = Average(self.network, self.classifier, momentum=momentum)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        own, other = batch.views
        logits, known = self.logits(own), self.labeled(batch)
        apart = consistency(logits, self.teacher(other))
        loss = label_loss(logits[:known], batch.labels[:known]) + self.weight.at(batch.progress) * apart
        return {"loss": loss, "consistency": apart.detach()}

    def after_step(self, progress: float) -> None:
        self.teacher.add(self.network, self.classifier)

    def result(self) -> nn.Module:
        return nn.Sequential(*self.teacher.copies)
