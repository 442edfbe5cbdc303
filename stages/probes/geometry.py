"""The shape of the feature space, without labels.

    alignment    mean ‖z_i - z_i'‖²  over two views of an image          0 best: an image stays where it is
    uniformity   log mean exp(-2 ‖z_i - z_j‖²)  over pairs i < j         0 collapsed … -4 spread over the sphere
    rankme       exp(-Σ p_k log p_k),  p_k = σ_k / Σσ + 1e-7             1 collapsed … d all directions in use
    feature_std  √d · mean over dimensions of std(z)                     0 collapsed … 1 isotropic

z: features on the unit sphere; σ: singular values of the features as they are. Sources: Wang and Isola 2020
(arXiv:2005.10242), Garrido et al. 2022 (arXiv:2210.02885). In float64.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import normalize

from pipeline.errors import Refusal
from stages.probes._table import JUDGED, Table, Verdict

SAMPLES = 25_600  # at most so many images of a split, evenly spaced: the sample size of RankMe
BLOCK = 1024  # rows of the pairwise distances held at a time


def score(table: Table) -> Verdict:
    """The four measures on the validation and on the test images, labeled or not."""
    return Verdict(
        protocol=f"on the unit sphere (rankme: as they are), at most {SAMPLES} images of the split, no labels",
        labels_used=0,
        values={split: _measures(table, split) for split in JUDGED},
    )


def _measures(table: Table, split: str) -> dict[str, float]:
    features = table.features[_sample(table.rows[split])].double()
    if len(features) < 2:
        raise Refusal(
            f"the split {split} has one image, and geometry is about pairs of images: make its share larger, or leave "
            "the probe out"
        )
    first, second = _pairs(table, split)
    return {
        "alignment": alignment(first.double(), second.double()).item(),
        "uniformity": uniformity(features).item(),
        "rankme": rankme(features).item(),
        "feature_std": feature_std(features).item(),
    }


def alignment(first: Tensor, second: Tensor) -> Tensor:
    """Mean squared distance on the unit sphere between first (m, d) and second (m, d), in 0..4."""
    return (normalize(first) - normalize(second)).square().sum(1).mean()


def uniformity(features: Tensor) -> Tensor:
    """Log of the mean Gaussian potential (t = 2) over the n (n - 1) / 2 pairs of features (n, d), n ≥ 2."""
    z = normalize(features)
    total = z.new_zeros(())
    for start in range(0, len(z), BLOCK):
        block, others = z[start : start + BLOCK], z[start:]
        square = (2 - 2 * block @ others.T).clamp(min=0)
        total += (-2 * square).exp().triu(diagonal=1).sum()
    return (total / (len(z) * (len(z) - 1) / 2)).log()


def rankme(features: Tensor) -> Tensor:
    """Effective rank of features (n, d): exp of the entropy of the normalized singular values."""
    values = torch.linalg.svdvals(features)
    share = values / values.sum().clamp(min=torch.finfo(values.dtype).tiny) + 1e-7
    return (-share * share.log()).sum().exp()


def feature_std(features: Tensor) -> Tensor:
    """Mean standard deviation per dimension on the unit sphere, times √d, of features (n, d)."""
    return normalize(features).std(0, correction=0).mean() * math.sqrt(features.shape[1])


def _pairs(table: Table, split: str) -> Tensor:
    """The pairs (2, m, d) of a split."""
    if table.pairs is None or table.pair_rows is None:
        raise Refusal("the geometry probe compares two views of each image, and this evaluation has no `pairs`")
    return table.pairs[:, torch.isin(table.pair_rows, table.rows[split])]


def _sample(rows: Tensor) -> Tensor:
    """At most SAMPLES of the rows, evenly spaced."""
    return rows[:: math.ceil(len(rows) / SAMPLES)]
