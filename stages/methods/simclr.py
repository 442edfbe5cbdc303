"""SimCLR (Chen et al. 2020, arXiv:2002.05709): two views of an image attract, the views of all others repel.

    image ┬ view a ─ encoder ─ h ─ projector ─ z ┐
          └ view b ─ encoder ─ h ─ projector ─ z ┴─ NT-Xent over the 2n views of the batch

Both views receive gradient; downstream tasks use h, never z.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from pipeline.params import Positive
from stages.methods._method import Batch, Method, Setting
from stages.networks.gathering import gather
from stages.networks.heads import Projection, Projector
from stages.networks.similarity import log_sum_exp_of_others

WHOLE = 2048  # views up to which the similarity matrix is held whole; beyond, slabs are also the faster way


def nt_xent(a: Tensor, b: Tensor, temperature: float, reduction: Literal["paper", "official"]) -> Tensor:
    """Equation 1: mean over the 2n anchors of −log exp(z_i·z_j/τ) / Σ_{k≠i} exp(z_i·z_k/τ), for a, b (n, d).

    The official code adds the means of both views, twice the paper's value: `reduction: official`.
    """
    n, z = len(a), torch.cat([a, b])
    with torch.autocast(z.device.type, enabled=False):  # in bf16 a similarity divided by τ is off by 1 %
        z = normalize(z.to(torch.promote_types(z.dtype, torch.float32)), dim=1)
        positives = (z * z.roll(n, 0)).sum(1) / temperature
        if 2 * n > WHOLE:
            others = log_sum_exp_of_others(z, temperature)
        else:
            others = (z @ z.T / temperature).fill_diagonal_(float("-inf")).logsumexp(1)
    loss = (others - positives).mean()
    return 2 * loss if reduction == "official" else loss


class SimCLR(Method):
    """The encoder, and a projector that is saved beside it."""

    projector: Projector

    def __init__(
        self,
        encoder: nn.Module,
        setting: Setting,
        *,
        temperature: Positive,
        reduction: Literal["paper", "official"],
        projector: Projection,
    ) -> None:
        super().__init__(encoder, setting)
        self.projector = Projector(setting.features, projector)
        self.temperature = temperature
        self.reduction = reduction

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        a, b = self.projector(self.encoder(torch.cat(batch.views))).chunk(2)
        return {"loss": nt_xent(gather(a), gather(b), self.temperature, self.reduction)}
