"""A look at a training while it runs: kNN on validation, effective rank, spread. It selects nothing and changes no bit.

Because it changes no bit it may read labels that the training itself does not depend on.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stages.training.guards import spread

MOST = 2000  # images of a side; a look must stay cheap
NEIGHBORS, TEMPERATURE = 20, 0.07


def spaced(rows: np.ndarray) -> np.ndarray:
    """At most MOST of the rows, evenly spaced: the images of a source may stand in the order of their classes."""
    return rows[:: max(1, -(-len(rows) // MOST))]


class Look(NamedTuple):
    """Images (m, 3, h, w) and labels to look with: a bank and queries."""

    bank: Tensor
    bank_labels: Tensor
    queries: Tensor
    query_labels: Tensor


@torch.no_grad()
def look(encoder: nn.Module, images: Look) -> dict[str, float]:
    """`monitor.knn` (top-1 on validation), `monitor.rank` (RankMe) and `monitor.spread` of the encoder now."""
    training = encoder.training
    encoder.eval()
    bank = torch.cat([encoder(chunk).float() for chunk in images.bank.split(256)])
    queries = torch.cat([encoder(chunk).float() for chunk in images.queries.split(256)])
    encoder.train(training)
    return {
        "monitor.knn": _knn(bank, images.bank_labels, queries, images.query_labels),
        "monitor.rank": _rank(queries),
        "monitor.spread": spread(queries),
    }


def _knn(bank: Tensor, bank_labels: Tensor, queries: Tensor, query_labels: Tensor) -> float:
    similarity = F.normalize(queries) @ F.normalize(bank).T
    weight, neighbor = similarity.topk(min(NEIGHBORS, len(bank)))
    votes = queries.new_zeros(len(queries), int(bank_labels.max()) + 1)
    votes.scatter_add_(1, bank_labels[neighbor], (weight / TEMPERATURE).exp())
    return float((votes.argmax(1) == query_labels).float().mean())


def _rank(features: Tensor) -> float:
    p = torch.linalg.svdvals(features)
    p = p / p.sum().clamp_min(1e-12) + 1e-7
    return float((-(p * p.log()).sum()).exp())
