"""Clustering methods, SwAV, DINO, DeepCluster-v2 and PCL: their equations against known values, and what moves when."""

import math
from typing import Any

import pytest
import torch
from method_cases import ALL, IMAGES, ROWS, SETTINGS, batch, fixture, halves, losses, norms, orthonormal, start_epoch
from method_cases import method as named
from torch import Tensor, nn

from pipeline.errors import ParamsError
from stages.datasets._storage import Packed
from stages.methods._method import Batch, per_size
from stages.methods.dino import DINO, centered_softmax, entropy
from stages.methods.pcl import concentration, proto_nce
from stages.networks.contrast import info_nce
from stages.networks.precision import unit
from stages.networks.prototypes import cross_views, scores, sinkhorn
from stages.pretrain import require_views
from stages.training.loop import Images, Plan

SWAV, DINO_, DEEPCLUSTER, PCL = "swav", "dino", "deepcluster_v2", "pcl"


def method(monkeypatch: pytest.MonkeyPatch, name: str, **changes: object) -> Any:
    """A method with some of its settings changed."""
    monkeypatch.setitem(SETTINGS, name, SETTINGS[name] | changes)
    return named(name)


def at(progress: float, views: int | range = range(2, 5)) -> Batch:
    """A batch that comes when this much of the training is done."""
    given = batch(views)
    return Batch(given.views, given.index, given.labels, progress)


