"""Cross-entropy on the labels of the budget (SimCLR, appendix B.5): the whole network is fine-tuned."""

from torch import Tensor
from torch.nn import functional as F

from stages.methods._method import Batch
from stages.objectives._objective import Objective


class Supervised(Objective):
    """One view an image, one label an image."""

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return {"loss": F.cross_entropy(self.logits(batch.views[0]), batch.labels)}
