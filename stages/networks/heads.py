"""Heads: the small networks on top of an encoder, thrown away or kept for fine-tuning.

h ─ Linear ─ BN ─ ReLU ─ … ─ Linear ─ BN → z          one `layers` entry is one Linear with what follows it
"""

from typing import Literal

from torch import Tensor, nn

from pipeline.params import Block, Count


class Projection(Block):
    """A projector: number of linear layers, their width, width of the output."""

    layers: Literal[2, 3]
    hidden: Count
    out: Count
    norm: bool  # batch normalization after every layer (the official code); without, Linear-ReLU-Linear (the paper)


class Projector(nn.Module):
    """Features (n, features) → embeddings (n, out); the last layer has no ReLU, and under `norm` no shift."""

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


def _layer(width_in: int, width_out: int, *, norm: bool, last: bool) -> nn.Sequential:
    parts: list[nn.Module] = [nn.Linear(width_in, width_out, bias=not norm)]
    if norm:
        batch_norm = nn.BatchNorm1d(width_out)
        parts.append(batch_norm)
        if last:
            batch_norm.bias.requires_grad_(False)  # stays 0, as in the official code: no shift
    if not last:
        parts.append(nn.ReLU(inplace=True))
    return nn.Sequential(*parts)


def classifier(features: int, classes: int) -> nn.Linear:
    """A linear classifier that starts at zero, so that its first loss is log(classes)."""
    head = nn.Linear(features, classes)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head
