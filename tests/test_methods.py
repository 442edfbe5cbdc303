"""Methods: what every one of them must do, found by folder. The equations are tested by family.

A new method is tested by existing: it needs a line in SETTINGS of method_cases.py and nothing else.
"""

import math
from collections.abc import Iterator

import pytest
import torch
from method_cases import CLASSES, UNTRAINED, batch, losses, method
from torch import Tensor, nn

from pipeline import plugins
from stages.encoders.small_resnet import SmallResNet
from stages.methods._method import Batch, Method
from stages.networks.teacher import Teacher
from stages.training.guards import COLLAPSED, spread

METHODS = plugins.names("methods")
TRAINED = sorted(set(METHODS) - UNTRAINED)


def gradients(learner: nn.Module) -> Iterator[Tensor]:
    return (p.grad for p in learner.parameters() if p.grad is not None)


# ---- every method


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_a_method_around_its_encoder(name: str) -> None:
    """It keeps the encoder it was given, and says how many views it takes and whether it needs labels."""
    learner = method(name)
    assert isinstance(learner, Method)
    assert isinstance(learner.encoder, SmallResNet)
    assert learner.views[0] == 2 if isinstance(learner.views, range) else learner.views >= 1
    assert learner.needs_labels in (True, False)
    assert learner.projector is None or isinstance(learner.projector, nn.Module)


@pytest.mark.parametrize("name", TRAINED)
def test_the_loss_is_a_finite_scalar(name: str) -> None:
    """Forward gives a finite scalar loss with gradient; whatever else it gives is a scalar without."""
    found = method(name)(batch(method(name).views))
    loss = found.pop("loss")
    assert loss.shape == ()
    assert loss.isfinite()
    assert loss.requires_grad
    assert all(value.shape == () and not value.requires_grad for value in found.values())


@pytest.mark.parametrize("name", TRAINED)
def test_gradient_reaches_the_encoder(name: str) -> None:
    """Every weight of the encoder gets a finite gradient, and not only zeros."""
    learner = method(name)
    for _ in range(2):  # a classifier that starts at zero passes nothing on in its first step
        losses(learner, 1, learner.views)
    for gradient in (p.grad for p in learner.encoder.parameters()):
        assert gradient is not None
        assert gradient.isfinite().all()
        assert gradient.any()


@pytest.mark.parametrize("name", TRAINED)
def test_the_same_seed_gives_the_same_bits(name: str) -> None:
    """Two trainings from one seed agree to the last bit, another seed does not."""
    first, second, other = method(name), method(name), method(name, seed=1)
    assert losses(first, 3, first.views) == losses(second, 3, second.views) != losses(other, 3, other.views)
    assert all(torch.equal(a, b) for a, b in zip(gradients(first), gradients(second), strict=True))
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize("name", TRAINED)
def test_the_loss_falls(name: str) -> None:
    """On two tiny batches, forty steps lower the loss."""
    found = losses(method(name), 40, method(name).views)
    assert sum(found[-2:]) < 0.9 * sum(found[:2])


@pytest.mark.parametrize("name", TRAINED)
def test_a_training_goes_on_from_its_state_dict(name: str) -> None:
    """All that steps depend on is in the state_dict: a fresh method that loads it goes on to the same bits."""
    learner, fresh = method(name), method(name, seed=5)
    losses(learner, 3, learner.views)
    fresh.load_state_dict(learner.state_dict())
    assert losses(fresh, 3, fresh.views) == losses(learner, 3, learner.views)
    assert all(
        torch.equal(a, b) for a, b in zip(fresh.state_dict().values(), learner.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize("name", TRAINED)
def test_a_teacher_gets_no_gradient(name: str) -> None:
    """What is not trained has none after a step, and what is trained has one."""
    learner = method(name)
    losses(learner, 1, learner.views)
    assert [n for n, p in learner.named_parameters() if (p.grad is not None) != p.requires_grad] == []
    teachers = [module for module in learner.modules() if isinstance(module, Teacher)]
    assert not any(p.requires_grad for teacher in teachers for p in teacher.parameters())


@pytest.mark.parametrize("name", TRAINED)
def test_features_stay_apart(name: str) -> None:
    """After forty steps neither features nor embeddings have collapsed."""
    learner = method(name)
    losses(learner, 40, learner.views)
    learner.eval()
    with torch.no_grad():
        features = learner.encoder(batch(1).views[0])
        embeddings = learner.projector(features) if learner.projector else features
    assert min(spread(features), spread(embeddings)) > COLLAPSED


@pytest.mark.parametrize("name", TRAINED)
def test_every_method_runs_in_bf16(name: str) -> None:
    """Under autocast the loss is float32 and close to the one in full precision, and the gradient is finite."""
    exact = method(name)(batch(method(name).views))["loss"]
    learner = method(name)
    with torch.autocast("cpu", torch.bfloat16):
        loss = learner(batch(learner.views))["loss"]
    loss.backward()
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, exact, rtol=0.03, atol=0.03)
    assert all(gradient.isfinite().all() for gradient in gradients(learner))


@pytest.mark.parametrize("name", TRAINED)
def test_a_method_leaves_its_batch_alone(name: str) -> None:
    """Views and labels are the same after a step."""
    learner, given, same = method(name), batch(method(name).views), batch(method(name).views)
    learner(given)["loss"].backward()
    assert all(torch.equal(a, b) for a, b in zip(given.views, same.views, strict=True))
    assert torch.equal(given.labels, same.labels)


@pytest.mark.parametrize("name", [n for n in TRAINED if not method(n).needs_labels])
def test_a_method_without_labels_ignores_them(name: str) -> None:
    """A method that needs no labels gives the same loss when there are none."""
    given = batch(method(name).views)
    without = Batch(given.views, given.index, torch.full_like(given.labels, -1))
    assert torch.equal(method(name)(given)["loss"], method(name)(without)["loss"])


def test_supervised_starts_at_log_classes() -> None:
    """The classifier starts at zero, so the first loss knows nothing: log(classes)."""
    assert method("supervised")(batch(1))["loss"].item() == pytest.approx(math.log(CLASSES), abs=1e-6)
