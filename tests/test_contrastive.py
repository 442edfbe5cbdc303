"""Contrastive methods: their equations against the papers' formulas and known values, and what they remember."""

import math
from typing import Any

import pytest
import torch
from method_cases import ALL, IMAGES, ROWS, SETTINGS, astray, batch, fixture, halves, method, norms, orthonormal
from torch import Tensor
from torch.nn.functional import normalize

from pipeline import plugins
from pipeline.errors import ParamsError, Refusal
from stages.encoders.small_resnet import SmallResNet
from stages.methods import moco_v3, nnclr
from stages.methods._method import Batch, Setting
from stages.methods.isif import instance_softmax
from stages.methods.macl import cosines, macl
from stages.methods.simclr import nt_xent
from stages.networks.contrast import info_nce

# ---- SimCLR


@pytest.mark.parametrize(("temperature", "value"), [(0.5, 1.92684745), (0.1, 4.45635739)])
def test_golden_values(temperature: float, value: float) -> None:
    """The values of an independent computation on the fixture."""
    assert nt_xent(*fixture()[:2], temperature, "paper").item() == pytest.approx(value, abs=1e-6)


def test_golden_gradients() -> None:
    """The norms of both gradients of the same computation at τ = 0.5: neither view is spared."""
    a, b, _ = fixture()
    gradients = torch.autograd.grad(nt_xent(a, b, 0.5, "paper"), (a, b))
    assert [gradient.norm().item() for gradient in gradients] == pytest.approx([0.28541209, 0.40584074], abs=1e-6)


def test_nt_xent_is_the_paper_s_double_sum() -> None:
    """Equation 1 term by term, in Python floats."""
    a, b, _ = fixture()
    z = [[v / math.hypot(*row) for v in row] for row in torch.cat([a, b]).tolist()]
    similarity = [[sum(x * y for x, y in zip(p, q, strict=True)) for q in z] for p in z]
    terms = []
    for i in range(8):
        others = sum(math.exp(similarity[i][k] / 0.3) for k in range(8) if k != i)
        terms.append(-math.log(math.exp(similarity[i][(i + 4) % 8] / 0.3) / others))
    assert nt_xent(a, b, 0.3, "paper").item() == pytest.approx(sum(terms) / 8, abs=1e-12)


def test_the_official_reduction_is_twice_the_paper_s() -> None:
    """Value and gradient, exactly."""
    a, b, _ = fixture()
    paper, official = nt_xent(a, b, 0.5, "paper"), nt_xent(a, b, 0.5, "official")
    assert official.item() == 2 * paper.item()
    pairs = zip(torch.autograd.grad(official, (a, b)), torch.autograd.grad(paper, (a, b)), strict=True)
    assert all(torch.equal(twice, 2 * once) for twice, once in pairs)


@pytest.mark.parametrize(
    ("count", "temperature", "value"), [(4, 0.5, 0.594438), (256, 0.5, 4.248795), (256, 0.2, 1.489833)]
)
def test_identical_orthonormal_views(count: int, temperature: float, value: float) -> None:
    """Where views agree and images do not touch, L = log(1 + (2N - 2) e^(-1/τ))."""
    z = orthonormal(count)
    loss = nt_xent(z, z, temperature, "paper").item()
    assert loss == pytest.approx(math.log(1 + (2 * count - 2) * math.exp(-1 / temperature)), abs=1e-12)
    assert loss == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize("temperature", [0.05, 0.5, 3.0])
@pytest.mark.parametrize("count", [2, 7])
def test_total_collapse(count: int, temperature: float) -> None:
    """Where all embeddings are one, L = log(2N - 1) whatever the temperature."""
    z = fixture()[0][:1].expand(count, 8)
    assert nt_xent(z, z, temperature, "paper").item() == pytest.approx(math.log(2 * count - 1), abs=1e-12)


def test_one_image_has_no_negatives() -> None:
    """N = 1: the positive is alone in the denominator, so L = 0."""
    a, b, _ = fixture()
    assert nt_xent(a[:1], b[:1], 0.5, "paper").item() == 0


