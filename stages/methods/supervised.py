"""Supervised training with every label: the ceiling of every table, on the same network.

image ─ view ─ encoder ─ h ─ linear ─ cross-entropy with the label
"""

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from stages.methods._method import Batch, Method, Setting
from stages.networks.gathering import gather
from stages.networks.heads import classifier


class Supervised(Method):
    """The encoder under a linear classifier that is thrown away."""

    needs_labels = True
    views = 1

    def __init__(self, encoder: nn.Module, setting: Setting) -> None:
        super().__init__(encoder, setting)
        self.classifier = classifier(setting.features, setting.classes)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        logits, labels = gather(self.classifier(self.encoder(batch.views[0]))), gather(batch.labels)
        accuracy = (logits.argmax(1) == labels).float().mean()
        return {"loss": cross_entropy(logits, labels), "accuracy": accuracy.detach()}