def two_views() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The fixture, and the scores (4, 2, 6) of both views with the prototypes q."""
    a, b, q = fixture()
    return a, b, q, scores(torch.stack([unit(a), unit(b)], dim=1), unit(q))


def backward(learner: nn.Module, given: Batch) -> Tensor:
    loss = learner(given)["loss"]
    loss.backward()
    return loss.detach()


# ---- views of several sizes


def test_views_of_one_size_share_a_forward() -> None:
    """Neighbors of one size are one batch to the network, in order; others are forwarded on their own."""
    seen: list[tuple[int, ...]] = []

    def network(x: Tensor) -> Tensor:
        seen.append(tuple(x.shape))
        return x.flatten(1).sum(1, keepdim=True)

    views = [torch.full((3, 1, side, side), float(k)) for k, side in enumerate([4, 4, 2, 2, 2])]
    found = per_size(network, views)
    assert seen == [(6, 1, 4, 4), (9, 1, 2, 2)]
    assert [view.tolist() for view in found] == [[[16.0 * k]] * 3 for k in (0, 1)] + [
        [[4.0 * k]] * 3 for k in (2, 3, 4)
    ]


@pytest.mark.parametrize("name", [SWAV, DINO_, DEEPCLUSTER])
def test_small_views_take_part(name: str) -> None:
    """The loss depends on every view; without small ones it is that of the two large ones."""
    given = batch(range(2, 5))
    loss = named(name)(given)["loss"]
    for view in range(4):
        views = list(given.views)
        views[view] = views[view].flip(0)
        assert named(name)(Batch(views, given.index, given.labels))["loss"] != loss
    assert named(name)(batch(2))["loss"].isfinite()


@pytest.mark.parametrize(
    ("name", "count", "wanted"), [(SWAV, 1, "2 to 16"), (SWAV, 17, "2 to 16"), (PCL, 3, "2"), ("npid", 2, "1")]
)
def test_too_few_or_too_many_views(name: str, count: int, wanted: str) -> None:
    """Refused before the training: how many there are, and how many the method takes."""
    pixels = torch.zeros(1, 4, 4, 3, dtype=torch.uint8)
    images = Images(Packed(pixels.numpy()), torch.tensor([-1]), torch.arange(1))

    def plan(views: int) -> Plan:
        return Plan("seed-0", 0, 1, None, lambda *_: [pixels] * views, "fp32", None, None)  # type: ignore[arg-type]

    with pytest.raises(ParamsError, match=f"make {count} view.* {name} compares {wanted}: choose views that"):
        require_views(plan(count), named(name), images, name)
    require_views(plan(int(wanted[0])), named(name), images, name)


@pytest.mark.parametrize("name", [SWAV, DINO_, DEEPCLUSTER])
def test_one_large_view_is_too_few(name: str) -> None:
    """Refused before the training where the second view is a small one already; small ones may follow two large."""
    pixels = torch.zeros(1, 4, 4, 3, dtype=torch.uint8)
    images = Images(Packed(pixels.numpy()), torch.tensor([-1]), torch.arange(1))

    def plan(*sides: int) -> Plan:
        views = [torch.zeros(1, 3, side, side) for side in sides]
        return Plan("seed-0", 0, 1, None, lambda *_: views, "fp32", None, None)  # type: ignore[arg-type]

    with pytest.raises(ParamsError, match=f"have 8 and 6 pixels a side .* {name} compares two large"):
        require_views(plan(8, 6, 6), named(name), images, name)
    require_views(plan(8, 8, 6), named(name), images, name)


# ---- pieces of a batch

MEMORY = {PCL: "queue.rows", SWAV: "queues.0.rows", DINO_: "center", DEEPCLUSTER: "bank.rows", "npid": "bank.rows"}


@torch.no_grad()
def embedded(learner: Any, given: Batch, name: str) -> Tensor:
    """What a method remembers of each image of a batch."""
    if name == DINO_:
        return sum(learner.teacher(torch.cat(given.views[:2])).chunk(2)) / 2
    if name == PCL:
        return unit(learner.teacher(given.views[1]))
    h = torch.cat(per_size(learner.encoder, given.views))
    return unit(learner.projector(h))[: len(given.index)]


@pytest.mark.parametrize("name", MEMORY)
def test_pieces_of_a_batch_are_remembered_together(name: str) -> None:
    """Nothing is before the step is done; then the rows of all pieces are, in order, and they start anew."""
    learner, twin = named(name), named(name)

    def memory() -> Tensor:
        return learner.state_dict()[MEMORY[name]].clone()

    def expected(rows: Tensor, before: Tensor, step: int) -> Tensor:
        if name == DINO_:
            return 0.99 * before + 0.01 * rows.mean(0)
        if name == "npid":
            return unit(before + rows)
        if name == DEEPCLUSTER:
            return rows
        return torch.cat([before[:IMAGES], rows] if step else [rows, before[IMAGES:]])  # a queue of two batches

    for step in range(2):
        before, pieces = memory(), halves(batch(learner.views, seed=step))
        twin.load_state_dict(learner.state_dict())
        rows = torch.cat([embedded(twin, piece, name) for piece in pieces])
        for piece in pieces:
            learner(piece)
        assert torch.equal(memory(), before)
        learner.after_step(0.5)
        torch.testing.assert_close(memory(), expected(rows, before, step))


# ---- SwAV


def test_golden_swav() -> None:
    """Value and gradients of an independent computation: τ 0.1, ε 0.05, three iterations; codes have no gradient."""
    a, b, q, found = two_views()
    codes = torch.stack([sinkhorn(found[:, view], 0.05, 3) for view in (0, 1)], dim=1)
    loss = cross_views(codes, found, 0.1)
    assert loss.item() == pytest.approx(2.51111108, abs=1e-6)
    assert norms(loss, a, b, q) == pytest.approx([0.91634574, 1.06041872, 1.08488957], abs=1e-6)


def test_swav_that_has_collapsed_stays_at_log_k() -> None:
    """Where all images have the same scores, codes are flat and the loss is log k."""
    found = torch.zeros(5, 3, 3000, dtype=torch.float64)
    codes = torch.stack([sinkhorn(found[:, view], 0.05, 3) for view in (0, 1)], dim=1)
    assert cross_views(codes, found, 0.1).item() == pytest.approx(8.006368, abs=1e-6)


def test_swav_is_the_equation_of_its_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Codes of the two large views, predicted from all others, by the cosines with the prototypes."""
    learner, twin = (method(monkeypatch, SWAV, queue=0) for _ in range(2))
    given = batch(range(2, 5))
    h = torch.cat([twin.encoder(torch.cat(given.views[:2])), twin.encoder(torch.cat(given.views[2:]))])
    z = unit(torch.stack(twin.projector(h).chunk(4), dim=1))
    found = z @ twin.prototypes.weight.T
    codes = torch.stack([sinkhorn(found[:, view], 0.05, 3) for view in (0, 1)], dim=1)
    assert learner(given)["loss"].item() == pytest.approx(cross_views(codes, found, 0.1).item(), abs=1e-6)


