"""Heads: the small networks on top of an encoder, thrown away or kept for fine-tuning.

h ─ Linear ─ BN ─ ReLU ─ … ─ Linear ─ BN → z          one `layers` entry is one Linear with what follows it

A predictor is the same network on top of a projector, from embeddings to embeddings of the same width.
"""

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn

from pipeline.params import Block, Count


class Layers(Block):
    """A predictor: number of linear layers, the width between them, where there is batch normalization.

    norm: none    Linear ─ ReLU ─ … ─ Linear, linear layers with a shift (SimCLR's paper, MoCo v2)
          hidden  Linear ─ BN ─ ReLU ─ … ─ Linear, linear layers without a shift (BYOL, Barlow Twins, VICReg)
          all     as hidden, and BN without a trained shift after the last layer too (SimCLR's code, MoCo v3)
    """

    layers: Annotated[int, Field(ge=1, le=4)]
    hidden: Count
    norm: Literal["none", "hidden", "all"]


class Projection(Layers):
    """A projector: as a predictor, and the width of the output."""

    out: Count


class Projector(nn.Module):
    """Features (n, features) → embeddings (n, out); the last layer has no ReLU."""

    def __init__(self, features: int, projection: Projection) -> None:
        super().__init__()
        widths = [features, *[projection.hidden] * (projection.layers - 1), projection.out]
        last = len(widths) - 2
        self.layers = nn.ModuleList(
            _layer(widths[k], widths[k + 1], norm=projection.norm, last=k == last) for k in range(last + 1)
        )

    def forward(self, features: Tensor) -> Tensor:
        for layer in self.layers:
            features = layer(features)
        return features

    def first(self, layers: int) -> nn.Module:
        """The part that SimCLRv2 fine-tunes from: the first `layers` layers."""
        return nn.Sequential(*list(self.layers)[:layers])


def _layer(width_in: int, width_out: int, *, norm: str, last: bool) -> nn.Sequential:
    parts: list[nn.Module] = [nn.Linear(width_in, width_out, bias=norm == "none")]
    if norm == "all" or (norm == "hidden" and not last):
        batch_norm = nn.BatchNorm1d(width_out)
        parts.append(batch_norm)
        if last:
            batch_norm.bias.requires_grad_(False)  # stays 0, as in SimCLR's code: no shift
    if not last:
        parts.append(nn.ReLU(inplace=True))
    return nn.Sequential(*parts)


def make_predictor(width: int, layers: Layers) -> Projector:
    """Embeddings (n, width) → predicted embeddings (n, width)."""
    return Projector(width, Projection(**layers.model_dump(), out=width))


def classifier(features: int, classes: int) -> nn.Linear:
    """A linear classifier that starts at zero, so that its first loss is log(classes)."""
    head = nn.Linear(features, classes)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head
