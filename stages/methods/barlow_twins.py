"""Barlow Twins (Zbontar et al. 2021, arXiv:2103.03230): the same in both views, and nothing said twice.

    image ┬ view a ─ encoder ─ h ─ projector ─ z ┐
          └ view b ─ encoder ─ h ─ projector ─ z ┴─ their cross-correlation (d, d) ─→ the identity

Both views receive gradient; downstream tasks use h.
"""

from torch import Tensor, nn
from torch.nn.functional import batch_norm

from pipeline.params import NonNegative, Positive
from stages.methods._method import Batch, Method, Setting
from stages.networks.gathering import gather
from stages.networks.heads import Projection, Projector
from stages.networks.precision import full_precision


@full_precision
def barlow_twins(a: Tensor, b: Tensor, off_diagonal: float) -> Tensor:
    """Equation 1: Σ_i (1 − C_ii)² + λ Σ_{i≠j} C_ij², for the correlations C of the columns of a and b (n, d)."""
    a, b = (batch_norm(z, None, None, training=True) for z in (a, b))
    correlation = a.T @ b / len(a)
    same = (1 - correlation.diagonal()).square().sum()
    return same + off_diagonal * correlation.square().fill_diagonal_(0).sum()


class BarlowTwins(Method):
    """The encoder, and a projector that is saved beside it; `scale` multiplies the loss, for optimizers that mind."""

    projector: Projector

    def __init__(
        self,
        encoder: nn.Module,
        setting: Setting,
        *,
        off_diagonal: NonNegative,
        scale: Positive,
        projector: Projection,
    ) -> None:
        super().__init__(encoder, setting)
        self.projector = Projector(setting.features, projector)
        self.off_diagonal, self.scale = off_diagonal, scale

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        a, b = (gather(self.projector(self.encoder(view))) for view in batch.views)
        return {"loss": self.scale * barlow_twins(a, b, self.off_diagonal)}
