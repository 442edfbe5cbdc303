"""VICReg (Bardes et al. 2022, arXiv:2105.04906): views agree, every dimension varies, no two vary together.

    image ┬ view a ─ encoder ─ h ─ projector ─ z ┐
          └ view b ─ encoder ─ h ─ projector ─ z ┴─ |z − z'|² + variance and covariance of each view

Both views receive gradient; downstream tasks use h.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from pipeline.params import NonNegative
from stages.methods._method import Batch, Method, Setting
from stages.networks.gathering import gather
from stages.networks.heads import Projection, Projector
from stages.networks.precision import full_precision


@full_precision
def invariance(a: Tensor, b: Tensor) -> Tensor:
    """Mean square of a − b over all entries, as in Algorithm 1 (equation 5 sums over the dimensions)."""
    return mse_loss(a, b)


@full_precision
def variance(z: Tensor) -> Tensor:
    """Equations 1 and 2: mean over the columns of z (n, d) of max(0, 1 − √(Var + 0.0001))."""
    return (1 - (z.var(0) + 1e-4).sqrt()).relu().mean()


@full_precision
def covariance(z: Tensor) -> Tensor:
    """Equations 3 and 4: Σ_{i≠j} C_ij² / d for the covariance C of the columns of z (n, d)."""
    centered = z - z.mean(0)
    c = centered.T @ centered / (len(z) - 1)
    return c.square().fill_diagonal_(0).sum() / z.shape[1]


class VICReg(Method):
    """The encoder, and a projector that is saved beside it; the weights are the paper's λ, μ and ν."""

    projector: Projector

    def __init__(
        self,
        encoder: nn.Module,
        setting: Setting,
        *,
        invariance: NonNegative,
        variance: NonNegative,
        covariance: NonNegative,
        projector: Projection,
    ) -> None:
        super().__init__(encoder, setting)
        self.projector = Projector(setting.features, projector)
        self.weights = invariance, variance, covariance

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        a, b = (gather(self.projector(self.encoder(view))) for view in batch.views)
        terms = invariance(a, b), variance(a) + variance(b), covariance(a) + covariance(b)
        names = "invariance", "variance", "covariance"
        loss = torch.stack([weight * term for weight, term in zip(self.weights, terms, strict=True)]).sum()
        return {"loss": loss, **{name: term.detach() for name, term in zip(names, terms, strict=True)}}