def test_neither_order_nor_side_matters() -> None:
    """Permuted images and swapped views have the same loss within 1e-12."""
    a, b, _ = fixture()
    loss, order = nt_xent(a, b, 0.5, "paper").item(), [2, 0, 3, 1]
    assert nt_xent(a[order], b[order], 0.5, "paper").item() == pytest.approx(loss, abs=1e-12)
    assert nt_xent(b, a, 0.5, "paper").item() == pytest.approx(loss, abs=1e-12)
    assert nt_xent(a, b[order], 0.5, "paper").item() != pytest.approx(loss, abs=1e-3)


@pytest.mark.parametrize("row", range(4))
def test_only_the_direction_of_an_embedding_matters(row: int) -> None:
    """A scaled embedding has the same loss, and the gradient of an embedding is orthogonal to it."""
    a, b, _ = fixture()
    scale = torch.ones(4, 1, dtype=torch.float64)
    scale[row] = 7.5
    loss = nt_xent(a, b, 0.5, "paper")
    assert nt_xent(a * scale, b, 0.5, "paper").item() == pytest.approx(loss.item(), abs=1e-12)
    assert nt_xent(a, b * scale, 0.5, "paper").item() == pytest.approx(loss.item(), abs=1e-12)
    for x, gradient in zip((a, b), torch.autograd.grad(loss, (a, b)), strict=True):
        assert (gradient[row] @ x[row]).item() == pytest.approx(0, abs=1e-12)
        assert gradient[row].norm() > 1e-3


def test_the_loss_keeps_its_precision_under_autocast() -> None:
    """Similarities are divided by a small τ, so they are never computed in bf16."""
    a, b = (x.detach().float() for x in fixture()[:2])
    with torch.autocast("cpu", torch.bfloat16):
        loss = nt_xent(a, b, 0.1, "paper")
    assert loss.item() == pytest.approx(4.45635739, abs=1e-5)
    half = nt_xent(a.bfloat16(), b.bfloat16(), 0.1, "paper")
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(4.45635739, abs=0.1)


def test_simclr_is_nt_xent_of_its_projections() -> None:
    """The two views in one pass through encoder and projector, halved again for the loss."""
    learner, twin, given = method("simclr"), method("simclr"), batch(2)
    assert twin.projector is not None
    a, b = twin.projector(twin.encoder(torch.cat(given.views))).chunk(2)
    assert torch.equal(learner(given)["loss"], nt_xent(a, b, 0.5, "paper"))


def test_normalized_fixture_is_not_trivial() -> None:
    """The fixture of the golden values has similarities of both signs, so that every term counts."""
    a, b, _ = fixture()
    similarity = normalize(a) @ normalize(b).T
    assert similarity.min() < -0.2 < 0.2 < similarity.max()


# ---- what several of them share


def with_settings(name: str, **changed: object) -> Any:
    """The method `name` on a tiny network, with other settings."""
    torch.manual_seed(0)
    spec = plugins.specify("methods", {"name": name, **SETTINGS[name], **changed}, f"runs.{name}.method")
    return spec.make(SmallResNet(width=4, blocks=1), Setting(16, ALL, ROWS, classes=0, batch_size=IMAGES))


def embedded(learner: Any, view: Tensor) -> Tensor:
    return learner.projector(learner.encoder(view))


@pytest.mark.parametrize("name", ["moco", "nnclr"])
def test_pieces_of_a_batch_enter_the_queue_together(name: str) -> None:
    """Nothing is pushed before the step is done; then the rows of all pieces are, in order, and they start anew."""
    learner, twin, given = with_settings(name), with_settings(name), batch(2)
    started = learner.queue.rows.clone()
    kept = 1 if name == "moco" else 0  # the view whose rows are kept
    expected = [normalize(embedded(twin, piece.views[kept]), dim=1).detach() for piece in halves(given)]
    for piece in halves(given):
        learner(piece)
    assert torch.equal(learner.queue.rows, started)
    learner.after_step(1.0)
    assert torch.equal(learner.queue.rows, torch.cat([*expected, started[IMAGES:]]))
    learner(given)
    learner.after_step(1.0)
    assert torch.equal(learner.queue.rows[:IMAGES], torch.cat(expected))
    assert int(learner.queue.pointer) == 0


