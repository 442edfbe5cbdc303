"""Tables of features for the probes: of any tensors, and of the pixels of digits."""

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from stages.probes._table import Table


def make_table(features: Tensor, labels: Tensor, *, classes: int, train: int, val: int) -> Table:
    """A table whose first `train` images are train, the next `val` validation, the rest test; pairs of all images."""
    n = len(features)
    order = torch.arange(n)
    return Table(
        features=features.float(),
        labels=labels,
        rows={"train": order[:train], "val": order[train : train + val], "test": order[train + val :]},
        classes=[str(name) for name in range(classes)],
        ids=np.array([f"image-{row}" for row in range(n)]),
        groups=np.arange(n),
        pairs=torch.stack([features, features.roll(1, 1)]).float(),
        pair_rows=order,
        taps={"stem": features[:, :1].float(), "pool": features.float()},
        budgets={"some": [order[: train // 2], order[train // 2 : train]]},
    )


def digits_table() -> Table:
    """1080 train, 358 validation and 359 test images of digits, their pixels as features."""
    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    features = torch.from_numpy(pixels[order] / 16)
    return make_table(features, torch.from_numpy(labels[order]), classes=10, train=1080, val=358)
