"""Objectives: what every one of them must do, found by folder; then each equation, and where its gradient goes.

A new objective is tested by existing: it needs a line in SETTINGS of objective_cases.py and nothing else.
"""

import copy
import math
from collections.abc import Iterator

import pytest
import torch
from method_cases import CLASSES, IMAGES, fixture, norms
from objective_cases import KNOWN, batch, losses, network, objective, teacher
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pipeline import plugins
from pipeline.errors import ParamsError
from stages.methods._method import Batch
from stages.networks.teacher import Teacher
from stages.networks.turns import TURNS, turn_loss, turned
from stages.objectives import distill, fixmatch, mean_teacher, pseudo_label, uda
from stages.objectives._objective import Objective, Setting

OBJECTIVES = plugins.names("objectives")
SEMI = [name for name in OBJECTIVES if name != "supervised"]
WEIGHTED = sorted({"fixmatch", "mean_teacher", "pseudo_label", "s4l", "uda"})
THRESHOLDS = ["fixmatch", "pseudo_label", "uda"]
SURE = torch.tensor([[9.0, 0, 0], [0, 9, 0], [0.2, 0, 0], [0, 0, 0.1]], dtype=torch.float64)  # of the first two


def gradients(learner: nn.Module) -> Iterator[Tensor]:
    return (p.grad for p in learner.parameters() if p.grad is not None)


def equal(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


# ---- every objective


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_loss_is_a_finite_scalar(name: str) -> None:
    """Forward gives a finite scalar loss with gradient; whatever else it gives is a scalar without."""
    learner = objective(name)
    found = learner(batch(learner))
    loss = found.pop("loss")
    assert loss.shape == ()
    assert loss.isfinite()
    assert loss.requires_grad
    assert all(value.shape == () and not value.requires_grad for value in found.values())


@pytest.mark.parametrize("name", OBJECTIVES)
def test_its_classifier_starts_at_zero(name: str) -> None:
    """All classes are equal at first, and the loss of the labeled images alone is log(classes)."""
    changed = {
        "distill": {"alpha": 0.0},
        "s4l": {"weight": 0.0},
    }  # elsewhere guesses are below their threshold, or equal
    tuned = objective(name, **changed.get(name, {}))
    given = batch(tuned)
    assert not tuned.logits(given.views[0]).any()
    assert not tuned.result()(given.views[0]).any()
    assert tuned(given)["loss"].item() == pytest.approx(math.log(CLASSES), abs=1e-6)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_tunes_the_whole_network(name: str) -> None:
    """Forty steps lower the loss, change every weight of the network, and the result gives all images their class."""
    tuned = objective(name)
    before = [p.clone() for p in tuned.network.parameters()]
    found = losses(tuned, 40)
    assert sum(found[-2:]) < 0.75 * sum(found[:2])
    assert not any(torch.equal(a, b) for a, b in zip(before, tuned.network.parameters(), strict=True))
    guesses = tuned.result().eval()(batch(tuned).views[0]).argmax(1)
    assert (guesses == torch.arange(IMAGES) % CLASSES).float().mean() > 0.7


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_same_seed_gives_the_same_bits(name: str) -> None:
    """Two trainings from one seed agree to the last bit, another seed does not."""
    first, second, other = objective(name), objective(name), objective(name, seed=1)
    assert losses(first, 4) == losses(second, 4) != losses(other, 4)
    assert equal(first, second)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_training_goes_on_from_its_state_dict(name: str) -> None:
    """All that steps depend on is in the state_dict: a fresh objective that loads it goes on to the same bits."""
    learner, fresh = objective(name), objective(name, seed=5)
    losses(learner, 3)
    fresh.load_state_dict(learner.state_dict())
    assert losses(fresh, 3) == losses(learner, 3)
    assert equal(fresh, learner)
    assert equal(fresh.result(), learner.result())


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_teacher_gets_no_gradient(name: str) -> None:
    """What is not trained has none after a step, and what is trained has one, finite."""
    learner = objective(name)
    losses(learner, 1)
    assert [n for n, p in learner.named_parameters() if (p.grad is not None) != p.requires_grad] == []
    assert all(gradient.isfinite().all() for gradient in gradients(learner))
    teachers = [module for module in learner.modules() if isinstance(module, Teacher)]
    assert not any(p.requires_grad for found in teachers for p in found.parameters())


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_runs_in_bf16(name: str) -> None:
    """Under autocast the loss is float32 and close to the one in full precision, and the gradient is finite."""
    exact, learner = objective(name), objective(name)
    for tuned in (exact, learner):
        losses(tuned, 2)
    expected = exact(batch(exact))["loss"]
    with torch.autocast("cpu", torch.bfloat16):
        loss = learner(batch(learner))["loss"]
    loss.backward()
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=0.05, atol=0.05)
    assert all(gradient.isfinite().all() for gradient in gradients(learner))


