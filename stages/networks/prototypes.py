"""Prototypes: directions on the unit sphere that stand for groups of images, learned or found by k-means.

    z (n, d) on the sphere ─ prototypes C (k, d) → scores z Cᵀ (n, k) → a distribution over the prototypes

Who belongs to which prototype is decided by Sinkhorn-Knopp (SwAV), a softmax (DINO) or k-means (DeepCluster, PCL).
"""

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor, nn
from torch.nn.functional import normalize

from pipeline.errors import ParamsError
from stages.networks.precision import full_precision

CELLS = 2**24  # scores held at a time


class Prototypes(nn.Module):
    """`count` learned unit rows (count, width); `renormalize` after every step keeps them on the sphere."""

    def __init__(self, width: int, count: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(normalize(torch.randn(count, width), dim=1))

    def forward(self, z: Tensor, frozen: bool) -> Tensor:
        """Scores (…, count) of unit rows z (…, width); `frozen`: the prototypes get no gradient, so they stay."""
        return scores(z, self.weight.detach() if frozen else self.weight)

    @torch.no_grad()
    def renormalize(self) -> None:
        """Put every prototype back on the sphere."""
        self.weight.copy_(normalize(self.weight, dim=1))


class Clustering(nn.Module):
    """`count` unit centroids of the images, and the one that each of them belongs to, as of the last `fit`.

    ParamsError unless the `visible` ones, those that `fit` will be given, are as many as the centroids.
    """

    centroids: Tensor  # (count, width)
    assigned: Tensor  # int64 (images,): −1 for an image that was never clustered

    def __init__(self, images: int, width: int, count: int, *, visible: int) -> None:
        super().__init__()
        require_images(count, visible)
        self.register_buffer("centroids", torch.zeros(count, width))
        self.register_buffer("assigned", torch.full((images,), -1))

    @torch.no_grad()
    def fit(self, index: Tensor, rows: Tensor, *, iterations: int, seed: int) -> None:
        """Cluster the unit rows (m, width) of the images int64 (m,)."""
        centroids, assigned = spherical_kmeans(rows, len(self.centroids), iterations=iterations, seed=seed)
        self.centroids.copy_(centroids)
        self.assigned.index_copy_(0, index, assigned)


@full_precision
def scores(z: Tensor, prototypes: Tensor) -> Tensor:
    """The cosines (…, k) of unit rows z (…, d) with unit rows (k, d)."""
    return z @ prototypes.T


@torch.no_grad()
@full_precision
def sinkhorn(scores: Tensor, epsilon: float, iterations: int) -> Tensor:
    """Codes (n, k) of scores (n, k): each sums to 1, all prototypes get nearly n / k (SwAV, arXiv:2006.09882, §3.1).

    Q = exp(scores / ε)ᵀ; every iteration brings the rows to 1 / k and then the columns to 1 / n.
    """
    n, k = scores.shape
    Q = ((scores - scores.max()) / epsilon).exp().T  # the constant cancels, and exp(1 / 0.05) needs no room
    Q = Q / Q.sum()
    for _ in range(iterations):
        Q = Q / Q.sum(1, keepdim=True) / k
        Q = Q / Q.sum(0, keepdim=True) / n
    return Q.T * n


@full_precision
def cross_views(targets: Tensor, logits: Tensor, temperature: float) -> Tensor:
    """Mean over targets i, over the other views j ≠ i and over n images of −Σ_k target_ik log softmax(logits_j / τ)_k.

    targets (n, 2, k): distributions of the large views, which come first; logits (n, views, k).
    """
    n, views, _ = logits.shape
    pairs = -torch.einsum("nik,njk->ij", targets, (logits / temperature).log_softmax(2)) / n
    return (pairs.sum() - pairs.diagonal().sum()) / (2 * (views - 1))


def spherical_kmeans(rows: Tensor, count: int, *, iterations: int, seed: int) -> tuple[Tensor, Tensor]:
    """Unit centroids (count, d) of unit rows (n, d), and the nearest of each row, int64 (n,).

    scikit-learn's Lloyd on the CPU, from `count` of the rows at random: Euclidean, its means are brought to the sphere
    at the end alone, so a cluster may end empty. One thread: the order in which several add up is not always the same.
    ParamsError for more centroids than rows.
    """
    from sklearn.cluster import KMeans

    require_images(count, len(rows))
    kmeans = KMeans(count, init="random", n_init=1, max_iter=iterations, tol=0, random_state=seed, algorithm="lloyd")
    with threadpool_limits(1):
        found = kmeans.fit(rows.detach().cpu().numpy())
    centroids = normalize(torch.from_numpy(found.cluster_centers_).to(rows), dim=1)
    blocks = rows.split(max(1, CELLS // count))
    return centroids, torch.cat([scores(block, centroids).argmax(1) for block in blocks])


def require_images(prototypes: int, images: int) -> None:
    """ParamsError unless every prototype could have an image."""
    if prototypes > images:
        raise ParamsError(
            f"params.yaml: {prototypes} prototypes for {images} images that the run may see: make it fewer than the "
            f"images, so that each can stand for several"
        )