def test_prototypes_stay_on_the_sphere() -> None:
    """After every step."""
    learner = named(SWAV)
    before = learner.prototypes.weight.detach().clone()
    losses(learner, 2, learner.views)
    assert not torch.allclose(learner.prototypes.weight, before, atol=1e-4)
    torch.testing.assert_close(learner.prototypes.weight.norm(dim=1), torch.ones(6))


def test_prototypes_are_frozen_for_a_share_of_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until then they get no gradient, while the encoder does."""
    learner = method(monkeypatch, SWAV, frozen=0.25)
    backward(learner, at(0.2499))
    assert learner.prototypes.weight.grad is None
    assert all(p.grad is not None for p in learner.encoder.parameters())
    backward(learner, at(0.25))
    assert learner.prototypes.weight.grad.any()


def test_the_queue_joins_at_its_share_of_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before, the loss is that without a queue; then codes are balanced together with the queue of their view."""
    learner = method(monkeypatch, SWAV, queue=24, queue_from=0.5)
    without = method(monkeypatch, SWAV, queue=0)
    losses(learner, 3, learner.views)
    without.load_state_dict(learner.state_dict(), strict=False)
    assert torch.equal(learner(at(0.49))["loss"], without(at(0.49))["loss"])
    assert not torch.equal(learner(at(0.5))["loss"], without(at(0.5))["loss"])
    found = torch.randn(5, 6, generator=torch.Generator().manual_seed(0)) / 3
    for view, queue in enumerate(learner.queues):
        together = sinkhorn(torch.cat([queue.rows @ learner.prototypes.weight.T, found]), 0.05, 3)
        torch.testing.assert_close(learner._codes(found, view, 0.5), together[24:])


