"""What the protocols of fine-tuning and of the probe few_labels say of labels, and of what pretraining may see."""

from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from probe_tables import make_table

from stages import finetune
from stages.probes import few_labels
from stages.probes._logistic import Penalties
from stages.probes._metrics import labels_in_words, pretrained_in_words

ROWS = {"train": np.arange(4), "validation": np.arange(4, 8), "test": np.arange(8, 12)}


class Data(NamedTuple):
    """Stands in for a prepared data set: four images in each split, of two classes."""

    pretrain: np.ndarray
    budget_summary: dict[str, Any]
    labels: np.ndarray = np.arange(12) % 2
    groups: np.ndarray = np.arange(12)

    def rows(self, split: str) -> np.ndarray:
        return ROWS[split]

    labeled = rows


def score(pretrain: np.ndarray, used: list[int]) -> dict[str, Any]:
    """The top-1 of a budget whose draws grant so many labels, everything guessed right."""
    budget = {"few": {str(draw): {"labels_used": count} for draw, count in enumerate(used)}}
    outcomes = [{"validation": [0, 1, 0, 1], "test": [0, 1, 0, 1]}] * len(used)
    data: Any = Data(pretrain, budget)
    return finetune.score("few", outcomes, data, "supervised objective")["finetune.few.top1"]


def test_a_usual_finetune_says_what_it_always_said() -> None:
    """Equal draws, and pretraining on train images alone."""
    said = score(np.arange(4), [10, 10])
    assert said["protocol"] == "supervised objective, 10 labels, 2 draws × 1 seeds, last step"
    assert said["labels_used"] == 10


def test_draws_of_many_sizes_are_said_to_be_that() -> None:
    """The number beside the score is that of the largest draw."""
    said = score(np.arange(4), [12, 9, 11])
    assert said["protocol"] == "supervised objective, 9 to 12 labels, 3 draws × 1 seeds, last step"
    assert said["labels_used"] == 12
    assert labels_in_words([3]) == "3 labels"


def test_the_probe_says_it_too() -> None:
    """few_labels on a budget of whole groups."""
    features = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    table = make_table(features, torch.arange(60) % 2, classes=2, train=40, val=10)
    table.budgets["few"] = [torch.arange(8), torch.arange(10, 22)]
    verdict = few_labels.score(table, budget="few", folds=2, penalties=Penalties(low=0.1, high=1.0, steps=2))
    assert verdict.protocol.startswith("multinomial logistic regression, 8 to 12 labels, ")
    assert verdict.labels_used == 12


@pytest.mark.parametrize(
    ("seen", "says"),
    [
        (["train", "test"], ", pretraining may see train and test images"),
        (["validation"], ", pretraining may see validation images"),
        (["train"], ""),
    ],
)
def test_pretraining_on_more_than_train_is_said(seen: list[str], says: str) -> None:
    """By the splits of what it may see; images that are left out of all splits count for none."""
    rows = np.concatenate([*(ROWS[split] for split in seen), [12]])
    assert pretrained_in_words(rows, ROWS) == says
    assert score(rows, [10])["protocol"].endswith(f"last step{says}")
