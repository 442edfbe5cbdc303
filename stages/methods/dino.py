"""DINO (Caron et al. 2021, arXiv:2104.14294): the student predicts the teacher's distribution of another view.

    large a, b, small … ─ encoder ─ head ─ logits s ─ softmax(s / τ) ───────────────────┐
    large a, b ─ teacher: the same, following ─ logits t ─ softmax((t − center) / τ_t) ──┴─ cross-entropy, other views

The teacher gets no gradient; its center and its low temperature keep the student from collapse. Only the encoder is
kept: the head has GELU instead of batch normalization, and a last layer of `prototypes` unit rows.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from pipeline.params import Count, Positive, Probability
from stages.methods._method import Batch, Method, Setting, per_size
from stages.networks.gathering import gather
from stages.networks.precision import full_precision, unit
from stages.networks.prototypes import cross_views, scores
from stages.networks.schedule import Momentum, Temperature
from stages.networks.teacher import Teacher


@full_precision
def centered_softmax(logits: Tensor, center: Tensor, temperature: float) -> Tensor:
    """Softmax((t − c) / τ_t) of logits t (…, k)."""
    return ((logits - center) / temperature).softmax(-1)


@full_precision
def entropy(distributions: Tensor) -> Tensor:
    """Mean −Σ p log p of distributions (…, k): 0 where all is on one prototype, log k where all are equal."""
    return torch.special.entr(distributions).sum(-1).mean()


class DINO(Method):
    """The encoder, its head, and the teacher of both."""

    views = range(2, 17)
    center: Tensor  # (prototypes,)

    def __init__(
        self,
        encoder: nn.Module,
        setting: Setting,
        *,
        temperature: Positive,
        teacher_temperature: Temperature,
        momentum: Momentum,
        center_momentum: Probability,
        hidden: Count,
        bottleneck: Count,
        prototypes: Count,
        frozen: Probability,
    ) -> None:
        super().__init__(encoder, setting)
        self.head = _Head(setting.features, hidden, bottleneck, prototypes)
        self.teacher = Teacher(encoder, self.head)
        self.register_buffer("center", torch.zeros(prototypes))
        self.temperature, self.teacher_temperature = temperature, teacher_temperature
        self.momentum, self.center_momentum, self.frozen = momentum, center_momentum, frozen
        self._seen: list[Tensor] = []

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        h = torch.cat(per_size(self.encoder, batch.views))
        logits = self.head(h, frozen=batch.progress < self.frozen)
        given = self.teacher(torch.cat(batch.views[:2]))
        targets = centered_softmax(given, self.center, self.teacher_temperature.at(batch.progress))
        loss = cross_views(_by_image(targets, 2), _by_image(logits, len(batch.views)), self.temperature)
        self._seen.append(gather(given.mean(0, keepdim=True)).mean(0))
        return {"loss": gather(loss[None]).mean(), "entropy": gather(entropy(targets)[None]).mean()}

    def after_step(self, progress: float) -> None:
        self.teacher.follow(self.encoder, self.head, momentum=self.momentum.at(progress))
        self.center.lerp_(torch.stack(self._seen).mean(0), 1 - self.center_momentum)
        self._seen.clear()


class _Head(nn.Module):
    """Features (n, features) → logits (n, prototypes): three layers, the sphere, a last layer whose rows are unit."""

    def __init__(self, features: int, hidden: int, bottleneck: int, prototypes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(features, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, bottleneck)
        )
        for layer in self.layers[::2]:
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]  # so that images, not shifts, point the way
        self.last = nn.Parameter(normalize(torch.randn(prototypes, bottleneck), dim=1))

    def forward(self, features: Tensor, frozen: bool = False) -> Tensor:
        """`frozen`: the last layer gets no gradient, so it stays."""
        last = self.last.detach() if frozen else self.last
        return scores(unit(self.layers(features)), unit(last))


def _by_image(rows: Tensor, views: int) -> Tensor:
    """Rows (views · n, k), view after view, as (n, views, k)."""
    return rows.view(views, -1, rows.shape[1]).transpose(0, 1)
