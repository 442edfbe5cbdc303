"""ISIF (Ye et al. 2019, arXiv:1904.03436): every image is a class of its own, and its features the weights.

    image ┬ view a ─ encoder ─ h ─ projector ─ z ┐
          └ view b ─ encoder ─ h ─ projector ─ z ┴─ z is recognized as its other view, and not as any other image

The features that stand for the classes get no gradient. Downstream tasks use h.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from pipeline.params import Positive
from stages.methods._method import Batch, Method, Setting
from stages.networks.gathering import gather
from stages.networks.heads import Projection, Projector
from stages.networks.precision import full_precision

LEAST = 1e-12  # of 1 − P, which may be 0 in a tiny batch


@full_precision
def instance_softmax(a: Tensor, b: Tensor, temperature: float) -> Tensor:
    """Mean over the 2n views of −log P_ii' − Σ_{j≠i,i'} log(1 − P_ij), for a, b (n, d).

    P_ij = exp(z_i·sg(z_j)/τ) / Σ_{k≠i} exp(z_i·sg(z_k)/τ), and i' is the other view of i.
    """
    z = normalize(torch.cat([a, b]), dim=1)
    logits = (z @ z.detach().T / temperature).fill_diagonal_(float("-inf"))
    positive = torch.arange(len(z), device=z.device).roll(len(a))[:, None]
    recognized = logits.log_softmax(1).gather(1, positive).sum(1)
    rejected = (1 - logits.softmax(1)).clamp(min=LEAST).log().scatter(1, positive, 0.0).sum(1)
    return -(recognized + rejected).mean()


class ISIF(Method):
    """The encoder, and a projector that is saved beside it."""

    projector: Projector

    def __init__(self, encoder: nn.Module, setting: Setting, *, temperature: Positive, projector: Projection) -> None:
        super().__init__(encoder, setting)
        self.projector = Projector(setting.features, projector)
        self.temperature = temperature

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        a, b = map(gather, self.projector(self.encoder(torch.cat(batch.views))).chunk(2))
        return {"loss": instance_softmax(a, b, self.temperature)}
