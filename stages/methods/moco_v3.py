"""MoCo v3 (Chen et al. 2021, arXiv:2104.02057): no queue, the keys of the batch are enough if it is large.

    image ┬ view a ─ encoder ─ h ─ projector ─ predictor ─ q ┐
          └ view b ─ teacher ────────────────────────────  k ┴─ InfoNCE over the keys of the batch; and a, b swapped

Only q receives gradient; the teacher follows encoder and projector. Downstream tasks use h.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from pipeline.params import Positive
from stages.methods._method import Batch, Method, Setting
from stages.networks.gathering import gather
from stages.networks.heads import Layers, Projection, Projector, make_predictor
from stages.networks.precision import full_precision
from stages.networks.schedule import Momentum
from stages.networks.teacher import Teacher


@full_precision
def contrast(q: Tensor, k: Tensor, temperature: float) -> Tensor:
    """Algorithm 1: 2τ · mean of −log exp(q_i·k_i/τ) / Σ_j exp(q_i·k_j/τ), for q, k (n, d)."""
    similarity = normalize(q, dim=1) @ normalize(k.detach(), dim=1).T
    return 2 * temperature * cross_entropy(similarity / temperature, torch.arange(len(q), device=q.device))


class MoCoV3(Method):
    """The encoder, a projector that is saved beside it, a predictor, and a teacher of encoder and projector."""

    projector: Projector

    def __init__(
        self,
        encoder: nn.Module,
        setting: Setting,
        *,
        temperature: Positive,
        momentum: Momentum,
        projector: Projection,
        predictor: Layers,
    ) -> None:
        super().__init__(encoder, setting)
        self.projector = Projector(setting.features, projector)
        self.predictor = make_predictor(projector.out, predictor)
        self.teacher = Teacher(encoder, self.projector)
        self.temperature, self.momentum = temperature, momentum

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        q_a, q_b = (gather(self.predictor(self.projector(self.encoder(view)))) for view in batch.views)
        k_a, k_b = (gather(self.teacher(view)) for view in batch.views)
        return {"loss": contrast(q_a, k_b, self.temperature) + contrast(q_b, k_a, self.temperature)}

    def after_step(self, progress: float) -> None:
        self.teacher.follow(self.encoder, self.projector, momentum=self.momentum.at(progress))