@pytest.mark.parametrize("name", SEMI)
def test_labels_beyond_the_known_are_not_looked_at(name: str) -> None:
    """Whatever stands in place of the labels that are hidden, the loss is the same."""
    learner = objective(name)
    given = batch(learner)
    assert (given.labels >= 0).sum() == learner.labeled(given) == KNOWN
    other = given.labels.where(given.labels >= 0, torch.arange(IMAGES) % CLASSES)
    shown = Batch(given.views, given.index, other, given.progress)
    assert torch.equal(objective(name)(given)["loss"], objective(name)(shown)["loss"])


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objective_leaves_its_batch_alone(name: str) -> None:
    """Views and labels are the same after a step."""
    learner = objective(name)
    given, same = batch(learner), batch(learner)
    learner(given)["loss"].backward()
    assert all(torch.equal(a, b) for a, b in zip(given.views, same.views, strict=True))
    assert torch.equal(given.labels, same.labels)


@pytest.mark.parametrize("name", SEMI)
def test_images_without_label_matter(name: str) -> None:
    """With other images without label, but the same number of them, the network gets another gradient."""
    found = []
    for seed in (0, 1):
        learner = objective(name, **({"threshold": 0.34} if name in THRESHOLDS else {}))
        losses(learner, 3)
        learner.zero_grad()
        given, other = batch(learner), batch(learner, seed=7 + seed)
        views = [torch.cat([a[:KNOWN], b[KNOWN:]]) for a, b in zip(given.views, other.views, strict=True)]
        for module in learner.modules():  # statistics of the batch would let anything through
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        learner(Batch(views, given.index, given.labels, 1.0))["loss"].backward()
        found.append(torch.cat([g.flatten() for g in gradients(learner)]))
    assert not torch.equal(*found)


@pytest.mark.parametrize("name", WEIGHTED)
def test_without_weight_only_labels_teach(name: str) -> None:
    """With weight 0 the loss is the cross-entropy of the labeled images, and that of s4l of their turned copies."""
    none = {"weight": 0.0, "shape": "linear", "begin": 0.0, "end": 0.0}
    growing = name in ("mean_teacher", "pseudo_label")
    changed = {"weight": none if growing else 0.0} | ({"annealing": None} if name == "uda" else {})
    changed |= {"threshold": 0.34} if name in THRESHOLDS else {}
    learner, twin = objective(name, **changed), objective(name, **changed)
    losses(learner, 3)
    losses(twin, 3)
    given = batch(learner)
    seen = torch.cat([given.views[0], *(view[KNOWN:] for view in given.views[1:] if name in ("fixmatch", "uda"))])
    logits, labels = twin.logits(turned(seen) if name == "s4l" else seen), given.labels[:KNOWN]
    labels = labels.repeat_interleave(TURNS) if name == "s4l" else labels
    assert torch.equal(learner(given)["loss"], cross_entropy(logits[: len(labels)], labels))


@pytest.mark.parametrize("name", THRESHOLDS)
@pytest.mark.parametrize("threshold", [0.0, 1.01, -0.5])
def test_a_threshold_lies_above_0_and_at_most_at_1(name: str, threshold: float) -> None:
    """Anything else is refused with its place and what would be right."""
    with pytest.raises(ParamsError, match=rf"finetunes\.{name}\.objective\.threshold: must be .*not {threshold}"):
        objective(name, threshold=threshold)


@pytest.mark.parametrize("name", SEMI)
def test_a_ratio_is_at_least_one(name: str) -> None:
    """An objective for images without label sees some."""
    with pytest.raises(ParamsError, match=rf"finetunes\.{name}\.objective\.unlabeled: must be .*not 0"):
        objective(name, unlabeled=0)


