"""Images turned by quarters: how each is turned is a label that nobody had to write."""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from stages.networks.precision import full_precision

TURNS = 4


def turned(images: Tensor) -> Tensor:
    """Square images (n, c, s, s) → (4n, c, s, s): row 4i + k is image i turned by k quarters."""
    return torch.stack([images.rot90(k, (2, 3)) for k in range(TURNS)], 1).flatten(0, 1)


@full_precision
def turn_loss(logits: Tensor) -> Tensor:
    """Mean cross-entropy of logits (4n, 4) whose row 4i + k belongs to the turn k."""
    return cross_entropy(logits, torch.arange(TURNS, device=logits.device).repeat(len(logits) // TURNS))