@pytest.mark.parametrize("name", ["moco", "nnclr", "pcl"])
def test_a_queue_shorter_than_the_batch_keeps_its_last_piece(name: str) -> None:
    """Piece by piece, so that no two rows go to one place."""
    learner, twin = (method(name, queue=IMAGES) for _ in range(2))
    for seed in range(2):
        learner(batch(2, seed))
    twin(batch(2, seed=1))
    for each in (learner, twin):
        each.after_step(1.0)
    assert torch.equal(learner.queue.rows, twin.queue.rows)  # type: ignore[union-attr,arg-type]


@pytest.mark.parametrize("name", ["moco", "nnclr"])
def test_a_queue_that_the_batch_does_not_divide_is_refused(name: str) -> None:
    """Before training starts, with both sizes."""
    with pytest.raises(ParamsError, match=r"queue of 42 embeddings is no multiple of the 12 .*: make it 36 or 48"):
        with_settings(name, queue=42)


@pytest.mark.parametrize("name", ["moco", "moco_v3", "nnclr", "macl", "isif", "simclr"])
def test_a_temperature_is_positive(name: str) -> None:
    """Zero is refused where params.yaml is checked."""
    with pytest.raises(Refusal, match=r"temperature: must be a number greater than 0"):
        with_settings(name, temperature=0.0)


# ---- MoCo


def test_moco_golden_values() -> None:
    """The value on the fixture, and gradient for the queries alone."""
    a, b, q = fixture()
    loss = info_nce(a, b, q, 0.2)
    assert loss.item() == pytest.approx(2.90912603, abs=1e-6)
    assert norms(loss, a, b, q) == [pytest.approx(1.09187674, abs=1e-6), None, None]


def test_moco_on_an_orthonormal_queue() -> None:
    """Where q = k and the K rows of the queue do not touch it, L = log(1 + K e^(-1/τ))."""
    z = orthonormal(5)
    loss = info_nce(z[:1], z[:1], z[1:], 0.2).item()
    assert loss == pytest.approx(math.log(1 + 4 * math.exp(-5)), abs=1e-12)
    assert loss == pytest.approx(0.026595, abs=1e-6)


@pytest.mark.parametrize("count", [6, 65536])
def test_moco_starts_at_log_of_the_queue(count: int) -> None:
    """Where nothing is told apart, L = log(K + 1) whatever the temperature."""
    z = fixture()[0][:1].detach()
    loss = info_nce(z.expand(3, 8), z.expand(3, 8), z.expand(count, 8), 0.07).item()
    assert loss == pytest.approx(math.log(count + 1), abs=1e-9)


def test_moco_asks_view_a_for_view_b() -> None:
    """The loss is InfoNCE of the projections of view a, the teacher's of view b and the queue."""
    learner, twin, given = astray("moco"), astray("moco"), batch(2)
    q, k = embedded(twin, given.views[0]), learner.teacher(given.views[1])
    assert torch.equal(learner(given)["loss"], info_nce(q, k, learner.queue.rows, 0.2))


def test_symmetric_moco_is_the_mean_of_both_directions() -> None:
    """Of the loss; the keys of both views enter the queue, those of view b first."""
    learner, given = with_settings("moco", symmetric=True), batch(2)
    swapped = Batch(given.views[::-1], given.index, given.labels)
    there, back = (with_settings("moco")(views)["loss"].item() for views in (given, swapped))
    assert learner(given)["loss"].item() == pytest.approx((there + back) / 2, abs=1e-6)
    keys = [normalize(embedded(with_settings("moco"), view), dim=1) for view in given.views[::-1]]
    learner.after_step(1.0)
    assert torch.equal(learner.queue.rows, torch.cat(keys))


# ---- MoCo v3


def test_moco_v3_golden_values() -> None:
    """Both directions on the fixture: 2τ times InfoNCE in the batch, gradient for the queries alone."""
    a, b, _ = fixture()
    there, back = moco_v3.contrast(a, b, 0.2), moco_v3.contrast(b, a, 0.2)
    assert (there + back).item() == pytest.approx(1.66111350, abs=1e-6)
    assert there.item() == pytest.approx(0.4 * 1.70987044, abs=1e-6)
    of_queries, of_keys = norms(there, a, b)
    assert of_queries
    assert of_keys is None


