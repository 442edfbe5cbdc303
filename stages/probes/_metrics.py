"""Accuracies of a classification, their interval, and the summary over seeds.

    hits_c     images of class c that are called c        recall_c = hits_c / support_c
    support_c  images of class c                          F1_c     = 2 hits_c / (support_c + claimed_c)
    claimed_c  images that are called c

    top1 = Σ hits / Σ support     balanced_accuracy = mean recall_c     macro_f1 = mean F1_c

The means run over the classes that occur: among the labels (recall), among labels or predictions (F1), as in
scikit-learn. All are fractions in 0..1, computed in float64.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

REPLICATES = 2000  # bootstrap resamples
LEVEL = (0.025, 0.975)  # 95 %, percentile method
SEED = 0
CELLS = 2**23  # images × replicates held at a time


def summarize(
    splits: dict[str, tuple[Any, Any]], protocol: str, labels_used: int, groups: Any
) -> dict[str, dict[str, Any]]:
    """{"top1", "balanced_accuracy", "macro_f1": score} of s classifiers judged on the same images.

    splits: "val", "test" → labels (n,) and predicted (s, n), int64 arrays or tensors.
    groups: of the n test images, as in `intervals`. Where they are fewer than the images, the protocol says how many.
    """
    scores: dict[str, dict[str, Any]] = {}
    if (count := len(set(groups))) < len(groups):
        protocol = f"{protocol}, interval over {count:,} groups of test images"
    for split, (labels, predicted) in splits.items():
        each = [accuracies(labels, row) for row in predicted]
        for name in each[0]:
            score = scores.setdefault(name, {"protocol": protocol, "labels_used": labels_used})
            score[split] = summary([values[name] for values in each])
    labels, predicted = splits["test"]
    for name, interval in intervals(labels, predicted, groups).items():
        scores[name]["test"]["interval"] = interval
    return scores


def labels_in_words(counts: Sequence[int]) -> str:
    """How many labels the draws of a budget grant: "10 labels", or "9 to 12 labels" where draws differ."""
    return " to ".join(map(str, sorted({min(counts), max(counts)}))) + " labels"


def pretrained_in_words(seen: Any, splits: Mapping[str, Any]) -> str:
    """The splits that pretraining may see, for the protocol; nothing where it is train alone, as is usual.

    seen: rows of the images; splits: "train", "validation", "test" → rows; int64 arrays or tensors on the CPU.
    """
    found = [name for name, rows in splits.items() if np.isin(np.asarray(rows), np.asarray(seen)).any()]
    return "" if found == ["train"] else f", pretraining may see {' and '.join(found)} images"


def accuracies(labels: Any, predicted: Any) -> dict[str, float]:
    """top1, balanced_accuracy and macro_f1 of predicted (n,) against labels (n,), n ≥ 1."""
    labels, predicted = _classes(labels), _classes(predicted)
    weight = torch.ones(len(labels), 1, dtype=torch.float64)
    return {name: value.item() for name, value in _weighted(labels, predicted, weight).items()}


def intervals(labels: Any, predicted: Any, groups: Any) -> dict[str, list[float]]:
    """[low, high] of the 95 % interval of each accuracy, averaged over s classifiers judged on the same n images.

    labels (n,), predicted (s, n), groups (n,). Cluster bootstrap: whole groups are drawn with replacement, the same for
    all classifiers. It tells how the mean would move with other test images, not with other seeds.
    """
    labels, predicted = _classes(labels), _classes(predicted)
    names, group = np.unique(groups, return_inverse=True)
    random = np.random.default_rng(SEED)
    block = max(1, CELLS // len(labels))
    means: dict[str, list[Tensor]] = {}
    for start in range(0, REPLICATES, block):
        draws = random.integers(len(names), size=(min(block, REPLICATES - start), len(names)))
        weight = _frequencies(draws)[torch.from_numpy(group)]
        each = [_weighted(labels, row, weight) for row in predicted]
        for name in each[0]:
            means.setdefault(name, []).append(torch.stack([values[name] for values in each]).mean(0))
    return {name: np.quantile(torch.cat(parts).numpy(), LEVEL).tolist() for name, parts in means.items()}


def summary(values: Sequence[float]) -> dict[str, Any]:
    """Mean and standard deviation (n - 1; 0.0 for a single value) over seeds or cells, with the values themselves."""
    std = statistics.stdev(values) if len(values) > 1 else 0.0
    return {"mean": math.fsum(values) / len(values), "std": std, "n": len(values), "values": list(values)}


def _classes(values: Any) -> Tensor:
    return torch.as_tensor(values, dtype=torch.int64).cpu()


def _frequencies(draws: np.ndarray) -> Tensor:
    """How often each group was drawn: draws (b, g) of 0..g-1 → (g, b) float64."""
    shifted = draws + draws.shape[1] * np.arange(len(draws))[:, None]
    times = np.bincount(shifted.ravel(), minlength=draws.size).reshape(draws.shape)
    return torch.from_numpy(np.ascontiguousarray(times.T, dtype=np.float64))


def _weighted(labels: Tensor, predicted: Tensor, weight: Tensor) -> dict[str, Tensor]:
    """The accuracies where image i counts weight[i, j] times in resample j: weight (n, b) → (b,) each."""
    hit = labels == predicted
    empty = torch.zeros(int(max(labels.max(), predicted.max())) + 1, weight.shape[1], dtype=weight.dtype)
    hits = empty.index_add(0, labels[hit], weight[hit])
    support = empty.index_add(0, labels, weight)
    claimed = empty.index_add(0, predicted, weight)
    return {
        "top1": hits.sum(0) / support.sum(0),
        "balanced_accuracy": _mean_ratio(hits, support),
        "macro_f1": _mean_ratio(2 * hits, support + claimed),
    }


def _mean_ratio(part: Tensor, whole: Tensor) -> Tensor:
    """Mean over classes (rows) of part / whole, over those with whole > 0."""
    return (part / whole.clamp(min=1)).sum(0) / (whole > 0).sum(0)
