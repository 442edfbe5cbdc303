"""Methods without negatives: equations against the papers' formulas and known values, where gradient goes, teachers."""

import math
from typing import Any

import pytest
import torch
from method_cases import CLASSES, astray, batch, fixture, losses, method, norms
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from stages.methods import byol, rotnet, simsiam, vicreg
from stages.methods.barlow_twins import barlow_twins

HADAMARD = torch.tensor([[1, 1, 1], [-1, 1, -1], [1, -1, -1], [-1, -1, 1]], dtype=torch.float64)  # centered columns

PREDICTION = torch.tensor([[3.0, 0.0]], dtype=torch.float64)
TARGETS = {"equal": PREDICTION / 6, "orthogonal": PREDICTION.flip(1), "opposite": -PREDICTION}


def embedded(learner: Any, view: Tensor) -> Tensor:
    return learner.projector(learner.encoder(view))


# ---- teachers


@pytest.mark.parametrize("name", ["byol", "moco", "moco_v3"])
def test_the_teacher_follows_encoder_and_projector(name: str) -> None:
    """It starts as their copy and stays while it is not told; then θ' is m θ' + (1 − m) θ, m that of the progress."""
    learner: Any = method(name)
    online = [*learner.encoder.parameters(), *learner.projector.parameters()]
    started = [p.clone() for p in learner.teacher.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(started, online, strict=True))
    with torch.no_grad():
        for p in online:
            p.add_(1)
    learner(batch(2))
    assert all(torch.equal(a, b) for a, b in zip(started, learner.teacher.parameters(), strict=True))
    learner.after_step(0.5)  # halfway from 0.9 to 1
    for a, b in zip(started, learner.teacher.parameters(), strict=True):
        torch.testing.assert_close(b, a + 0.05, rtol=0, atol=1e-6)


# ---- BYOL


def test_byol_golden_values() -> None:
    """Each order on the fixture is half of 2.92914662, and only the prediction gets gradient."""
    a, b, _ = fixture()
    assert (byol.regression(a, b) + byol.regression(b, a)).item() == pytest.approx(2.92914662, abs=1e-6)
    assert norms(byol.regression(a, b), a, b) == [pytest.approx(0.42167654, abs=1e-6), None]


@pytest.mark.parametrize(("target", "value"), [("equal", 0.0), ("orthogonal", 4.0), ("opposite", 8.0)])
def test_byol_is_a_distance_on_the_sphere(target: str, value: float) -> None:
    """Both orders together, from 0 to 8; the length of an embedding does not matter."""
    p, z = PREDICTION, TARGETS[target]
    assert (byol.regression(p, z) + byol.regression(z, p)).item() == pytest.approx(value, abs=1e-9)


def test_byol_predicts_the_teacher_s_other_view() -> None:
    """The sum of both orders, of predictions and the teacher's embeddings."""
    learner, twin, given = astray("byol"), astray("byol"), batch(2)
    p_a, p_b = (twin.predictor(embedded(twin, view)) for view in given.views)
    z_a, z_b = (twin.teacher(view) for view in given.views)
    expected = byol.regression(p_a, z_b) + byol.regression(p_b, z_a)
    assert torch.equal(learner(given)["loss"], expected)


# ---- SimSiam


@pytest.mark.parametrize(("target", "value"), [("equal", -1.0), ("orthogonal", 0.0), ("opposite", 1.0)])
def test_simsiam_is_a_negative_cosine(target: str, value: float) -> None:
    """From −1 to 1; the length of an embedding does not matter."""
    assert simsiam.distance(PREDICTION, TARGETS[target]).item() == pytest.approx(value, abs=1e-9)


def test_simsiam_is_byol_s_distance_shifted_and_halved() -> None:
    """−cos = (|p − z|² − 2) / 2 on the fixture, with half the gradient, for the prediction alone."""
    a, b, _ = fixture()
    loss = simsiam.distance(a, b)
    assert loss.item() == pytest.approx((1.46457331 - 2) / 2, abs=1e-6)
    assert norms(loss, a, b) == [pytest.approx(0.42167654 / 2, abs=1e-6), None]


