"""A linear probe on a label budget: what frozen features are worth to somebody who labels few images.

    a draw of the budget ─ its labels, in `folds` parts ─ penalty by cross-validation ─ fitted on all of them

Logistic regression as in `linear`, once for every draw of the budget. No label but those of the draw is used: the
penalty with the least log loss on the held-out parts is taken, of equal ones the strongest. The labels of a class are
dealt out one after the other, so that the parts hold nearly as many of each.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy

from pipeline.errors import MissingInput, Refusal
from pipeline.params import Name
from stages.probes._logistic import Examples, Fitted, Penalties, classify, fit
from stages.probes._metrics import labels_in_words
from stages.probes._table import JUDGED, Table, Verdict


def score(table: Table, *, budget: Name, folds: Annotated[int, Field(ge=2)], penalties: Penalties) -> Verdict:
    """Classes of the validation and test images, for every draw of the budget."""
    table.require_labels()
    if budget not in table.budgets:
        raise MissingInput(
            f"the data set has no budget {budget!r}, only {', '.join(table.budgets) or 'none'}: set it in its "
            f"`budgets` in params.yaml"
        )
    draws = [(table.features[rows], table.labels[rows]) for rows in table.budgets[budget]]
    fitted = [tuned(draw, len(table.classes), folds, penalties) for draw in draws]
    judged = {split: table.examples(split)[0] for split in JUDGED}
    counts = [len(labels) for _, labels in draws]
    return Verdict(
        protocol=(
            f"multinomial logistic regression, {labels_in_words(counts)}, {penalties.words} by {folds}-fold "
            f"cross-validation inside them, {len(draws)} label draws"
        ),
        labels_used=max(counts),
        draws={
            split: torch.stack([classify(features, each.weight, each.bias) for each in fitted])
            for split, features in judged.items()
        },
    )


def tuned(draw: Examples, classes: int, folds: int, penalties: Penalties) -> Fitted:
    """Fitted on all of a draw by the penalty that does best on parts of it that it was not fitted on."""
    features, labels = draw
    if (torch.bincount(labels, minlength=classes) < 2).any():
        raise Refusal(
            "a class has fewer than 2 labels in the budget, so no penalty can be chosen inside it: "
            "make the budget larger, or take another one for the probe few_labels"
        )
    path = penalties.values()
    part = parts(labels, folds)
    loss = torch.zeros_like(path)
    for held in part.unique():
        weight, bias = fit(features[part != held], labels[part != held], classes=classes, penalties=path)
        logits = features[part == held].double() @ weight + bias[:, None]
        loss += torch.stack([cross_entropy(each, labels[part == held], reduction="sum") for each in logits])
    best = int(loss.argmin())  # the first of equals: the strongest penalty
    weight, bias = fit(features, labels, classes=classes, penalties=path[best : best + 1])
    return Fitted(weight[0], bias[0], float(path[best]))


def parts(labels: Tensor, folds: int) -> Tensor:
    """The part of each image, int64 (n,) of 0 … folds - 1: the labels of each class, in order, in turn."""
    part = torch.empty_like(labels)
    for label in labels.unique():
        of_class = labels == label
        part[of_class] = torch.arange(int(of_class.sum())) % folds
    return part