def test_moco_v3_predicts_each_view_s_key_from_the_other() -> None:
    """The sum over both directions, of predictions and the teacher's embeddings."""
    learner, twin, given = astray("moco_v3"), astray("moco_v3"), batch(2)
    q_a, q_b = (twin.predictor(embedded(twin, view)) for view in given.views)
    k_a, k_b = (twin.teacher(view) for view in given.views)
    expected = moco_v3.contrast(q_a, k_b, 0.2) + moco_v3.contrast(q_b, k_a, 0.2)
    assert torch.equal(learner(given)["loss"], expected)


# ---- NNCLR


def test_nnclr_golden_value() -> None:
    """InfoNCE in the batch on the fixture; neighbors get no gradient."""
    a, b, _ = fixture()
    loss = nnclr.contrast(a, b, 0.2)
    assert loss.item() == pytest.approx(1.70987044, abs=1e-6)
    of_neighbors, of_predictions = norms(loss, a, b)
    assert of_neighbors is None
    assert of_predictions


def test_the_nearest_row_is_found_by_cosine() -> None:
    """Whatever the length of an embedding, also where bf16 could not tell the rows apart."""
    rows = normalize(torch.tensor([[1.0, 0.0], [1.0, 0.001], [0.0, 1.0]]), dim=1)
    z = torch.tensor([[5.0, 0.0], [0.5, 0.0006], [-1.0, 2.0]])
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(nnclr.nearest(z, rows), rows)


def test_nnclr_predicts_each_view_s_neighbor_from_the_other() -> None:
    """The mean of both directions, over the queue as it was before the step."""
    learner, twin, given = method("nnclr"), method("nnclr"), batch(2)
    z_a, z_b = (embedded(twin, view) for view in given.views)
    n_a, n_b = (learner.queue.rows[(normalize(z, dim=1) @ learner.queue.rows.T).argmax(1)] for z in (z_a, z_b))
    p_a, p_b = twin.predictor(z_a), twin.predictor(z_b)
    expected = (nnclr.contrast(n_a, p_b, 0.2) + nnclr.contrast(n_b, p_a, 0.2)) / 2
    assert torch.equal(learner(given)["loss"], expected)


# ---- MACL


def test_macl_golden_values() -> None:
    """Against a queue: value and gradient, in which neither the temperature nor the weight takes part."""
    a, b, q = fixture()
    query, key, rows = normalize(a, dim=1), normalize(b, dim=1).detach(), normalize(q, dim=1).detach()
    loss = macl((query * key).sum(1), query @ rows.T, 0.1, 0.5, 0.0)
    assert loss.item() == pytest.approx(4.71355044, abs=1e-6)
    assert norms(loss, a) == [pytest.approx(2.44788774, abs=1e-6)]


def test_macl_golden_value_in_the_batch() -> None:
    """One direction, the keys of other images as negatives."""
    a, b, _ = (normalize(x, dim=1) for x in fixture())
    negatives = (a @ b.T).masked_fill(torch.eye(4, dtype=torch.bool), float("-inf"))
    assert macl((a * b).sum(1), negatives, 0.1, 0.5, 0.0).item() == pytest.approx(3.00384687, abs=1e-6)


@pytest.mark.parametrize(("negative", "value"), [(0.0, 1.003808), (1.0, 2.270229)])
def test_macl_on_six_equal_negatives(negative: float, value: float) -> None:
    """Where views agree τ = 0.15; total collapse gives log 7 / (1 − 1/7)."""
    positives, negatives = torch.ones(3).double(), torch.full((3, 6), negative).double()
    assert macl(positives, negatives, 0.1, 0.5, 0.0).item() == pytest.approx(value, abs=1e-6)


def test_the_pull_on_a_positive_does_not_depend_on_the_negatives() -> None:
    """dL/d(positive) is −1/(nτ) for every anchor."""
    positives = torch.tensor([0.9, 0.2, -0.4], dtype=torch.float64, requires_grad=True)
    negatives = fixture()[2][:3].detach()
    [gradient] = torch.autograd.grad(macl(positives, negatives, 0.1, 0.5, 0.1), positives)
    tau = 0.1 * (1 + 0.5 * (positives.mean().item() - 0.1))
    assert (gradient * 3 * tau).tolist() == pytest.approx([-1.0] * 3, abs=1e-12)


