"""PCL (Li et al. 2021, arXiv:2005.04966): MoCo, and each embedding is drawn to the prototypes of its image as well.

    before an epoch   teacher ─ embeddings of all images ─ k-means ─ prototypes c, each with its concentration φ
    image ┬ view a ─ encoder ─ projector ─ q ┬ InfoNCE: k attracts, the queue repels
          └ view b ─ teacher ──────────── k ─┤
                     of its image ─ c_own ───┴ ProtoNCE: c_own attracts, all other prototypes repel, each at its own φ

Only q gets a gradient. The clusters begin after `warmup`, a share of the training. Downstream tasks use the encoder.
"""

from collections.abc import Callable
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pipeline.params import Count, Positive, Probability
from stages.methods._method import Batch, Method, Setting
from stages.networks.contrast import info_nce
from stages.networks.gathering import gather
from stages.networks.heads import Projection, Projector
from stages.networks.memory import RingQueue
from stages.networks.precision import full_precision, unit
from stages.networks.prototypes import Clustering
from stages.networks.schedule import Momentum
from stages.networks.teacher import Teacher


@full_precision
def proto_nce(q: Tensor, centroids: Tensor, own: Tensor, concentration: Tensor) -> Tensor:
    """Equation 11, one clustering: mean of −log softmax_j(q·c_j / φ_j) at the own c; c (k, d), own (n,), φ (k,).

    All other prototypes are negatives, where the paper draws some of them.
    """
    return cross_entropy(q @ centroids.detach().T / concentration, own)


def concentration(rows: Tensor, centroids: Tensor, assigned: Tensor, temperature: float) -> Tensor:
    """Equation 12: φ = Σ |v − c| / (z log(z + 10)) over the z rows v of a cluster, as (k,), of mean `temperature`.

    A cluster of one row or none takes the largest φ; all are held between the 10th and the 90th percentile.
    """
    distance = (rows - centroids[assigned]).norm(dim=1)
    members = torch.bincount(assigned, minlength=len(centroids))
    total = torch.zeros_like(centroids[:, 0]).index_add(0, assigned, distance)
    phi = total / members.clamp(min=1) / (members + 10).log()
    phi = torch.where(members > 1, phi, phi.max())
    phi = phi.clamp(phi.quantile(0.1), phi.quantile(0.9))
    return temperature * phi / phi.mean()


class PCL(Method):
    """The encoder, a projector that is saved beside it, their teacher, its queue, and clusterings of the images.

    Without a warm-up the first clusters come from a teacher whose batch statistics no step has updated yet.
    """

    projector: Projector
    clusterings: list[Clustering]
    concentrations: Tensor  # of all prototypes, one clustering after the other
    clustered: Tensor  # 0.0 during the warm-up, then 1.0

    def __init__(
        self,
        encoder: nn.Module,
        setting: Setting,
        *,
        temperature: Positive,
        queue: Count,
        momentum: Momentum,
        prototypes: Annotated[list[Count], Field(min_length=1)],
        iterations: Count,
        warmup: Probability,
        projector: Projection,
    ) -> None:
        super().__init__(encoder, setting)
        self.projector = Projector(setting.features, projector)
        self.teacher = Teacher(encoder, self.projector)
        self.queue = RingQueue(queue, projector.out, step=setting.batch_size)
        visible = len(setting.rows)
        clusterings = [Clustering(setting.images, projector.out, count, visible=visible) for count in prototypes]
        self.clusterings = nn.ModuleList(clusterings)  # type: ignore[assignment]  # which hides what it holds
        self.register_buffer("concentrations", torch.ones(sum(prototypes)))
        self.register_buffer("clustered", torch.zeros(()))
        self.temperature, self.momentum, self.warmup = temperature, momentum, warmup
        self.prototypes, self.iterations = prototypes, iterations
        self._keys: list[Tensor] = []

    def on_epoch_start(self, progress: float, represented: Callable[[], tuple[Tensor, Tensor]]) -> None:
        if progress < self.warmup:
            return
        index, rows = represented()
        phis = []
        for seed, found in enumerate(self.clusterings):
            found.fit(index, rows, iterations=self.iterations, seed=seed)
            phis.append(concentration(rows, found.centroids, found.assigned[index], self.temperature))
        self.concentrations.copy_(torch.cat(phis))
        self.clustered.fill_(1.0)

    def represent(self, images: Tensor) -> Tensor:
        return unit(self.teacher(images))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        q = gather(unit(self.projector(self.encoder(batch.views[0]))))
        k = gather(unit(self.teacher(batch.views[1])))
        self._keys.append(k)
        contrast = info_nce(q, k, self.queue.rows, self.temperature)
        own = gather(batch.index)
        each = [
            proto_nce(q, found.centroids, found.assigned[own].clamp(min=0), phi)
            for found, phi in zip(self.clusterings, self.concentrations.split(self.prototypes), strict=True)
        ]
        prototypes = torch.stack(each).mean() * self.clustered
        return {"loss": contrast + prototypes, "prototypes": prototypes.detach()}

    def after_step(self, progress: float) -> None:
        self.teacher.follow(self.encoder, self.projector, momentum=self.momentum.at(progress))
        for keys in self._keys:
            self.queue.push(keys)
        self._keys.clear()
