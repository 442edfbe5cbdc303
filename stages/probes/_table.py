"""What a probe reads, the table, and what it answers, the verdict.

    features (n, d) ─┐
    labels   (n,)   ─┤
    splits          ─┼→ Table ─→ score(table, *, parameters) ─→ Verdict ─→ top1, balanced accuracy, macro-F1, rankme ...
    pairs (2, m, d) ─┘

A probe is a pure function of the table of one seed: it opens no file, draws no random number it does not seed, and
answers for "val" and "test" alike. It fits on "train" alone, chooses on "val" alone.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from pipeline.errors import Refusal

SPLITS = {"train": "train", "val": "validation", "test": "test"}  # as in scores → as in the prepared data set
JUDGED = ("val", "test")


@dataclass(frozen=True, kw_only=True)
class Table:
    """The features of one seed beside what the data set knows of its n images.

    features: float32 (n, d).
    labels: int64 (n,), a position in `classes`, -1 for none.
    rows: "train", "val", "test" → int64 rows of all images of the split; "pretrain" → those that pretraining may see.
    ids: str (n,).
    groups: (n,) of any kind; images of one group are one draw of the bootstrap.
    pairs, pair_rows: float32 (2, m, d), features of two views of each of the images int64 (m,); geometry needs them.
    taps: float32 (n, d) by name, what every layer gives, from the first to the last; layers needs them.
    budgets: by name, int64 rows of the training images whose label each draw grants; few_labels needs them.
    """

    features: Tensor
    labels: Tensor
    rows: dict[str, Tensor]
    classes: list[str]
    ids: np.ndarray
    groups: np.ndarray
    pairs: Tensor | None = None
    pair_rows: Tensor | None = None
    taps: dict[str, Tensor] = field(default_factory=dict)
    budgets: dict[str, list[Tensor]] = field(default_factory=dict)

    def labeled(self, split: str) -> Tensor:
        """The rows of a split that have a label, int64."""
        rows = self.rows[split]
        return rows[self.labels[rows] >= 0]

    def examples(self, split: str) -> tuple[Tensor, Tensor]:
        """Features (m, d) and labels (m,) of the labeled images of a split."""
        rows = self.labeled(split)
        return self.features[rows], self.labels[rows]

    def require_labels(self) -> None:
        """Refuse fewer than 2 classes, one with nothing to fit on, and a split with nothing to judge on."""
        if len(self.classes) < 2:
            raise Refusal(
                f"the labels are of {len(self.classes)} class(es), so there is nothing to tell apart: label images of "
                f"more, or take the probes that need labels out of the evaluation"
            )
        counts = torch.bincount(self.labels[self.labeled("train")], minlength=len(self.classes))
        missing = [name for name, count in zip(self.classes, counts.tolist(), strict=True) if not count]
        if missing:
            raise Refusal(
                f"the train split has no labeled image of class {', '.join(map(repr, missing))}: label some of it, "
                f"give the split a larger share, or take the class out of the data set"
            )
        for split in ("val", "test"):
            if not len(self.labeled(split)):
                raise Refusal(
                    f"the {SPLITS[split]} split has no labeled image, so nothing can be measured: label some or give "
                    f"it a larger share"
                )


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a probe says of one table.

    protocol: how it was obtained, in words that are equal for all runs that may be compared.
    labels_used: training labels the probe was fitted on.
    predictions: "val", "test" → int64 class of each of `table.labeled(split)`; metrics and intervals follow from them.
    draws: as predictions, (draws, m), where a probe was fitted once for every draw of a budget; they are not kept.
    values: "val", "test" → {metric: value}, for what is not a classification.
    chosen: what was picked on the validation images, by name.
    """

    protocol: str
    labels_used: int
    predictions: dict[str, Tensor] = field(default_factory=dict)
    draws: dict[str, Tensor] = field(default_factory=dict)
    values: dict[str, dict[str, float]] = field(default_factory=dict)
    chosen: dict[str, float] = field(default_factory=dict)
