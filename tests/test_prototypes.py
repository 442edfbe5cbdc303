"""Prototypes and how images are assigned to them: Sinkhorn-Knopp, cross-entropy across views, spherical k-means."""

import math

import pytest
import torch
from method_cases import fixture
from torch import Tensor
from torch.nn.functional import normalize

from pipeline.errors import ParamsError
from stages.networks.precision import unit
from stages.networks.prototypes import (
    Clustering,
    Prototypes,
    cross_views,
    require_images,
    scores,
    sinkhorn,
    spherical_kmeans,
)


def cosines() -> Tensor:
    """The similarities (4, 6) of the fixture's images with its prototypes."""
    a, _, q = fixture()
    return (unit(a) @ unit(q).T).detach()


def bunches(count: int, size: int, width: int = 8) -> tuple[Tensor, Tensor]:
    """Unit rows around `count` random directions, and the direction of each."""
    generator = torch.Generator().manual_seed(count)
    centers = normalize(torch.randn(count, width, generator=generator), dim=1)
    own = torch.arange(count * size) % count
    return normalize(centers[own] + torch.randn(len(own), width, generator=generator) / 20, dim=1), own


# ---- learned prototypes


def prototypes() -> Prototypes:
    torch.manual_seed(0)
    return Prototypes(8, 6)


def test_prototypes_are_unit_rows_and_stay_so() -> None:
    """At the start, and after every step that moved them."""
    learned = prototypes()
    torch.testing.assert_close(learned.weight.norm(dim=1), torch.ones(6))
    with torch.no_grad():
        learned.weight.mul_(3).add_(0.1)
    moved = learned.weight.detach().clone()
    learned.renormalize()
    torch.testing.assert_close(learned.weight.detach(), normalize(moved, dim=1))
    assert learned.weight.requires_grad


def test_scores_are_cosines() -> None:
    """Of every image, or of every view of an image, with every prototype."""
    learned, z = prototypes(), unit(torch.randn(5, 2, 8, generator=torch.Generator().manual_seed(1)))
    found = learned(z, frozen=False)
    assert found.shape == (5, 2, 6)
    assert found[3, 1, 4].item() == pytest.approx((z[3, 1] @ learned.weight[4]).item(), abs=1e-6)


def test_frozen_prototypes_get_no_gradient() -> None:
    """They still give a gradient to the embeddings; an optimizer passes over them."""
    learned, z = prototypes(), torch.randn(5, 8, requires_grad=True)
    learned(z, frozen=True).square().sum().backward()
    assert learned.weight.grad is None
    assert z.grad is not None
    learned(z, frozen=False).square().sum().backward()
    assert learned.weight.grad is not None


def test_scores_are_in_full_precision_under_autocast() -> None:
    """They are divided by temperatures of 0.05 and less."""
    z = unit(torch.randn(5, 8))
    with torch.autocast("cpu", torch.bfloat16):
        found = scores(z, z)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, z @ z.T, rtol=0, atol=1e-6)


# ---- Sinkhorn-Knopp


def test_every_code_sums_to_one() -> None:
    """After the last step, which is that of the images, exactly; the prototypes are only nearly balanced."""
    codes = sinkhorn(cosines(), 0.05, 3)
    torch.testing.assert_close(codes.sum(1), torch.ones(4, dtype=torch.float64), rtol=0, atol=1e-12)
    assert codes.sum(0).max().item() == pytest.approx(1.0833, abs=1e-4)


