"""NPID: both losses against the paper's formulas and known values, the bank, the drawn negatives, the constant Z."""

import math

import pytest
import torch
from method_cases import IMAGES, ROWS, SETTINGS, batch, fixture, losses, norms, orthonormal
from method_cases import method as named
from torch import Tensor
from torch.nn.functional import normalize

from pipeline import plugins
from stages.datasets._storage import Packed
from stages.methods.npid import NPID, estimate, nce, softmax_over
from stages.networks.precision import unit
from stages.pretrain import Input, build
from stages.training.loop import Images


def method(**changes: object) -> NPID:
    found = named("npid", **changes)
    assert isinstance(found, NPID)
    return found


def drawn() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The fixture, and similarities (4, 6) at τ = 0.07 of the features b with own rows a and the first rows of q."""
    a, b, q = fixture()
    similarity = torch.cat([(unit(b) * unit(a)).sum(1, keepdim=True), unit(b) @ unit(q)[:5].T], dim=1) / 0.07
    return a, b, q, similarity


# ---- the full softmax


def test_golden_softmax() -> None:
    """The value of an independent computation: bank [a; q], features b, τ = 0.1; the bank gets no gradient."""
    a, b, q = fixture()
    bank = torch.cat([unit(a), unit(q)]).detach()
    loss = softmax_over(bank, unit(b), torch.arange(4), 0.1)
    assert loss.item() == pytest.approx(4.60126473, abs=1e-6)
    of_a, of_b, of_q = norms(loss, a, b, q)
    assert of_a is of_q is None
    assert of_b is not None


def test_the_softmax_is_the_paper_s() -> None:
    """Equation 2 term by term, in Python floats."""
    a, b, q = (normalize(x, dim=1).tolist() for x in fixture())
    terms = []
    for i, f in enumerate(b):
        powers = [math.exp(sum(x * y for x, y in zip(v, f, strict=True)) / 0.3) for v in [*a, *q]]
        terms.append(-math.log(powers[i] / sum(powers)))
    bank, f = torch.tensor([*a, *q], dtype=torch.float64), torch.tensor(b, dtype=torch.float64)
    assert softmax_over(bank, f, torch.arange(4), 0.3).item() == pytest.approx(sum(terms) / 4, abs=1e-12)


def test_an_image_at_its_own_row() -> None:
    """Eight orthonormal rows, f = V_i, τ = 0.1: log(1 + 7 e^-10)."""
    bank = orthonormal(8)
    loss = softmax_over(bank, bank[[3, 0]], torch.tensor([3, 0]), 0.1).item()
    assert loss == pytest.approx(math.log(1 + 7 * math.exp(-10)), abs=1e-12)
    assert loss == pytest.approx(0.000318, abs=1e-6)
    assert softmax_over(bank, bank[[3, 0]], torch.tensor([0, 3]), 0.1).item() > 9


def test_a_random_bank_knows_nothing() -> None:
    """With random rows the loss is about log n: no image is found."""
    torch.manual_seed(0)
    bank, f = unit(torch.randn(5000, 128)), unit(torch.randn(64, 128))
    loss = softmax_over(bank, f, torch.arange(64), 1.0).item()
    assert loss == pytest.approx(math.log(5000), abs=0.05)


# ---- NCE


def test_golden_nce() -> None:
    """Value and constant of an independent computation: ten rows, five drawn, τ = 0.07, Z = 10 · mean exp."""
    _, _, _, similarity = drawn()
    z = estimate(similarity, 10)
    assert z.item() == pytest.approx(39860.2128, abs=1e-3)
    assert not z.requires_grad
    p = similarity.exp() / z
    official = torch.log1p(1e-7 / (p + 0.5)).sum(1).mean()  # which its code adds to every denominator
    assert (nce(similarity, z, 10) + official).item() == pytest.approx(6.65237249, abs=1e-8)


def test_nce_is_the_paper_s() -> None:
    """Equations 6 and 7 term by term, in Python floats."""
    _, _, _, similarity = drawn()
    z, noise, terms = 30000.0, 5 / 10, []
    for own, *others in similarity.tolist():
        h = [math.exp(s) / z / (math.exp(s) / z + noise) for s in (own, *others)]
        terms.append(-math.log(h[0]) - sum(math.log(1 - other) for other in h[1:]))
    found = nce(similarity, torch.tensor(z), 10).item()
    assert found == pytest.approx(sum(terms) / 4, abs=1e-6)


def test_images_that_are_as_likely_as_noise() -> None:
    """P = 1 / n everywhere and ten drawn: log 11 + 10 log(11 / 10)."""
    loss = nce(torch.zeros(3, 11, dtype=torch.float64), torch.tensor(7.0), 7).item()
    assert loss == pytest.approx(math.log(11) + 10 * math.log(1.1), abs=1e-12)
    assert loss == pytest.approx(3.350997, abs=1e-6)


# ---- the method


def test_the_loss_is_that_of_the_one_view() -> None:
    """The projection of the view, on the sphere, against the whole bank."""
    learner, twin, given = method(), method(), batch(1)
    f = unit(twin.projector(twin.encoder(given.views[0])))
    assert torch.equal(given.index, ROWS)
    assert torch.equal(learner(given)["loss"], softmax_over(twin.bank.rows, f, torch.arange(IMAGES), 0.1))


def test_an_image_is_compared_with_those_that_the_run_may_see() -> None:
    """The bank has a row for each of them and no other, so the loss of a random bank is the log of their number."""
    learner = method(temperature=1000.0)
    assert len(learner.bank.rows) == IMAGES
    assert learner(batch(1))["loss"].item() == pytest.approx(math.log(IMAGES), abs=0.01)


def test_a_pretraining_says_which_images_those_are() -> None:
    """Where the run sees 5 of 9 images, the bank has the rows of these."""
    rows = torch.tensor([0, 3, 4, 7, 8])
    images = Images(Packed(torch.zeros(9, 8, 8, 3, dtype=torch.uint8).numpy()), torch.full((9,), -1), rows)
    encoder = plugins.specify("encoders", {"name": "small_resnet", "width": 4, "blocks": 1}, "runs.npid.encoder")
    spec = plugins.specify("methods", {"name": "npid", **SETTINGS["npid"]}, "runs.npid.method")
    view = Input(side=8, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    _, learner = build(encoder, "stages/encoders/small_resnet.py", spec, view, images, 4, "images")
    assert isinstance(learner, NPID)
    assert torch.equal(learner.bank.index, rows)


def test_the_bank_moves_after_the_step() -> None:
    """Not in forward; then the rows of the batch, by their index, half way to the embeddings before the step."""
    learner = method(momentum=0.5)
    given = batch(1)
    given.index.copy_(given.index.roll(1))
    before = learner.bank.rows.clone()
    f = unit(method().projector(method().encoder(given.views[0]))).detach()
    learner(given)
    assert torch.equal(learner.bank.rows, before)
    learner.after_step(0.5)
    torch.testing.assert_close(learner.bank.rows.roll(1, 0), normalize(before.roll(1, 0) + f, dim=1))
    again = learner.bank.rows.clone()
    learner.after_step(0.6)
    assert torch.equal(learner.bank.rows, again)


def test_what_a_step_depends_on_is_in_the_state_dict() -> None:
    """The bank, where the negatives come from, and Z."""
    assert {"bank.rows", "stream", "z"} < set(method().state_dict())


def test_negatives_are_drawn_for_each_image_and_step() -> None:
    """They differ between images and steps, are the same for an image in another batch, and cover the bank evenly."""
    learner = method(negatives=3)
    index = ROWS
    rows = learner._drawn(index, 5000)
    assert torch.equal(learner._drawn(index[[7, 2]], 5000), rows[[7, 2]])
    assert len({tuple(row) for row in rows.tolist()}) == IMAGES
    share = torch.bincount(rows.flatten(), minlength=IMAGES) / rows.numel()
    assert (share - 1 / IMAGES).abs().max() < 0.004
    learner.after_step(0.1)
    assert not torch.equal(learner._drawn(index, 5000), rows)


def test_z_is_estimated_once() -> None:
    """By the first batch: forward alone leaves it open, the first step sets it, later ones leave it."""
    learner = method(negatives=4)
    learner(batch(1))
    assert learner.z == 0
    learner.after_step(0.1)
    first = learner.z.clone()
    assert first > 0
    losses(learner, 3, 1)
    assert torch.equal(learner.z, first)


def test_nce_compares_the_own_row_with_the_drawn_ones() -> None:
    """The loss of the first step is the equation at the embeddings, the drawn rows and their own Z."""
    learner, given = method(negatives=4), batch(1)
    f = unit(method().projector(method().encoder(given.views[0])))
    rows = torch.cat([torch.arange(IMAGES)[:, None], learner._drawn(given.index, 4)], dim=1)
    similarity = torch.einsum("bd,bkd->bk", f, learner.bank.rows[rows]) / 0.1
    expected = nce(similarity, estimate(similarity, IMAGES), IMAGES)
    assert learner(given)["loss"].item() == pytest.approx(expected.item(), abs=1e-5)


def test_nce_trains_and_resumes() -> None:
    """Its loss falls, and a fresh method that loads the state gives the same next loss."""
    learner, fresh = (method(negatives=6, temperature=0.5) for _ in range(2))
    found = losses(learner, 40, 1)
    assert sum(found[-4:]) < 0.8 * sum(found[:4])
    fresh.load_state_dict(learner.state_dict())
    assert torch.equal(fresh(batch(1))["loss"], learner(batch(1))["loss"])
