"""The linear probe's path of penalties against scikit-learn's LogisticRegression over the same grid.

    λ/2 ‖W‖² + mean loss   =   C = 1 / (n λ)        strongest first, each fit starting from the one before

Both get the features scaled to total variance 1, choose λ on the same validation images and are judged on the same
test images: the accuracies have to agree within 0.2 points. scikit-learn is used as one who knows it does: lbfgs, warm
start, float32, its own tolerance, enough steps. The features are clusters whose variance falls off as that of encoders.
"""

import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks._networks import SMALL, arguments
from benchmarks._paired import Record, compared, cores, rounds, side
from benchmarks._results import command
from pipeline.hardware import set_up
from stages.probes._logistic import Penalties, fit

COMMAND = f"python -m {__spec__.name}"
CLASSES, APART = 10, 0.002  # of accuracy


class Case(NamedTuple):
    """Sizes: images of a split, width of the features, penalties; how far the clusters lie apart."""

    train: int
    held: int
    width: int
    steps: int
    apart: float
    target: str


CASES = {"linear_vs_sklearn": Case(5_000, 5_000, 128, 15, 0.2, "≥ 5")}


class Split(NamedTuple):
    """float32 (n, d) features and int64 (n,) labels."""

    features: Tensor
    labels: Tensor


def splits(case: Case) -> list[Split]:
    """Train, validation, test."""
    torch.manual_seed(0)
    scales = torch.arange(1, case.width + 1) ** -0.5
    centers = case.apart * torch.randn(CLASSES, case.width) * scales
    turn = torch.linalg.qr(torch.randn(case.width, case.width))[0]

    def made(count: int) -> Split:
        labels = torch.randint(CLASSES, (count,))
        return Split((centers[labels] + torch.randn(count, case.width) * scales) @ turn, labels)

    return [made(count) for count in (case.train, case.held, case.held)]


def scaled(parts: list[Split]) -> list[Split]:
    """Centered, with a total variance of 1 in training, as the probe scales them."""
    mean = parts[0].features.mean(0)
    scale = (parts[0].features - mean).square().sum(1).mean().sqrt()
    return [Split((part.features - mean) / scale, part.labels) for part in parts]


Found = list[tuple[np.ndarray, np.ndarray]]  # weight (d, classes) and bias (classes,) of each penalty


def ours(train: Split, penalties: Penalties) -> Callable[[], Found]:
    """The path by the probe."""

    def work() -> Found:
        weight, bias = fit(train.features, train.labels, classes=CLASSES, penalties=penalties.values())
        return [(w.numpy(), b.numpy()) for w, b in zip(weight, bias, strict=True)]

    return work


def sklearn(train: Split, penalties: Penalties) -> Callable[[], Found]:
    """The path by scikit-learn."""
    from sklearn.linear_model import LogisticRegression

    features, labels = train.features.numpy(), train.labels.numpy()

    def work() -> Found:
        model, found = LogisticRegression(warm_start=True, max_iter=1000), []
        for penalty in penalties.values().tolist():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a fit that stops at max_iter counts as it is
                model.set_params(C=1 / (len(labels) * penalty)).fit(features, labels)
            found.append((model.coef_.T.copy(), model.intercept_.copy()))
        return found

    return work


def accuracy(found: Found, held: list[Split]) -> float:
    """Top-1 on test of the penalty that does best on validation, the strongest of equals."""

    def top1(part: Split, weight: np.ndarray, bias: np.ndarray) -> float:
        return float(((part.features.double().numpy() @ weight + bias).argmax(1) == part.labels.numpy()).mean())

    validation, test = held
    scores = [top1(validation, *one) for one in found]
    return top1(test, *found[int(np.argmax(scores))])


def measured(case: Case, count: int) -> Record:
    """Paths a second."""
    set_up(arguments(SMALL, threads=cores(), device="cpu")["hardware"])
    train, *held = scaled(splits(case))
    penalties = Penalties(low=1e-8, high=1e-1, steps=case.steps)
    works = {"ours": ours(train, penalties), "sklearn": sklearn(train, penalties)}
    reached = {name: accuracy(work(), held) for name, work in works.items()}
    assert abs(reached["ours"] - reached["sklearn"]) <= APART, f"the accuracies are not equal: {reached}"
    found = rounds({name: side(1, work) for name, work in works.items()}, count)
    return compared(
        found["ours"],
        found["sklearn"],
        what=f"paths/s of {case.steps} penalties on {case.train:,} × {case.width} over LogisticRegression, top-1 "
        f"{100 * reached['ours']:.2f} and {100 * reached['sklearn']:.2f} %, {cores()} thread(s)",
        unit="paths/s",
        target=case.target,
        command=COMMAND,
    )


def measure(smoke: bool) -> dict[str, Record]:
    """One path."""
    if smoke:
        return {"linear_vs_sklearn": measured(Case(200, 500, 4, 2, 9.0, ""), 2)}
    return {name: measured(case, 5) for name, case in CASES.items()}


if __name__ == "__main__":
    command(measure)