def test_simsiam_predicts_its_own_other_view() -> None:
    """The mean of both orders; gradient as if the targets were constants."""
    learner, twin, given = method("simsiam"), method("simsiam"), batch(2)
    z_a, z_b = (embedded(twin, view) for view in given.views)
    p_a, p_b = twin.predictor(z_a), twin.predictor(z_b)
    expected = -(cosine_similarity(p_a, z_b.detach()) + cosine_similarity(p_b, z_a.detach())).mean() / 2
    loss = learner(given)["loss"]
    torch.testing.assert_close(loss, expected)
    loss.backward()
    expected.backward()
    for a, b in zip(learner.encoder.parameters(), twin.encoder.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-6)


# ---- Barlow Twins


def test_barlow_twins_golden_values() -> None:
    """Value and gradient of both views on the fixture; both parts of the loss."""
    a, b, _ = fixture()
    loss = barlow_twins(a, b, 0.0051)
    assert loss.item() == pytest.approx(8.49493265, abs=1e-6)
    assert norms(loss, a, b) == pytest.approx([3.09537693, 7.80652850], abs=1e-6)
    on = barlow_twins(a, b, 0.0).item()
    assert on == pytest.approx(8.38123198, abs=1e-6)
    assert barlow_twins(a, b, 1.0).item() - on == pytest.approx(22.29424993, abs=1e-6)


def test_barlow_twins_is_zero_where_views_agree_and_dimensions_do_not() -> None:
    """Orthogonal columns of ±1 (Hadamard) in both views; the opposite view costs 4 a dimension."""
    assert barlow_twins(HADAMARD, HADAMARD, 0.0051).item() == pytest.approx(0, abs=1e-9)
    assert barlow_twins(HADAMARD, -HADAMARD, 0.0051).item() == pytest.approx(11.99988, abs=1e-5)


def test_barlow_twins_counts_what_is_said_twice() -> None:
    """One column in all D dimensions costs λ D (D − 1)."""
    z = HADAMARD[:, :1].expand(4, 3)
    assert barlow_twins(z, z, 0.0051).item() == pytest.approx(0.0306, abs=1e-6)


def test_barlow_twins_minds_neither_order_nor_scale() -> None:
    """Permuted images, shifted and scaled dimensions: the same loss, but for the ε of the normalization."""
    a, b, _ = fixture()
    loss, order = barlow_twins(a, b, 0.0051).item(), [2, 0, 3, 1]
    assert barlow_twins(a[order], b[order], 0.0051).item() == pytest.approx(loss, abs=1e-12)
    assert barlow_twins(7 * a + 3, b * torch.arange(1, 9), 0.0051).item() == pytest.approx(loss, abs=1e-3)
    assert barlow_twins(a, b[order], 0.0051).item() != pytest.approx(loss, abs=1e-2)


def test_barlow_twins_is_the_scaled_loss_of_its_projections() -> None:
    """Each view by itself through encoder and projector."""
    learner, twin, given = method("barlow_twins"), method("barlow_twins"), batch(2)
    a, b = (embedded(twin, view) for view in given.views)
    assert torch.equal(learner(given)["loss"], 0.1 * barlow_twins(a, b, 0.0051))


# ---- VICReg


def columns(z: Tensor) -> list[list[float]]:
    """The columns, each without its mean."""
    return [[v - sum(column) / len(column) for v in column] for column in z.T.tolist()]


def test_variance_is_the_paper_s_hinge() -> None:
    """Equations 1 and 2 term by term, in Python floats; the fixture has columns on both sides of the hinge."""
    z = fixture()[0] * torch.linspace(0.5, 3, 8)
    deviations = [math.sqrt(sum(v * v for v in column) / 3 + 1e-4) for column in columns(z)]
    assert min(deviations) < 1 < max(deviations)
    assert vicreg.variance(z).item() == pytest.approx(sum(max(0, 1 - s) for s in deviations) / 8, abs=1e-12)


