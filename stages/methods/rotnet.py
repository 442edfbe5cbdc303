"""RotNet (Gidaris et al. 2018, arXiv:1803.07728): to tell how an image is turned, one must know what it shows.

    image ─ view ─ 0°, 90°, 180°, 270° ─ encoder ─ h ─ linear ─ cross-entropy with the turn

The method turns the images itself. Views that are turned already would blur the question. Downstream tasks use h.
"""

import torch
from torch import Tensor, nn

from stages.methods._method import Batch, Method, Setting
from stages.networks.gathering import gather
from stages.networks.heads import classifier
from stages.networks.turns import TURNS, turn_loss, turned


class RotNet(Method):
    """The encoder under a linear classifier that is thrown away."""

    views = 1

    def __init__(self, encoder: nn.Module, setting: Setting) -> None:
        super().__init__(encoder, setting)
        self.classifier = classifier(setting.features, TURNS)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        logits = gather(self.classifier(self.encoder(turned(batch.views[0]))))
        found = logits.view(-1, TURNS, TURNS).argmax(2)
        accuracy = (found == torch.arange(TURNS, device=logits.device)).float().mean()
        return {"loss": turn_loss(logits), "accuracy": accuracy}
