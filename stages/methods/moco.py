"""MoCo v1 and v2 (He et al. 2020, arXiv:1911.05722; Chen et al. 2020, arXiv:2003.04297): contrast against a queue.

    image ┬ view a ─ encoder ─ h ─ projector ─ q ┐
          └ view b ─ teacher ────────────────  k ┴─ InfoNCE: k attracts, the keys of earlier steps repel
                                               └─→ queue, after the step

Only q receives gradient; the teacher follows encoder and projector. Downstream tasks use h. v1 has a projector of one
layer, v2 of two.
"""

import torch
from torch import Tensor, nn

from pipeline.params import Count, Positive
from stages.methods._method import Batch, Method, Setting
from stages.networks.contrast import info_nce
from stages.networks.gathering import gather
from stages.networks.heads import Projection, Projector
from stages.networks.memory import RingQueue
from stages.networks.precision import unit
from stages.networks.schedule import Momentum
from stages.networks.teacher import Teacher


class MoCo(Method):
    """The encoder, a projector that is saved beside it, their teacher and a queue of its keys.

    `symmetric` takes the mean of both directions, and queues the keys of both views.
    """

    projector: Projector

    def __init__(
        self,
        encoder: nn.Module,
        setting: Setting,
        *,
        temperature: Positive,
        queue: Count,
        momentum: Momentum,
        symmetric: bool,
        projector: Projection,
    ) -> None:
        super().__init__(encoder, setting)
        self.projector = Projector(setting.features, projector)
        self.teacher = Teacher(encoder, self.projector)
        self.queue = RingQueue(queue, projector.out, step=setting.batch_size)
        self.temperature, self.momentum, self.symmetric = temperature, momentum, symmetric
        self.keys: list[Tensor] = []  # of this step

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        a, b = batch.views
        pairs = [(a, b), (b, a)] if self.symmetric else [(a, b)]
        return {"loss": torch.stack([self._contrast(*pair) for pair in pairs]).mean()}

    def _contrast(self, query: Tensor, key: Tensor) -> Tensor:
        q, k = gather(self.projector(self.encoder(query))), gather(self.teacher(key))
        self.keys.append(unit(k))
        return info_nce(q, k, self.queue.rows, self.temperature)

    def after_step(self, progress: float) -> None:
        self.teacher.follow(self.encoder, self.projector, momentum=self.momentum.at(progress))
        for keys in self.keys:
            self.queue.push(keys)
        self.keys.clear()
