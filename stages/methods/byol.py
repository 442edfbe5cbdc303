"""BYOL (Grill et al. 2020, arXiv:2006.07733): predict what a slow copy of the network sees in the other view.

    image ┬ view a ─ encoder ─ h ─ projector ─ predictor ─ p ┐
          └ view b ─ teacher ────────────────────────────  z ┴─ |p − z|² on the unit sphere; and a, b swapped

No image repels another: it is the predictor on one side and the teacher on the other that keep the features apart.
Only p receives gradient; downstream tasks use h.
"""

from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from stages.methods._method import Batch, Method, Setting
from stages.networks.gathering import gather
from stages.networks.heads import Layers, Projection, Projector, make_predictor
from stages.networks.precision import full_precision
from stages.networks.schedule import Momentum
from stages.networks.teacher import Teacher


@full_precision
def regression(p: Tensor, z: Tensor) -> Tensor:
    """Equation 2: mean of |p − z|² = 2 − 2 cos(p, z) of unit rows, for p, z (n, d)."""
    return (2 - 2 * cosine_similarity(p, z.detach())).mean()


class BYOL(Method):
    """The encoder, a projector that is saved beside it, a predictor, and a teacher of encoder and projector."""

    projector: Projector

    def __init__(
        self, encoder: nn.Module, setting: Setting, *, momentum: Momentum, projector: Projection, predictor: Layers
    ) -> None:
        super().__init__(encoder, setting)
        self.projector = Projector(setting.features, projector)
        self.predictor = make_predictor(projector.out, predictor)
        self.teacher = Teacher(encoder, self.projector)
        self.momentum = momentum

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        p_a, p_b = (gather(self.predictor(self.projector(self.encoder(view)))) for view in batch.views)
        z_a, z_b = (gather(self.teacher(view)) for view in batch.views)
        return {"loss": regression(p_a, z_b) + regression(p_b, z_a)}

    def after_step(self, progress: float) -> None:
        self.teacher.follow(self.encoder, self.projector, momentum=self.momentum.at(progress))
