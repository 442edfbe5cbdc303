"""SimSiam (Chen & He 2021, arXiv:2011.10566): BYOL without its teacher; a stop-gradient is enough.

    image ┬ view a ─ encoder ─ h ─ projector ─ z ─ predictor ─ p ┐
          └ view b ─ encoder ─ h ─ projector ─ z ────────────────┴─ −cos(p, z), z without gradient; and a, b swapped

Downstream tasks use h.
"""

from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from stages.methods._method import Batch, Method, Setting
from stages.networks.gathering import gather
from stages.networks.heads import Layers, Projection, Projector, make_predictor
from stages.networks.precision import full_precision


@full_precision
def distance(p: Tensor, z: Tensor) -> Tensor:
    """Equation 1: mean of −cos(p, z), for p, z (n, d); from −1 to 1."""
    return -cosine_similarity(p, z.detach()).mean()


class SimSiam(Method):
    """The encoder, a projector that is saved beside it, and a predictor."""

    projector: Projector

    def __init__(self, encoder: nn.Module, setting: Setting, *, projector: Projection, predictor: Layers) -> None:
        super().__init__(encoder, setting)
        self.projector = Projector(setting.features, projector)
        self.predictor = make_predictor(projector.out, predictor)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        z_a, z_b = (self.projector(self.encoder(view)) for view in batch.views)
        p_a, p_b = gather(self.predictor(z_a)), gather(self.predictor(z_b))
        return {"loss": (distance(p_a, gather(z_b)) + distance(p_b, gather(z_a))) / 2}
