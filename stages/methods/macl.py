"""MACL (Huang et al. 2023, arXiv:2207.07874): SimCLR whose temperature follows how well views agree already.

    image ┬ view a ─ encoder ─ h ─ projector ─ z ┐
          └ view b ─ encoder ─ h ─ projector ─ z ┴─ InfoNCE over the 2n views, each anchor weighed by 1 / (1 − P)

P is the probability of the anchor's positive. With that weight the pull on a positive is 1/τ whatever the negatives,
so that small batches suffer less. Both views receive gradient; downstream tasks use h.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from pipeline.errors import ParamsError
from pipeline.params import NonNegative, Positive
from stages.methods._method import Batch, Method, Setting
from stages.networks.gathering import gather
from stages.networks.heads import Projection, Projector
from stages.networks.precision import full_precision

LEAST = 1e-6  # of 1 − P, which is 0 in float32 where the positive has won
COLDEST = 0.01  # τ, however little views agree


@full_precision
def macl(positives: Tensor, negatives: Tensor, temperature: float, alpha: float, alignment: float) -> Tensor:
    """Mean of −log P / sg(1 − P), P = softmax([positive, negatives] / τ)₀, τ = τ₀ (1 + α (A − A₀)), at least 0.01.

    For cosines of n anchors with their positives (n,) and their negatives (n, m), −∞ where there is none. A is how far
    views agree, the mean of the positives, without gradient.
    """
    tau = (temperature * (1 + alpha * (positives.detach().mean() - alignment))).clamp(min=COLDEST)
    others = (negatives / tau).logsumexp(1)
    everything = torch.logaddexp(positives / tau, others)
    weight = (others - everything).exp().clamp(min=LEAST).detach().reciprocal()
    return (weight * (everything - positives / tau)).mean()


@full_precision
def cosines(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Of the 2n views in a and b (n, d): with the other view of the image (2n,), with the views of others (2n, 2n)."""
    z = normalize(torch.cat([a, b]), dim=1)
    own = torch.eye(len(a), dtype=torch.bool, device=a.device).repeat(2, 2)
    return (z * z.roll(len(a), 0)).sum(1), (z @ z.T).masked_fill(own, float("-inf"))


class MACL(Method):
    """The encoder, and a projector that is saved beside it; `alignment` is the paper's A₀."""

    projector: Projector

    def __init__(
        self,
        encoder: nn.Module,
        setting: Setting,
        *,
        temperature: Positive,
        alpha: NonNegative,
        alignment: float,
        projector: Projection,
    ) -> None:
        super().__init__(encoder, setting)
        if 1 + alpha * (-1 - alignment) <= 0:
            raise ParamsError(
                f"params.yaml: alpha {alpha} and alignment {alignment} make the temperature 0 or less where all views "
                f"disagree: alpha · (1 + alignment) must be below 1"
            )
        self.projector = Projector(setting.features, projector)
        self.temperature, self.alpha, self.alignment = temperature, alpha, alignment

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        a, b = map(gather, self.projector(self.encoder(torch.cat(batch.views))).chunk(2))
        return {"loss": macl(*cosines(a, b), self.temperature, self.alpha, self.alignment)}
