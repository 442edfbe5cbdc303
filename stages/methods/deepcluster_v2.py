"""DeepCluster-v2 (Caron et al. 2020, arXiv:2006.09882, §4.1): images are classified by clusters of an epoch ago.

    before an epoch   bank of the last embeddings ─ k-means ─ centroids and the own one of each image, for every head
    in each step      large a, b, small … ─ encoder ─ projector ─ z ─ z·centroids / τ ─ cross-entropy with the own one
    after it          the z of view a goes to the bank

Centroids get no gradient: they are found, not learned. Encoder and projector are kept.
"""

from collections.abc import Callable
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pipeline.params import Count, Positive
from stages.methods._method import Batch, Method, Setting, per_size
from stages.networks.gathering import gather
from stages.networks.heads import Projection, Projector
from stages.networks.memory import Bank
from stages.networks.precision import full_precision, unit
from stages.networks.prototypes import Clustering, scores


@full_precision
def classification(z: Tensor, centroids: Tensor, own: Tensor, temperature: float) -> Tensor:
    """Mean over views and images of −log softmax(z·C / τ) at the own centroid: z (n, views, d), C (k, d), own (n,)."""
    logits = scores(z, centroids) / temperature
    return cross_entropy(logits.flatten(0, 1), own.repeat_interleave(z.shape[1]))


class DeepClusterV2(Method):
    """The encoder, a projector that is saved beside it, the bank, and a clustering of it for each head.

    The first clusters come from a network whose batch statistics no step has updated yet.
    """

    views = range(2, 17)
    projector: Projector
    heads: list[Clustering]

    def __init__(
        self,
        encoder: nn.Module,
        setting: Setting,
        *,
        temperature: Positive,
        prototypes: Annotated[list[Count], Field(min_length=1)],
        iterations: Count,
        projector: Projection,
    ) -> None:
        super().__init__(encoder, setting)
        self.projector = Projector(setting.features, projector)
        self.bank = Bank(setting.images, setting.rows, projector.out, momentum=0.0)
        visible = len(setting.rows)
        heads = [Clustering(setting.images, projector.out, count, visible=visible) for count in prototypes]
        self.heads = nn.ModuleList(heads)  # type: ignore[assignment]  # which hides what it holds
        self.temperature, self.iterations = temperature, iterations
        self._seen: list[tuple[Tensor, Tensor]] = []

    def on_epoch_start(self, progress: float, represented: Callable[[], tuple[Tensor, Tensor]]) -> None:
        if (self.heads[0].assigned < 0).all():
            self.bank.update(*represented())
        for seed, head in enumerate(self.heads):
            head.fit(self.bank.index, self.bank.rows, iterations=self.iterations, seed=seed)

    def represent(self, images: Tensor) -> Tensor:
        return unit(self.projector(self.encoder(images)))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        h = torch.cat(per_size(self.encoder, batch.views))
        z = unit(torch.stack(self.projector(h).chunk(len(batch.views)), dim=1))  # (n, views, d)
        each = [classification(z, head.centroids, head.assigned[batch.index], self.temperature) for head in self.heads]
        self._seen.append((gather(batch.index), gather(z[:, 0].detach())))
        return {"loss": gather(torch.stack(each).mean()[None]).mean()}

    def after_step(self, progress: float) -> None:
        for index, z in self._seen:
            self.bank.update(index, z)
        self._seen.clear()