# ---- distillation


def test_distillation_golden_values() -> None:
    """On the fixture, at temperature 1 and at 2 with its factor 4; only the student gets gradient."""
    a, b, _ = fixture()
    assert distill.distillation(b, a, 1.0).item() == pytest.approx(2.19494218, abs=1e-6)
    assert distill.distillation(b, a, 2.0).item() == pytest.approx(8.43673003, abs=1e-6)
    assert norms(distill.distillation(b, a, 2.0), a)[0] is None
    assert norms(distill.distillation(b, a, 2.0), b)[0]


def test_distillation_is_least_at_the_teacher() -> None:
    """Equal logits give the teacher's entropy, without gradient; anything else gives more."""
    a, b, _ = fixture()
    least = distill.distillation(a, a, 1.0)
    assert least.item() == pytest.approx(1.87474992, abs=1e-6)  # the golden mean entropy of softmax A
    same = a.detach().clone().requires_grad_()
    assert norms(distill.distillation(same, a, 1.0), same)[0] == pytest.approx(0, abs=1e-12)
    assert distill.distillation(b, a, 1.0) > least


def test_a_high_temperature_compares_centered_logits() -> None:
    """As T grows, the gradient of the T² loss tends to the difference of centered logits, by classes and images."""
    a, b, _ = fixture()
    [gradient] = torch.autograd.grad(distill.distillation(b, a, 100.0), b)
    a, b = (x - x.mean(1, keepdim=True) for x in (a.detach(), b.detach()))
    expected = (b - a) / b.numel()
    assert (gradient - expected).norm() < 4e-3 * expected.norm()


def test_the_teacher_of_a_distillation_stays() -> None:
    """It is no part of the state, its mode is eval whatever the student's, and it gets no gradient."""
    taught = nn.Sequential(network(3), nn.Linear(16, CLASSES))
    spec = plugins.specify("objectives", {"name": "distill", "unlabeled": 2, "alpha": 1.0, "temperature": 2.0}, "x")
    learner = spec.make(network(0), Setting(16, CLASSES, taught))
    before = {name: value.clone() for name, value in taught.state_dict().items()}
    losses(learner, 3)
    assert all(torch.equal(value, taught.state_dict()[name]) for name, value in before.items())
    assert not taught.training
    assert all(p.grad is None and not p.requires_grad for p in taught.parameters())
    assert not [name for name in learner.state_dict() if "teacher" in name]


def test_distillation_weighs_labels_against_the_teacher() -> None:
    """The loss is (1 − α) · cross-entropy + α · distillation over all images, with and without label."""
    learner, twin = (objective("distill", alpha=0.25, temperature=2.0) for _ in range(2))
    losses(learner, 2)
    losses(twin, 2)
    given = batch(learner)
    logits = twin.logits(given.views[0])
    labels = cross_entropy(logits[:KNOWN], given.labels[:KNOWN])
    expected = 0.75 * labels + 0.25 * distill.distillation(logits, teacher()(given.views[0]), 2.0)
    torch.testing.assert_close(learner(given)["loss"], expected, rtol=0, atol=1e-6)


# ---- FixMatch


def test_fixmatch_counts_every_image() -> None:
    """Of four images two are sure: the loss is the sum of their cross-entropies by four, and half are kept."""
    _, b, _ = fixture()
    strong = b[:, :3]
    loss, kept = fixmatch.agreement(SURE, strong, 0.95)
    expected = cross_entropy(strong[:2], torch.tensor([0, 1]), reduction="sum") / 4
    torch.testing.assert_close(loss, expected)
    assert kept == 0.5


def test_fixmatch_gives_gradient_to_the_strong_view_alone() -> None:
    """The guess has none."""
    weak, (_, b, _) = SURE.clone().requires_grad_(), fixture()
    strong = b[:, :3].detach().requires_grad_()
    found = norms(fixmatch.agreement(weak, strong, 0.95)[0], weak, strong)
    assert found[0] is None
    assert found[1]


@pytest.mark.parametrize("equation", [lambda t: fixmatch.agreement(SURE / 9, SURE, t), lambda t: pseudo(SURE / 9, t)])
def test_nothing_is_certain(equation) -> None:
    """At the threshold 1 nothing is kept, at one as low as chance everything is."""
    assert [value.item() for value in equation(1.0)] == [0, 0]
    assert equation(1 / 3)[1] == 1