@pytest.mark.parametrize("positive", [-0.3, 0.2, 0.95])
def test_macl_without_its_weight_is_info_nce(positive: float) -> None:
    """Of one anchor, L (1 − P) is −log P at the adapted temperature."""
    positives, negatives = torch.tensor([positive], dtype=torch.float64), fixture()[2][:1].detach()
    p = (torch.cat([positives[:, None], negatives], 1) / (0.3 * (1 + 0.5 * positive))).softmax(1)[0, 0].item()
    loss = macl(positives, negatives, 0.3, 0.5, 0.0).item()
    assert loss * (1 - p) == pytest.approx(-math.log(p), abs=1e-12)


def test_macl_stays_finite_where_the_positive_has_won() -> None:
    """1 − P is 0 in float32 there."""
    positives = torch.ones(2, requires_grad=True)
    loss = macl(positives, torch.full((2, 3), -1.0), 0.01, 0.0, 0.0)
    assert loss.isfinite()
    assert torch.autograd.grad(loss, positives)[0].isfinite().all()


def test_the_temperature_of_macl_stays_above_a_hundredth() -> None:
    """τ₀ 0.02 where views disagree wholly would be 0.002: the loss is that of 0.01."""
    positives, negatives = -torch.ones(2).double(), fixture()[2][:2].detach()
    loss = macl(positives, negatives, 0.02, 0.9, 0.0).item()
    assert loss == pytest.approx(macl(positives, negatives, 0.01, 0.0, 0.0).item(), abs=1e-12)
    assert loss != pytest.approx(macl(positives, negatives, 0.02, 0.0, 0.0).item(), abs=1e-3)


def test_cosines_leave_out_the_image_itself() -> None:
    """The 2n − 2 views of other images are negatives of an anchor, and the other view is its positive."""
    a, b, _ = fixture()
    positives, negatives = cosines(a, b)
    z = normalize(torch.cat([a, b]), dim=1)
    for i in range(8):
        assert positives[i].item() == pytest.approx((z[i] @ z[(i + 4) % 8]).item(), abs=1e-12)
        others = [k for k in range(8) if k % 4 != i % 4]
        torch.testing.assert_close(negatives[i, others], z[others] @ z[i])
        assert negatives[i].isinf().sum() == 2


def test_macl_is_the_loss_of_its_projections() -> None:
    """The two views in one pass through encoder and projector, as SimCLR."""
    learner, twin, given = method("macl"), method("macl"), batch(2)
    a, b = embedded(twin, torch.cat(given.views)).chunk(2)
    assert torch.equal(learner(given)["loss"], macl(*cosines(a, b), 0.1, 0.5, 0.0))


def test_a_temperature_that_could_vanish_is_refused() -> None:
    """α (1 + A₀) below 1 keeps τ positive however little views agree."""
    with pytest.raises(ParamsError, match=r"alpha 0\.8 and alignment 0\.25 .* must be below 1"):
        with_settings("macl", alpha=0.8, alignment=0.25)


# ---- ISIF


def test_isif_golden_values() -> None:
    """Value and gradient: only the left factor of a similarity gets any."""
    a, b, _ = fixture()
    loss = instance_softmax(a, b, 0.1)
    assert loss.item() == pytest.approx(5.96221084, abs=1e-6)
    assert norms(loss, a, b) == pytest.approx([0.74794611, 1.25753196], abs=1e-6)


def test_isif_after_total_collapse() -> None:
    """With M = 2n − 1 others, L = −(log(1/M) + (M − 1) log(1 − 1/M))."""
    z = fixture()[0][:1].expand(4, 8)
    loss = instance_softmax(z, z, 0.1).item()
    assert loss == pytest.approx(math.log(7) - 6 * math.log(6 / 7), abs=1e-12)
    assert loss == pytest.approx(2.870814, abs=1e-6)


def test_isif_stays_finite_where_an_image_is_taken_for_another() -> None:
    """P of a wrong image is 1 there, and 1 − P is 0."""
    a = torch.eye(4)[:2].requires_grad_()
    loss = instance_softmax(a, a.flip(0), 0.01)
    assert loss.isfinite()
    assert torch.autograd.grad(loss, a)[0].isfinite().all()


def test_isif_is_the_loss_of_its_projections() -> None:
    """The two views in one pass through encoder and projector."""
    learner, twin, given = method("isif"), method("isif"), batch(2)
    a, b = embedded(twin, torch.cat(given.views)).chunk(2)
    assert torch.equal(learner(given)["loss"], instance_softmax(a, b, 0.1))
