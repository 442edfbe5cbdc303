"""RotNet (Gidaris et al. 2018, arXiv:1803.07728): to tell how an image is turned, one must know what it shows.

    image ─ view ─ 0°, 90°, 180°, 270° ─ encoder ─ h ─ linear ─ cross-entropy with the turn

The method turns the images itself. Views that are turned already would blur the question. Downstream tasks use h.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from stages.methods._method import Batch, Method, Setting
from stages.networks.gathering import gather
from stages.networks.heads import classifier
from stages.networks.precision import full_precision

TURNS = 4


def turned(images: Tensor) -> Tensor:
    """Square images (n, c, s, s) → (4n, c, s, s): row 4i + k is image i turned by k quarters."""
    return torch.stack([images.rot90(k, (2, 3)) for k in range(TURNS)], 1).flatten(0, 1)


@full_precision
def turn_loss(logits: Tensor) -> Tensor:
    """Mean cross-entropy of logits (4n, 4) whose row 4i + k belongs to the turn k."""
    return cross_entropy(logits, torch.arange(TURNS, device=logits.device).repeat(len(logits) // TURNS))


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