def test_queues_hold_the_last_embeddings_of_the_large_views(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each its own view, from the first step on, after the step."""
    learner = method(monkeypatch, SWAV, queue=24, queue_from=0.5)
    given = at(0.0)
    before = [queue.rows.clone() for queue in learner.queues]
    twin = method(monkeypatch, SWAV, queue=24, queue_from=0.5)
    h = torch.cat(per_size(twin.encoder, given.views))
    z = unit(twin.projector(h)).chunk(4)
    learner(given)
    assert all(torch.equal(queue.rows, rows) for queue, rows in zip(learner.queues, before, strict=True))
    learner.after_step(0.1)
    for view, queue in enumerate(learner.queues):
        torch.testing.assert_close(queue.rows[:IMAGES], z[view])
        assert torch.equal(queue.rows[IMAGES:], before[view][IMAGES:])
    learner.after_step(0.2)  # nothing came since
    assert all(
        torch.equal(queue.rows[IMAGES:], rows[IMAGES:]) for queue, rows in zip(learner.queues, before, strict=True)
    )


def test_a_queue_holds_whole_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Anything else is refused before the training, with the sizes."""
    with pytest.raises(ParamsError, match=r"queue of 30 .* 12 .* 24 or 36"):
        method(monkeypatch, SWAV, queue=30)


@pytest.mark.parametrize(("name", "prototypes"), [(SWAV, 13), (DEEPCLUSTER, [4, 13]), (PCL, [13])])
def test_more_prototypes_than_images(monkeypatch: pytest.MonkeyPatch, name: str, prototypes: object) -> None:
    """Refused before the training, with both numbers."""
    with pytest.raises(ParamsError, match="13 prototypes for 12 images"):
        method(monkeypatch, name, prototypes=prototypes)


@pytest.mark.parametrize("name", [SWAV, DINO_, DEEPCLUSTER, PCL, "npid"])
@pytest.mark.parametrize("temperature", [0, -0.1])
def test_temperatures_are_positive(monkeypatch: pytest.MonkeyPatch, name: str, temperature: float) -> None:
    """Zero and less are refused by type."""
    with pytest.raises(ParamsError, match="temperature"):
        method(monkeypatch, name, temperature=temperature)


# ---- DINO


def test_golden_dino() -> None:
    """Value and gradients of an independent computation: τ 0.1, τ_t 0.04, no center; the teacher has no gradient."""
    a, b, q, found = two_views()
    targets = centered_softmax(found.detach(), torch.zeros(6, dtype=torch.float64), 0.04)
    loss = cross_views(targets, found, 0.1)
    assert loss.item() == pytest.approx(2.17931270, abs=1e-6)
    assert norms(loss, a, b, q) == pytest.approx([1.05364770, 1.04704341, 1.26210234], abs=1e-6)


def test_the_center_is_taken_off_the_teacher() -> None:
    """Before the temperature: a teacher that always says its center is flat."""
    logits = torch.tensor([[1.0, 3.0, -2.0]])
    torch.testing.assert_close(centered_softmax(logits, logits[0], 0.04), torch.full((1, 3), 1 / 3))
    expected = (torch.tensor([[1.0, 2.0, 0.0]]) / 0.5).softmax(1)
    torch.testing.assert_close(centered_softmax(logits, torch.tensor([0.0, 1.0, -2.0]), 0.5), expected)


def test_the_entropy_tells_collapse() -> None:
    """0 where all is on one prototype, log k where all are equal."""
    assert entropy(orthonormal(4)).item() == 0
    assert entropy(torch.full((3, 2, 5), 0.2)).item() == pytest.approx(math.log(5), abs=1e-6)


def test_dino_is_the_equation_of_its_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Targets by the teacher on the two large views, at the temperature of this progress, with the center."""
    ramp = {"start": 0.04, "end": 0.08}
    learner, twin = (method(monkeypatch, DINO_, teacher_temperature=ramp) for _ in range(2))
    center = torch.randn(10, generator=torch.Generator().manual_seed(0)) / 10
    for each in (learner, twin):
        each.center.copy_(center)
    given = at(0.5)
    logits = torch.stack([twin.head(h) for h in per_size(twin.encoder, given.views)], dim=1)
    large = torch.stack([*twin.teacher(torch.cat(given.views[:2])).chunk(2)], dim=1)
    expected = cross_views(((large - center) / 0.06).softmax(2), logits, 0.1)
    found = learner(given)
    assert found["loss"].item() == pytest.approx(expected.item(), abs=1e-5)
    assert found["entropy"].item() == pytest.approx(entropy(((large - center) / 0.06).softmax(2)).item(), abs=1e-5)


def test_logits_are_cosines_with_the_last_layer() -> None:
    """Its rows count by their direction alone, as does the bottleneck."""
    learner = named(DINO_)
    assert isinstance(learner, DINO)
    h = torch.randn(7, 16, generator=torch.Generator().manual_seed(0))
    logits = learner.head(h)
    assert logits.abs().max() <= 1 + 1e-6
    with torch.no_grad():
        learner.head.last.mul_(torch.rand(10, 1) + 0.5)
        learner.head.layers[-1].weight.mul_(3)
    torch.testing.assert_close(learner.head(h), logits)


def test_the_last_layer_is_frozen_for_a_share_of_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until then it gets no gradient, while the rest of the head does."""
    learner = method(monkeypatch, DINO_, frozen=0.25)
    backward(learner, at(0.2))
    assert learner.head.last.grad is None
    assert all(p.grad.any() for p in learner.head.layers.parameters())
    backward(learner, at(0.25))
    assert learner.head.last.grad.any()


def test_the_teacher_of_dino_follows_and_gets_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the step, by the momentum of this progress, encoder and head alike."""
    learner = method(monkeypatch, DINO_, momentum={"start": 0.5, "end": 1.0})
    backward(learner, at(0.0))
    assert all(p.grad is None for p in learner.teacher.parameters())
    with torch.no_grad():
        for p in [*learner.encoder.parameters(), *learner.head.parameters()]:
            p.add_(1.0)
    before = [p.clone() for p in learner.teacher.parameters()]
    learner.after_step(0.5)
    for old, new in zip(before, learner.teacher.parameters(), strict=True):
        torch.testing.assert_close(new, old + 0.25)


def test_the_center_follows_the_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    """After each step c ← m c + (1 − m) mean(t); for a constant t from 0 it is (1 − mⁿ) t after n."""
    learner = method(monkeypatch, DINO_, center_momentum=0.9, momentum={"start": 1.0, "end": 1.0})
    given = at(0.0)
    t = learner.teacher(torch.cat(given.views[:2])).mean(0)
    for step in range(10):
        learner(given)
        assert step or not learner.center.any()
        learner.after_step(0.5)
    torch.testing.assert_close(learner.center, 0.651322 * t, rtol=1e-4, atol=1e-6)
    other, before = batch(range(2, 5), seed=1), learner.center.clone()
    learner(other)
    learner.after_step(0.5)  # the earlier batches are in the center already
    expected = 0.9 * before + 0.1 * learner.teacher(torch.cat(other.views[:2])).mean(0)
    torch.testing.assert_close(learner.center, expected)
    assert "center" in learner.state_dict()


# ---- DeepCluster-v2


def test_deepcluster_classifies_by_its_clusters(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mean over heads and views of the cross-entropy with the cluster that the image belongs to."""
    learner, twin = (method(monkeypatch, DEEPCLUSTER) for _ in range(2))
    given = batch(range(2, 5))
    given.index.copy_(given.index.flip(0))
    z = unit(torch.stack(twin.projector(torch.cat(per_size(twin.encoder, given.views))).chunk(4), dim=1))
    terms = [
        -(z[n, v] @ head.centroids.T / 0.1).log_softmax(0)[head.assigned[given.index[n]]].item()
        for head in twin.heads
        for v in range(4)
        for n in range(IMAGES)
    ]
    # the heads have equally many terms
    assert learner(given)["loss"].item() == pytest.approx(sum(terms) / len(terms), abs=1e-5)


def test_clusters_begin_with_a_look_at_all_images() -> None:
    """The first epoch clusters the embeddings of the images as they are; the bank holds them."""
    learner = named(DEEPCLUSTER)
    twin = named(DEEPCLUSTER)
    twin.eval()
    rows = twin.represent(batch(1).views[0]).detach()
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(IMAGES))
    torch.testing.assert_close(learner.bank.rows, rows)
    assert [len(head.centroids) for head in learner.heads] == [3, 4]
    for head in learner.heads:
        assert torch.equal(head.assigned[ROWS], (rows @ head.centroids.T).argmax(1))
        torch.testing.assert_close(head.centroids.norm(dim=1), torch.ones(len(head.centroids)))