def pseudo(logits: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    return pseudo_label.self_training(logits, threshold)


def test_fixmatch_sees_all_in_one_batch() -> None:
    """Labeled weak, unlabeled weak and unlabeled strong views go through the network together."""
    learner, twin = (objective("fixmatch", threshold=0.5) for _ in range(2))
    losses(learner, 8)
    losses(twin, 8)
    given = batch(learner)
    weak, strong = given.views
    logits = twin.logits(torch.cat([weak, strong[KNOWN:]]))
    loss, kept = fixmatch.agreement(logits[KNOWN:IMAGES], logits[IMAGES:], 0.5)
    found = learner(given)
    assert kept > 0
    torch.testing.assert_close(found["loss"], cross_entropy(logits[:KNOWN], given.labels[:KNOWN]) + loss)
    assert equal(learner.network, twin.network)  # statistics too


def test_fixmatch_is_judged_by_its_average() -> None:
    """After one step its weights are the network's, then the mean of all; statistics are its own, of weak views."""
    learner = objective("fixmatch", momentum=0.999)
    seen = []
    for step in range(3):
        losses(learner, 1)
        seen.append([p.detach().clone() for p in (*learner.network.parameters(), *learner.classifier.parameters())])
        average = list(learner.result().parameters())
        for weights in zip(average, *seen, strict=True):
            torch.testing.assert_close(weights[0], torch.stack(weights[1:]).mean(0), rtol=0, atol=1e-6)
        assert step or all(torch.equal(a, b) for a, b in zip(average, seen[0], strict=True))
    own = [buffer.clone() for buffer in learner.result()[0].buffers()]
    assert not all(torch.equal(a, b) for a, b in zip(own, learner.network.buffers(), strict=True))
    twin, given = copy.deepcopy(learner.average), batch(learner)
    twin(given.views[0])
    learner(given)
    assert equal(learner.average, twin)


# ---- Mean Teacher


def test_mean_teacher_golden_values() -> None:
    """The mean over all entries of the squared difference of softmax A and B; only the student gets gradient."""
    a, b, _ = fixture()
    assert mean_teacher.consistency(a, b).item() == pytest.approx(0.00996261, abs=1e-6)
    student, other = norms(mean_teacher.consistency(a, b), a, b)
    assert student
    assert other is None


def test_the_mean_teacher_follows_and_is_judged() -> None:
    """It looks at the other view with statistics of its own batches; its weights are an average of the student's."""
    learner = objective("mean_teacher", momentum=0.5)
    given, before = batch(learner), [p.clone() for p in learner.teacher.parameters()]
    statistics = [b.clone() for b in learner.teacher.copies.buffers()]
    learner(given)
    assert all(torch.equal(a, b) for a, b in zip(before, learner.teacher.parameters(), strict=True))
    changed = zip(statistics, learner.teacher.copies.buffers(), strict=True)
    assert not all(torch.equal(a, b) for a, b in changed)
    losses(learner, 1)  # a copy
    pairs = zip(learner.teacher.copies.buffers(), learner.network.buffers(), strict=True)
    assert not all(torch.equal(a, b) for a, b in pairs)
    first = [p.detach().clone() for p in learner.teacher.parameters()]
    losses(learner, 1)
    now = (*learner.network.parameters(), *learner.classifier.parameters())
    for old, own, theirs in zip(first, learner.result().parameters(), now, strict=True):
        torch.testing.assert_close(own, (old + theirs) / 2, rtol=0, atol=1e-6)


def test_the_mean_teacher_sees_the_other_view() -> None:
    """The loss is the cross-entropy of the first view and the weight times the distance to the teacher's second."""
    learner, twin = (objective("mean_teacher") for _ in range(2))
    losses(learner, 2)
    losses(twin, 2)
    given = batch(learner)
    logits = twin.logits(given.views[0])
    apart = mean_teacher.consistency(logits, twin.teacher(given.views[1]))
    assert apart > 0
    expected = cross_entropy(logits[:KNOWN], given.labels[:KNOWN]) + apart
    torch.testing.assert_close(learner(given)["loss"], expected)


# ---- UDA


def test_uda_golden_values() -> None:
    """At temperature 0.4, target A, student B, all kept; the target has no gradient."""
    a, b, _ = fixture()
    loss, kept = uda.divergence(a, b, 0.4, 1e-9)
    assert loss.item() == pytest.approx(0.75173809, abs=1e-6)
    assert kept == 1
    assert norms(loss, a, b) == [None, pytest.approx(0.22665065, abs=1e-6)]


def test_uda_looks_at_what_is_not_sharpened_and_counts_every_image() -> None:
    """Confidence is that of temperature 1; the divergence of those that are kept is divided by all."""
    _, b, _ = fixture()
    strong = b[:, :3].detach()
    loss, kept = uda.divergence(SURE, strong, 0.05, 0.8)  # sharpened by 0.05 the third would be sure too
    assert kept == 0.5
    alone, _ = uda.divergence(SURE[:2], strong[:2], 0.05, 0.8)
    torch.testing.assert_close(loss, alone / 2)
    assert uda.divergence(SURE, SURE, 1.0, 0.8)[0] == 0


def test_annealing_leaves_out_what_is_learned() -> None:
    """Images whose own class is more probable than allowed are not counted; if none is left the loss is 0."""
    labels = torch.tensor([0, 1, 0, 0])
    losses = cross_entropy(SURE, labels, reduction="none")
    torch.testing.assert_close(uda.annealed(SURE, labels, 0.9), losses[2:].mean())
    torch.testing.assert_close(uda.annealed(SURE, labels, 1.0), losses.mean())
    assert uda.annealed(SURE[:2], labels[:2], 0.5) == 0
    logits = SURE.clone().requires_grad_()
    [gradient] = torch.autograd.grad(uda.annealed(logits, labels, 0.9), logits)
    assert not gradient[:2].any()
    assert gradient[2:].any(1).all()


# ---- Pseudo-Label


def test_pseudo_labels_are_taken_from_the_sure() -> None:
    """Of four images two are sure: their cross-entropies by four; the guess has no gradient, so ln p has that of it."""
    logits = SURE.clone().requires_grad_()
    loss, kept = pseudo_label.self_training(logits, 0.95)
    expected = cross_entropy(logits[:2], torch.tensor([0, 1]), reduction="sum") / 4
    torch.testing.assert_close(loss, expected)
    assert kept == 0.5
    [gradient] = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(gradient[:2], (SURE[:2].softmax(1) - torch.eye(3, dtype=torch.float64)[:2]) / 4)
    assert not gradient[2:].any()


def test_the_weight_of_pseudo_labels_grows() -> None:
    """None before it begins, half of it in the middle, all of it from its end on."""
    growth = {"weight": 3.0, "shape": "linear", "begin": 0.25, "end": 0.75}
    found = {}
    for progress in (0.2, 0.5, 0.75, 1.0):
        learner = objective("pseudo_label", weight=growth, threshold=0.34)
        losses(learner, 8)
        given = batch(learner, progress=progress)
        found[progress] = learner(given)["loss"].item()
    whole = found[1.0] - found[0.2]
    assert whole > 0
    assert found[0.75] == found[1.0]
    assert found[0.5] - found[0.2] == pytest.approx(whole / 2, rel=1e-5)


# ---- S4L


def test_s4l_turns_every_image_four_ways() -> None:
    """4n images go through the network at once; the turns 0 … 3 of every image are told, labels count for all four."""
    learner, twin = (objective("s4l", weight=2.0) for _ in range(2))
    losses(learner, 3)
    losses(twin, 3)
    given, seen = batch(learner), []
    learner.network.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    features = twin.network(turned(given.views[0]))
    labels = given.labels[:KNOWN].repeat_interleave(TURNS)
    expected = cross_entropy(twin.classifier(features[: len(labels)]), labels) + 2 * turn_loss(twin.turns(features))
    torch.testing.assert_close(learner(given)["loss"], expected)
    assert seen == [4 * IMAGES]


def test_s4l_is_judged_on_images_as_they_are() -> None:
    """The result is the network and the classifier of classes; that of turns is thrown away."""
    learner: Objective = objective("s4l")
    view = batch(learner).views[0]
    learner.eval()
    assert torch.equal(learner.result()(view), learner.classifier(learner.network(view)))