def test_many_iterations_balance_the_prototypes() -> None:
    """After 1000, every image has 1 and every prototype n / k, to 1e-12."""
    codes = sinkhorn(cosines(), 0.05, 1000)
    torch.testing.assert_close(codes.sum(1), torch.ones(4, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(codes.sum(0), torch.full((6,), 4 / 6, dtype=torch.float64), rtol=0, atol=1e-12)


def test_constant_scores_have_flat_codes() -> None:
    """Where nothing is nearer than anything else, every entry is 1 / k."""
    codes = sinkhorn(torch.full((5, 7), 0.3), 0.05, 3)
    torch.testing.assert_close(codes, torch.full((5, 7), 1 / 7))


def test_what_is_balanced_stays() -> None:
    """Four images, each at a prototype of its own: their codes are these, within e^(-1 / 0.05)."""
    codes = sinkhorn(torch.eye(4, dtype=torch.float64), 0.05, 3)
    torch.testing.assert_close(codes, torch.eye(4, dtype=torch.float64), rtol=0, atol=1e-8)


def test_sinkhorn_is_the_paper_s_alternation() -> None:
    """The steps of the paper, one entry at a time, in Python floats."""
    n, k, epsilon = 4, 6, 0.05
    Q = [[math.exp(value / epsilon) for value in row] for row in cosines().T.tolist()]
    for _ in range(3):
        Q = [[value / sum(row) / k for value in row] for row in Q]
        columns = [sum(row[i] for row in Q) for i in range(n)]
        Q = [[value / columns[i] / n for i, value in enumerate(row)] for row in Q]
    expected = torch.tensor(Q, dtype=torch.float64).T * n
    torch.testing.assert_close(sinkhorn(cosines(), epsilon, 3), expected, rtol=0, atol=1e-12)


def test_codes_have_no_gradient_and_full_precision() -> None:
    """Also of scores with gradient, and of scores in bf16 under autocast; large scores do not overflow."""
    with torch.autocast("cpu", torch.bfloat16):
        codes = sinkhorn(cosines().bfloat16().requires_grad_(), 0.05, 3)
    assert codes.dtype == torch.float32
    assert not codes.requires_grad
    torch.testing.assert_close(codes.sum(1), torch.ones(4))
    assert sinkhorn(100 + cosines().float(), 0.05, 3).isfinite().all()


# ---- across views


def test_each_target_is_compared_with_the_other_views() -> None:
    """Two targets, four views: the mean over the six pairs of different views, term by term."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 4, 5, generator=generator, dtype=torch.float64)
    targets = torch.randn(3, 2, 5, generator=generator, dtype=torch.float64).softmax(2)
    terms = [
        -(targets[n, i] * (logits[n, j] / 0.3).log_softmax(0)).sum().item()
        for n in range(3)
        for i in range(2)
        for j in range(4)
        if i != j
    ]
    assert cross_views(targets, logits, 0.3).item() == pytest.approx(sum(terms) / len(terms), abs=1e-12)


def test_a_view_is_not_compared_with_itself() -> None:
    """With two views, target 0 meets view 1 and target 1 meets view 0: equal logits give the entropy, log k if flat."""
    flat = torch.full((3, 2, 5), 0.2)
    assert cross_views(flat, torch.zeros(3, 2, 5), 0.1).item() == pytest.approx(math.log(5), abs=1e-6)
    own = torch.eye(2).expand(3, 2, 2)
    assert cross_views(own, 1000 * own, 1.0).item() == pytest.approx(1000)
    assert cross_views(own, 1000 * own.flip(1), 1.0).item() == pytest.approx(0)


# ---- k-means


def test_k_means_finds_the_bunches() -> None:
    """Rows around six directions are told apart, and their centroids are unit rows near the directions."""
    rows, own = bunches(6, 20)
    found = [spherical_kmeans(rows, 6, iterations=20, seed=seed) for seed in range(8)]
    centroids, assigned = max(found, key=lambda each: float((rows * each[0][each[1]]).sum()))
    assert len({(a, b) for a, b in zip(own.tolist(), assigned.tolist(), strict=True)}) == 6
    torch.testing.assert_close(centroids.norm(dim=1), torch.ones(6))
    assert (rows * centroids[assigned]).sum(1).min() > 0.9


def test_a_row_belongs_to_its_nearest_centroid() -> None:
    """By the cosine, also where bunches overlap."""
    rows = unit(torch.randn(200, 5, generator=torch.Generator().manual_seed(0)))
    centroids, assigned = spherical_kmeans(rows, 9, iterations=10, seed=0)
    assert torch.equal(assigned, (rows @ centroids.T).argmax(1))
    assert set(assigned.tolist()) == set(range(9))


def test_k_means_is_repeatable() -> None:
    """The same rows and seed give the same bits, another seed others."""
    rows = unit(torch.randn(500, 16, generator=torch.Generator().manual_seed(0)))
    first, again, other = (spherical_kmeans(rows, 20, iterations=10, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])


def test_more_prototypes_than_images_is_refused() -> None:
    """By a sentence with both numbers; as many as images are taken."""
    rows, _ = bunches(2, 2)
    require_images(4, 4)
    with pytest.raises(ParamsError, match="5 prototypes for 4 images"):
        spherical_kmeans(rows, 5, iterations=1, seed=0)
    with pytest.raises(ParamsError, match="5 prototypes for 4 images"):
        Clustering(9, 8, 5, visible=4)


def test_a_clustering_remembers_who_belongs_where() -> None:
    """Only the images that were given: the others stay at −1; it is all in the state_dict."""
    rows, _ = bunches(3, 4)
    clustering = Clustering(20, 8, 3, visible=12)
    assert (clustering.assigned == -1).all()
    index = torch.arange(12) + 5
    clustering.fit(index, rows, iterations=10, seed=0)
    centroids, assigned = spherical_kmeans(rows, 3, iterations=10, seed=0)
    assert torch.equal(clustering.assigned[index], assigned)
    assert (clustering.assigned[:5] == -1).all()
    assert (clustering.assigned[17:] == -1).all()
    assert torch.equal(clustering.centroids, centroids)
    assert set(clustering.state_dict()) == {"centroids", "assigned"}


def test_the_order_of_the_images_does_not_matter() -> None:
    """Centroids permuted together with what the images are called: each image keeps its centroid."""
    rows, _ = bunches(4, 6)
    clustering, shuffled = Clustering(24, 8, 4, visible=24), Clustering(24, 8, 4, visible=24)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    clustering.fit(torch.arange(24), rows, iterations=10, seed=0)
    shuffled.fit(order, rows, iterations=10, seed=0)
    assert torch.equal(shuffled.assigned[order], clustering.assigned)
