"""Cross-entropy on the labels of the budget (SimCLR, appendix B.5): the whole network is fine-tuned."""

from torch import Tensor

from stages.methods._method import Batch
from stages.objectives._objective import Objective, label_loss


class Supervised(Objective):
    """One view an image, one label an image."""

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return {"loss": label_loss(self.logits(batch.views[0]), batch.labels)}
