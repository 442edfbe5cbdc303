"""Retrieval: which images an image finds, ranked by the cosine. Nothing is trained.

    gallery: train   it searches among the labeled training images
    gallery: split   among the other labeled images of its own split: no training label is used

    recall_k     is one of the first k of its class?
    r_precision  share of its class among the first R, where R of its class are there to be found
    map          share of its class up to each of these R, averaged: the whole gallery is ranked

Means over the images that have something to find. The predicted class is that of the first image found. Exact, in
float32, a block of images at a time; of equally near images the earlier one comes first.
"""

from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from pipeline.errors import Refusal
from stages.probes._table import JUDGED, SPLITS, Table, Verdict

CELLS = 2**22  # similarities held at a time
DEPTHS = (1, 2, 4, 8)  # of recall


def score(table: Table, *, gallery: Literal["train", "split"]) -> Verdict:
    """What the validation and the test images find, and the classes that follow."""
    if gallery == "train":
        table.require_labels()
    predictions, values = {}, {}
    for split in JUDGED:
        features, labels = table.examples(split)
        among = table.examples("train") if gallery == "train" else None
        if among is None and not (labels.unique(return_counts=True)[1] > 1).any():
            raise Refusal(
                f"no labeled image of the {SPLITS[split]} split has another of its class to find: label more of it, "
                f"or search in `gallery: train`"
            )
        predictions[split], found = search(features, labels, among)
        values[split] = {name: each.mean().item() for name, each in found.items()}
    used = len(table.labeled("train")) if gallery == "train" else 0
    where = f"{used} labeled training images" if used else "the other labeled images of the split"
    return Verdict(protocol=f"ranked by cosine among {where}", labels_used=used, predictions=predictions, values=values)


def search(features: Tensor, labels: Tensor, among: tuple[Tensor, Tensor] | None) -> tuple[Tensor, dict[str, Tensor]]:
    """The class of the first image found, int64 (q,), and by name what `measures` says of the queries.

    features (q, d) with labels (q,) search `among` features (n, d) with labels (n,), or None: one another.
    """
    gallery, classes = among or (features, labels)
    firsts, found = [], []
    for rows, order in _ranked(normalize(features), normalize(gallery), alone=among is None):
        firsts.append(classes[order[:, :1]].flatten())
        found.append(measures(classes[order] == labels[rows, None]))
    return torch.cat(firsts), {name: torch.cat([each[name] for each in found]) for name in found[0]}


def measures(relevant: Tensor) -> dict[str, Tensor]:
    """Name → float64 (m,) for those of q ranked lists, bool (q, n), in which anything is relevant."""
    relevant = relevant[relevant.any(1)]
    total = relevant.sum(1)
    lists, places = relevant.nonzero(as_tuple=True)
    nth = torch.arange(1, len(lists) + 1) - (total.cumsum(0) - total)[lists]  # 1 for the first of its list
    return {f"recall_{k}": relevant[:, :k].any(1).double() for k in DEPTHS} | {
        "map": _sums(nth.double() / (places + 1), lists, total) / total,
        "r_precision": _sums((places < total[lists]).double(), lists, total) / total,
    }


def _sums(values: Tensor, lists: Tensor, total: Tensor) -> Tensor:
    return torch.zeros(len(total), dtype=torch.float64).index_add_(0, lists, values)


def _ranked(queries: Tensor, gallery: Tensor, alone: bool) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows of the queries, and the rows of the gallery in the order of their similarity; `alone`: without itself."""
    for rows in torch.arange(len(queries)).split(max(1, CELLS // len(gallery))):
        similarity = queries[rows] @ gallery.T
        if alone:
            similarity[torch.arange(len(rows)), rows] = -torch.inf
        order = _descending(similarity)
        yield rows, order[:, :-1] if alone else order


def _descending(values: Tensor) -> Tensor:
    """The order int64 (q, n) of float32 values (q, n), largest first, the earlier one of equal ones first.

    NumPy sorts integers several times faster than torch sorts values with their places: the bits of a float are an
    integer in the same order (turned round below zero), and the place goes into the lower half.
    """
    bits = (values + 0.0).view(torch.int32)  # −0 becomes 0
    bits = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    keys = (~bits).to(torch.int64) << 32 | torch.arange(values.shape[1])
    return torch.from_numpy(np.sort(keys.numpy(), axis=1)) & 0xFFFFFFFF