def test_clusters_follow_the_bank_an_epoch_later() -> None:
    """Within an epoch they stay; the next one clusters what the first views left in the bank, and looks at nothing."""
    learner = named(DEEPCLUSTER)
    losses(learner, 3, learner.views)
    before = [head.centroids.clone() for head in learner.heads]
    learner.on_epoch_start(0.5, lambda: pytest.fail("a second look"))
    for head, centroids in zip(learner.heads, before, strict=True):
        assert not torch.equal(head.centroids, centroids)
        assert torch.equal(head.assigned[ROWS], (learner.bank.rows @ head.centroids.T).argmax(1))
    again = [head.centroids.clone() for head in learner.heads]
    learner.on_epoch_start(0.5, lambda: pytest.fail("a second look"))
    assert all(torch.equal(head.centroids, same) for head, same in zip(learner.heads, again, strict=True))


def test_the_bank_holds_the_first_view(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the step, by index."""
    learner, twin = (method(monkeypatch, DEEPCLUSTER) for _ in range(2))
    given = batch(range(2, 5))
    given.index.copy_(given.index.roll(3))
    z = unit(twin.projector(torch.cat(per_size(twin.encoder, given.views)))).chunk(4)[0]
    before = learner.bank.rows.clone()
    learner(given)
    assert torch.equal(learner.bank.rows, before)
    learner.after_step(0.1)
    torch.testing.assert_close(learner.bank.rows[learner.bank.places[given.index]], z.detach())


def test_only_images_that_it_may_see_are_clustered() -> None:
    """The others have no row in the bank and no cluster, in the first epoch and in later ones."""
    learner = named(DEEPCLUSTER)
    for _ in range(2):
        assert len(learner.bank.rows) == IMAGES < ALL
        for head in learner.heads:
            assert torch.equal((head.assigned >= 0).nonzero()[:, 0], ROWS)
        learner.on_epoch_start(0.5, lambda: pytest.fail("a second look"))


# ---- PCL


def test_golden_info_nce() -> None:
    """The value and gradient of an independent computation at τ = 0.2: keys and queue have no gradient."""
    a, b, q = fixture()
    loss = info_nce(unit(a), unit(b), unit(q).detach(), 0.2)
    assert loss.item() == pytest.approx(2.90912603, abs=1e-6)
    assert norms(loss, a, b, q) == [pytest.approx(1.09187674, abs=1e-6), None, None]


def test_golden_proto_nce() -> None:
    """The value and gradient of an independent computation, φ = 0.1, 0.2, 0.1 …: centroids have no gradient."""
    a, b, q = fixture()
    phi = torch.tensor([0.1, 0.2] * 3, dtype=torch.float64)
    loss = proto_nce(unit(a), unit(q), torch.arange(4), phi)
    assert loss.item() == pytest.approx(5.02041205, abs=1e-6)
    assert norms(loss, a, b, q) == [pytest.approx(1.53633895, abs=1e-6), None, None]


def test_equal_concentrations_are_a_temperature() -> None:
    """Then it is InfoNCE over the prototypes; it falls where a centroid moves towards q."""
    a, _, q = (unit(x).detach() for x in fixture())
    phi = torch.full((6,), 0.2, dtype=torch.float64)
    loss = proto_nce(a[:1], q, torch.tensor([2]), phi).item()
    others = q[[0, 1, 3, 4, 5]]
    assert loss == pytest.approx(info_nce(a[:1], q[2:3], others, 0.2).item(), abs=1e-12)
    nearer = q.clone()
    nearer[2] = unit(q[2] + 0.2 * a[0])
    assert proto_nce(a[:1], nearer, torch.tensor([2]), phi).item() < loss


def test_the_concentration_of_a_cluster() -> None:
    """Four distances 1 … 4: 2.5 / log 14, before it is scaled to a mean of τ; larger where the cluster is looser."""
    rows = torch.tensor([[1.0], [2.0], [3.0], [4.0], [10.5], [10.5], [9.5], [9.5]])
    assigned = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    phi = concentration(rows, torch.tensor([[0.0], [10.0]]), assigned, 0.2)
    first, second = 2.5 / math.log(14), 0.5 / math.log(14)
    assert first == pytest.approx(0.947308, abs=1e-6)
    low, high = second + 0.1 * (first - second), second + 0.9 * (first - second)  # the percentiles of two values
    torch.testing.assert_close(phi, 0.2 * torch.tensor([high, low]) / ((high + low) / 2))


def test_a_cluster_of_one_is_the_loosest() -> None:
    """Its distance says nothing, so it takes the largest φ, as an empty one does; the mean is τ."""
    rows = torch.tensor([[0.0], [1.0], [4.0], [6.0], [9.0]])
    centroids = torch.tensor([[0.5], [5.0], [9.0], [20.0]])
    phi = concentration(rows, centroids, torch.tensor([0, 0, 1, 1, 2]), 0.1)
    assert phi[1] == phi[2] == phi[3] > phi[0]
    assert phi.mean().item() == pytest.approx(0.1)


def test_pcl_is_moco_and_prototypes(monkeypatch: pytest.MonkeyPatch) -> None:
    """InfoNCE with the teacher's keys, and the mean over clusterings of ProtoNCE with each prototype's own φ."""
    learner, twin = (method(monkeypatch, PCL) for _ in range(2))
    given = batch(2)
    given.index.copy_(given.index.roll(5))
    q, k = unit(twin.projector(twin.encoder(given.views[0]))), unit(twin.teacher(given.views[1]))
    phis = twin.concentrations.split([3, 4])
    each = [
        proto_nce(q, c.centroids, c.assigned[given.index], phi) for c, phi in zip(twin.clusterings, phis, strict=True)
    ]
    expected = info_nce(q, k, twin.queue.rows, 0.2) + (each[0] + each[1]) / 2
    found = learner(given)
    assert found["loss"].item() == pytest.approx(expected.item(), abs=1e-5)
    assert found["prototypes"].item() == pytest.approx((each[0] + each[1]).item() / 2, abs=1e-5)


def test_prototypes_begin_after_the_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until then no image is looked at and the loss is MoCo's; then clusters are in the state_dict."""
    learner = method(monkeypatch, PCL, warmup=0.5)
    learner.on_epoch_start(0.49, lambda: pytest.fail("too early"))
    assert learner(at(0.49, 2))["prototypes"] == 0
    start_epoch(learner, 0.5)
    assert learner(at(0.5, 2))["prototypes"] > 0
    assert {"concentrations", "clustered", "clusterings.0.centroids", "clusterings.1.assigned"} < set(
        learner.state_dict()
    )


def test_concentrations_are_those_of_the_images_it_may_see(monkeypatch: pytest.MonkeyPatch) -> None:
    """One φ for each prototype of each clustering, by the images that were given, whatever their index."""
    learner = method(monkeypatch, PCL)
    rows, index = unit(torch.randn(9, 8, generator=torch.Generator().manual_seed(0))), torch.arange(9).flip(0) + 3
    learner.on_epoch_start(0.5, lambda: (index, rows))
    for found, phi in zip(learner.clusterings, learner.concentrations.split([3, 4]), strict=True):
        assert torch.equal(phi, concentration(rows, found.centroids, (rows @ found.centroids.T).argmax(1), 0.2))


def test_pcl_clusters_what_its_teacher_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    """The embeddings are the teacher's, on the sphere."""
    learner = method(monkeypatch, PCL)
    images = batch(1).views[0]
    learner.eval()
    torch.testing.assert_close(learner.represent(images), unit(learner.teacher(images)))
    with torch.no_grad():
        learner.projector.layers[0][0].weight.mul_(-1)
    torch.testing.assert_close(learner.represent(images), unit(learner.teacher(images)))


def test_the_teacher_and_queue_of_pcl_move_after_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys go to the queue, the teacher follows by the momentum of this progress, and gets no gradient."""
    learner = method(monkeypatch, PCL, momentum={"start": 0.5, "end": 1.0})
    before, given = learner.queue.rows.clone(), batch(2)
    with torch.no_grad():
        learner.projector.layers[0][0].weight.mul_(-1)  # the teacher has not followed yet
    k = unit(learner.teacher(given.views[1]))
    backward(learner, given)
    assert all(p.grad is None for p in learner.teacher.parameters())
    assert torch.equal(learner.queue.rows, before)
    old = [p.clone() for p in learner.teacher.parameters()]
    online = [*learner.encoder.parameters(), *learner.projector.parameters()]
    learner.after_step(0.5)
    torch.testing.assert_close(learner.queue.rows[:IMAGES], k)
    assert torch.equal(learner.queue.rows[IMAGES:], before[IMAGES:])
    for was, led, now in zip(old, online, learner.teacher.parameters(), strict=True):
        torch.testing.assert_close(now, 0.75 * was + 0.25 * led)
    second = batch(2, seed=1)
    other = unit(learner.teacher(second.views[1]))
    learner(second)
    learner.after_step(0.6)  # the first keys are there already
    torch.testing.assert_close(learner.queue.rows, torch.cat([k, other]))
