"""NPID (Wu et al. 2018, arXiv:1805.01978): every image is a class of its own, and a bank of embeddings the classifier.

    image ─ view ─ encoder ─ h ─ projector ─ f ─ which of the n rows V of the bank?
                                             └── after the step: V_i ← normalize(m·V_i + (1 − m)·f)

The bank gets no gradient. Where n is large, `negatives` rows are drawn and told apart from the own one (NCE).
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, logsigmoid

from pipeline.params import Count, Positive, Probability
from stages.methods._method import Batch, Method, Setting
from stages.networks.gathering import gather
from stages.networks.heads import Projection, Projector
from stages.networks.memory import Bank
from stages.networks.precision import full_precision, unit
from stages.views._draws import GOLDEN, splitmix64


@full_precision
def softmax_over(bank: Tensor, f: Tensor, index: Tensor, temperature: float) -> Tensor:
    """Equation 2: mean −log exp(V_i·f / τ) / Σ_j exp(V_j·f / τ), for f (b, d), V (n, d) and i int64 (b,)."""
    return cross_entropy(f @ bank.T / temperature, index)


@full_precision
def nce(similarity: Tensor, z: Tensor, images: int) -> Tensor:
    """Equations 5 to 7: mean of −log h(own) − Σ log(1 − h(drawn)), h = P / (P + m / n), P = exp(V·f / τ) / Z.

    similarity (b, 1 + m): V·f / τ of the own row and of the m drawn ones; log h is the log of a sigmoid.
    """
    logits = similarity - z.log() - math.log((similarity.shape[1] - 1) / images)
    return -(logsigmoid(logits[:, 0]) + logsigmoid(-logits[:, 1:]).sum(1)).mean()


@full_precision
def estimate(similarity: Tensor, images: int) -> Tensor:
    """Z ≈ n · mean exp(V·f / τ), a constant (equation 8)."""
    return similarity.detach().exp().mean() * images


class NPID(Method):
    """The encoder, a projector that is saved beside it, and the bank."""

    views = 1
    projector: Projector
    stream: Tensor  # int64 (): where the drawn rows of this step come from
    z: Tensor  # float (): 0 until the first batch has been seen

    def __init__(
        self,
        encoder: nn.Module,
        setting: Setting,
        *,
        temperature: Positive,
        negatives: Count | Literal["all"],
        momentum: Probability,
        projector: Projection,
    ) -> None:
        super().__init__(encoder, setting)
        self.projector = Projector(setting.features, projector)
        self.bank = Bank(setting.images, setting.rows, projector.out, momentum=momentum)
        self.temperature, self.negatives = temperature, negatives
        self.register_buffer("stream", torch.randint(2**62, ()))
        self.register_buffer("z", torch.zeros(()))
        self._seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        f = gather(unit(self.projector(self.encoder(batch.views[0]))))
        index, z, images = gather(batch.index), self.z, len(self.bank.rows)
        own = self.bank.places[index]
        if self.negatives == "all":
            loss = softmax_over(self.bank.rows, f, own, self.temperature)
        else:
            rows = torch.cat([own[:, None], self._drawn(index, self.negatives)], dim=1)
            similarity = (self.bank.rows[rows] * f[:, None]).sum(2) / self.temperature
            z = torch.where(z > 0, z, estimate(similarity, images))
            loss = nce(similarity, z, images)
        self._seen.append((index, f.detach(), z))
        return {"loss": loss}

    def _drawn(self, index: Tensor, count: int) -> Tensor:
        """Rows of the bank int64 (b, count), uniformly with replacement: a hash of step and image."""
        steps = torch.arange(count, device=index.device) * GOLDEN
        return splitmix64(splitmix64(self.stream ^ index)[:, None] + steps) % len(self.bank.rows)

    def after_step(self, progress: float) -> None:
        for index, f, z in self._seen:
            self.bank.update(index, f)
            self.z.copy_(z)
        self.stream.copy_(splitmix64(self.stream))
        self._seen.clear()
