"""USL: dense images, in places that differ (Wang, Lian, Yu 2022, Unsupervised Selective Labeling, arXiv:2110.03006).

    x on the unit sphere      d_i = mean of ‖x_i − x_j‖² over the K nearest x_j      density_i = 1 / d_i
    as many k-means clusters as images are wanted; of each the image with the largest  score_i = 1 / d_i − λ r_i
    r_i ← μ r_i + (1 − μ) Σ 1 / ‖x_i − s‖^2α over the picked s of other clusters with ‖x_i − s‖² < horizon

No label is used. Images that have one count as picked, too, so that a second selection goes elsewhere. Exact, in
float32, a block of images at a time.
"""

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor
from torch.nn.functional import normalize

from pipeline.params import Count, NonNegative, Positive, Probability
from stages.selectors._picked import Picked

CELLS = 2**25  # distances held at a time
LEAST = 1e-6  # squared distance of two images that are the same


def select(
    features: Tensor,
    known: Tensor,
    seed: int,
    images: int,
    *,
    neighbors: Count,
    iterations: Count,
    rounds: Count,
    weight: NonNegative,
    momentum: Probability,
    horizon: Positive,
    alpha: Positive,
) -> Picked:
    """`images` of the candidates, or all that differ; features (n, d) of the candidates, (m, d) of those with a label.

    neighbors: K; iterations: of k-means, at most; rounds: of picking; weight: λ; momentum: μ; horizon: a squared
    distance, of at most 4; alpha: α.
    """
    x = normalize(features)
    density = 1 / distances(x, neighbors)
    cluster = clusters(x, min(images, len(x)), iterations, seed)
    nowhere = cluster.new_full((len(known),), -1)  # is in no cluster, so it repels in all
    standing = closeness(x, cluster, normalize(known), nowhere, horizon, alpha)
    repulsion, score = torch.zeros_like(density), density
    picked = best(score, cluster)
    for _ in range(rounds):
        nearby = standing + closeness(x, cluster, x[picked], cluster[picked], horizon, alpha)
        repulsion = momentum * repulsion + (1 - momentum) * nearby
        score = density - weight * repulsion
        picked = best(score, cluster)
    picked = picked[score[picked].sort(descending=True, stable=True).indices]
    return Picked(picked, cluster[picked], density[picked], score[picked])


def distances(x: Tensor, neighbors: int) -> Tensor:
    """Mean squared distance of each of unit x (n, d) to its nearest `neighbors`, or to all others if they are fewer."""
    k, parts = min(neighbors, len(x) - 1), []
    for start, block in blocks(x, len(x)):
        cosines = block @ x.T
        cosines[range(len(block)), range(start, start + len(block))] = -1.0  # nobody is a neighbor of itself
        parts.append(2 - 2 * cosines.topk(k).values.mean(1) if k else cosines.new_full((len(block),), 4.0))
    return torch.cat(parts).clamp_min(LEAST)


def closeness(x: Tensor, cluster: Tensor, others: Tensor, where: Tensor, horizon: float, alpha: float) -> Tensor:
    """Σ 1 / ‖x_i − s‖^2α for each of x (n, d), over the s in `others` (m, d) that are near, and not in its cluster."""
    parts = []
    for start, block in blocks(x, len(others)):
        squared = (2 - 2 * block @ others.T).clamp_min(LEAST)
        own = cluster[start : start + len(block), None] == where
        parts.append(squared.pow(-alpha).masked_fill_(own | (squared >= horizon), 0).sum(1))
    return torch.cat(parts)


def clusters(x: Tensor, count: int, iterations: int, seed: int) -> Tensor:
    """The k-means cluster of each of x (n, d), int64 (n,).

    scikit-learn's, on the CPU, in one thread: the order in which several add up is not always the same.
    """
    from sklearn.cluster import KMeans

    kmeans = KMeans(count, n_init=1, max_iter=iterations, random_state=seed)
    with threadpool_limits(1):
        return torch.from_numpy(kmeans.fit_predict(x.cpu().numpy()).astype(np.int64)).to(x.device)


def best(score: Tensor, cluster: Tensor) -> Tensor:
    """The position of the largest score (n,) of each cluster that is not empty; of equal ones the first."""
    order = score.sort(descending=True, stable=True).indices
    order = order[cluster[order].sort(stable=True).indices]
    starts = cluster[order].unique_consecutive(return_counts=True)[1].cumsum(0)
    return order[torch.cat([starts.new_zeros(1), starts[:-1]])]


def blocks(x: Tensor, width: int) -> list[tuple[int, Tensor]]:
    """Pieces of x (n, d), each with the position of its first row; piece times width is held at a time."""
    rows = max(1, CELLS // max(1, width))
    return [(start, x[start : start + rows]) for start in range(0, len(x), rows)]
