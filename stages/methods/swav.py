"""SwAV (Caron et al. 2020, arXiv:2006.09882): the code of one view is predicted from another view.

    image ┬ large a ─┐                                     ┌ scores a ─ Sinkhorn ─ code a ┐
          ├ large b ─┼ encoder ─ projector ─ z ─ prototypes ┼ scores b ─ Sinkhorn ─ code b ┼─ cross-entropy with the
          └ small … ─┘                                     └ scores … ─────────────────────┘  scores of other views

Only the large views have codes, and codes get no gradient. Where the batch is small, the embeddings of earlier steps
take part in Sinkhorn's balance (`queue`). Encoder and projector are kept.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from pipeline.params import Count, Positive, Probability
from stages.methods._method import Batch, Method, Setting, per_size
from stages.networks.gathering import gather
from stages.networks.heads import Projection, Projector
from stages.networks.memory import RingQueue
from stages.networks.precision import unit
from stages.networks.prototypes import Prototypes, cross_views, require_images, scores, sinkhorn


class SwAV(Method):
    """The encoder, a projector that is saved beside it, the prototypes, and a queue for each large view."""

    views = range(2, 17)
    projector: Projector
    queues: list[RingQueue]

    def __init__(
        self,
        encoder: nn.Module,
        setting: Setting,
        *,
        temperature: Positive,
        epsilon: Positive,
        iterations: Count,
        prototypes: Count,
        frozen: Probability,
        queue: Annotated[int, Field(ge=0)],
        queue_from: Probability,
        projector: Projection,
    ) -> None:
        super().__init__(encoder, setting)
        require_images(prototypes, len(setting.rows))
        self.projector = Projector(setting.features, projector)
        self.prototypes = Prototypes(projector.out, prototypes)
        queues = [RingQueue(queue, projector.out, step=setting.batch_size) for _ in range(2) if queue]
        self.queues = nn.ModuleList(queues)  # type: ignore[assignment]  # which hides what it holds
        self.temperature, self.epsilon, self.iterations = temperature, epsilon, iterations
        self.frozen, self.queue_from = frozen, queue_from
        self._seen: list[Tensor] = []

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        h = torch.cat(per_size(self.encoder, batch.views))
        z = unit(torch.stack(self.projector(h).chunk(len(batch.views)), dim=1))  # (n, views, d)
        found = gather(self.prototypes(z, frozen=batch.progress < self.frozen))
        if self.queues:
            self._seen.append(gather(z[:, :2].detach()))
        codes = torch.stack([self._codes(found[:, view], view, batch.progress) for view in (0, 1)], dim=1)
        return {"loss": cross_views(codes, found, self.temperature)}

    def _codes(self, found: Tensor, view: int, progress: float) -> Tensor:
        """Codes (n, k) of the scores (n, k) of a large view, balanced together with its queue."""
        if self.queues and progress >= self.queue_from:
            earlier = scores(self.queues[view].rows, self.prototypes.weight)
            return sinkhorn(torch.cat([earlier, found]), self.epsilon, self.iterations)[-len(found) :]
        return sinkhorn(found, self.epsilon, self.iterations)

    def after_step(self, progress: float) -> None:
        self.prototypes.renormalize()
        for z in self._seen:
            for view, queue in enumerate(self.queues):
                queue.push(z[:, view])
        self._seen.clear()