def test_covariance_is_the_paper_s_sum() -> None:
    """Equations 3 and 4 term by term, in Python floats."""
    z = fixture()[0]
    c = [[sum(x * y for x, y in zip(p, q, strict=True)) / 3 for q in columns(z)] for p in columns(z)]
    expected = sum(c[i][j] ** 2 for i in range(8) for j in range(8) if i != j) / 8
    assert vicreg.covariance(z).item() == pytest.approx(expected, abs=1e-12)


def test_what_vicreg_charges_for() -> None:
    """Collapse costs 0.99 in variance, a column said twice its variance² in covariance, equal views nothing."""
    a, b, _ = fixture()
    assert vicreg.variance(a[:1].expand(4, 8)).item() == pytest.approx(0.99, abs=1e-12)
    assert vicreg.variance(2 * HADAMARD).item() == 0
    assert vicreg.covariance(HADAMARD).item() == 0
    assert vicreg.covariance(HADAMARD[:, :1].expand(4, 2)).item() == pytest.approx((4 / 3) ** 2, abs=1e-12)
    assert vicreg.invariance(a, a).item() == 0
    assert vicreg.invariance(a, b).item() == pytest.approx((a - b).square().sum().item() / 32, abs=1e-12)
    assert all(norms(vicreg.invariance(a, b), a, b))


def test_vicreg_weighs_its_three_terms() -> None:
    """The terms are those of its projections, variance and covariance of both views; they are told beside the loss."""
    learner, twin, given = method("vicreg"), method("vicreg"), batch(2)
    a, b = (embedded(twin, view) for view in given.views)
    terms = {
        "invariance": vicreg.invariance(a, b),
        "variance": vicreg.variance(a) + vicreg.variance(b),
        "covariance": vicreg.covariance(a) + vicreg.covariance(b),
    }
    found = learner(given)
    loss = found.pop("loss")
    torch.testing.assert_close(loss, terms["invariance"] + 0.5 * terms["variance"] + 0.1 * terms["covariance"])
    assert found == terms


# ---- RotNet


def test_every_image_is_turned_four_ways() -> None:
    """Row 4i + k is image i turned by k quarters, and four quarters are none."""
    images = torch.randn(3, 2, 5, 5)
    turned = rotnet.turned(images)
    assert turned.shape == (12, 2, 5, 5)
    for i in range(3):
        for k in range(4):
            assert torch.equal(turned[4 * i + k], torch.rot90(images[i], k, (1, 2)))
    again = rotnet.turned(rotnet.turned(rotnet.turned(rotnet.turned(images)[1::4])[1::4])[1::4])[1::4]
    assert torch.equal(again, images)


def test_rotnet_starts_at_log_4() -> None:
    """Its classifier starts at zero: every turn is as likely."""
    found = method("rotnet")(batch(1))
    assert found["loss"].item() == pytest.approx(math.log(4), abs=1e-6)
    assert found["accuracy"].item() == 0.25


def test_the_turn_is_the_label() -> None:
    """Logits that say the turn of every row have loss 0, those that say the next one do not."""
    logits = 50 * torch.eye(4).repeat(3, 1)
    assert rotnet.turn_loss(logits).item() == pytest.approx(0, abs=1e-6)
    assert rotnet.turn_loss(logits.roll(1, 0)).item() == pytest.approx(50, abs=1e-3)


def test_a_symmetric_image_cannot_be_told() -> None:
    """Whatever the classifier has learned, its four turns have one answer, so the loss is at least log 4."""
    learner = method("rotnet")
    nn.init.normal_(learner.classifier.weight)
    given = batch(1)
    same = given.views[0][:, :, :1, :1].expand(-1, -1, 8, 8)
    assert learner(type(given)([same], given.index, given.labels))["loss"].item() >= math.log(4) - 1e-6


def test_rotnet_tells_how_often_it_is_right() -> None:
    """Where it has learned the turns of two batches it tells most of them."""
    learner = method("rotnet")
    losses(learner, 60, 1)
    assert learner(batch(1))["accuracy"].item() > 0.9
    assert CLASSES != rotnet.TURNS  # the classes of the images are not those of the turns
