"""NNCLR (Dwibedi et al. 2021, arXiv:2104.14548): the positive is the nearest neighbor, not the other view itself.

    image ┬ view a ─ encoder ─ h ─ projector ─ z ─ nearest in the queue ─ n ┐
          │                                    └─→ queue, after the step    │
          └ view b ─ encoder ─ h ─ projector ─ z ─ predictor ───────────  p ┴─ InfoNCE over the batch; and a, b swapped

Only p receives gradient; downstream tasks use h.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from pipeline.params import Count, Positive
from stages.methods._method import Batch, Method, Setting
from stages.networks.gathering import gather
from stages.networks.heads import Layers, Projection, Projector, make_predictor
from stages.networks.memory import RingQueue
from stages.networks.precision import full_precision, unit


@full_precision
def nearest(z: Tensor, rows: Tensor) -> Tensor:
    """The row of rows (K, d), all of unit length, with the largest cosine to each row of z (n, d)."""
    return rows[(z @ rows.T).argmax(1)]


@full_precision
def contrast(neighbors: Tensor, p: Tensor, temperature: float) -> Tensor:
    """Mean of −log exp(n_i·p_i/τ) / Σ_j exp(n_i·p_j/τ), for neighbors n and predictions p (n, d)."""
    similarity = normalize(neighbors.detach(), dim=1) @ normalize(p, dim=1).T
    return cross_entropy(similarity / temperature, torch.arange(len(p), device=p.device))


class NNCLR(Method):
    """The encoder, a projector that is saved beside it, a predictor, and a queue of the embeddings of view a."""

    projector: Projector

    def __init__(
        self,
        encoder: nn.Module,
        setting: Setting,
        *,
        temperature: Positive,
        queue: Count,
        projector: Projection,
        predictor: Layers,
    ) -> None:
        super().__init__(encoder, setting)
        self.projector = Projector(setting.features, projector)
        self.predictor = make_predictor(projector.out, predictor)
        self.queue = RingQueue(queue, projector.out, step=setting.batch_size)
        self.temperature = temperature
        self.embeddings: list[Tensor] = []  # of this step

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        z_a, z_b = (self.projector(self.encoder(view)) for view in batch.views)
        p_a, p_b = gather(self.predictor(z_a)), gather(self.predictor(z_b))
        z_a, z_b = gather(z_a.detach()), gather(z_b.detach())
        n_a, n_b = nearest(z_a, self.queue.rows), nearest(z_b, self.queue.rows)
        self.embeddings.append(unit(z_a))
        return {"loss": (contrast(n_a, p_b, self.temperature) + contrast(n_b, p_a, self.temperature)) / 2}

    def after_step(self, progress: float) -> None:
        for embeddings in self.embeddings:
            self.queue.push(embeddings)
        self.embeddings.clear()
