"""Methods and objectives: what every one of them must do, found by folder; then SimCLR's equation and the heads.

A new method is tested by existing: it needs a line in SETTINGS and nothing else.
"""

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from pipeline import plugins
from pipeline.errors import TrainingError
from stages.encoders.small_resnet import SmallResNet
from stages.methods._method import Batch, Method, Setting
from stages.methods.simclr import nt_xent
from stages.networks.heads import Projection, Projector, classifier
from stages.objectives._objective import Objective

PROJECTOR = {"layers": 2, "hidden": 16, "out": 8, "norm": True}
SETTINGS: dict[str, dict[str, Any]] = {  # a tiny block of params.yaml for every method
    "random": {},
    "simclr": {"temperature": 0.5, "reduction": "paper", "projector": PROJECTOR},
    "supervised": {},
}
UNTRAINED = {"random"}  # has no loss
IMAGES, CLASSES = 12, 3

METHODS = plugins.names("methods")
TRAINED = sorted(set(METHODS) - UNTRAINED)
OBJECTIVES = plugins.names("objectives")


def method(name: str, seed: int = 0) -> Method:
    """The method `name` on a tiny network."""
    torch.manual_seed(seed)
    network = SmallResNet(width=4, blocks=1)
    spec = plugins.specify("methods", {"name": name, **SETTINGS[name]}, f"runs.{name}.method")
    return spec.make(network, Setting(features=16, images=IMAGES, classes=CLASSES, batch_size=IMAGES))


def batch(views: int, seed: int = 0) -> Batch:
    """Images of three colors with noise of their own in every view; the color is the label."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(IMAGES) % CLASSES
    base = (
        torch.eye(CLASSES)[labels].view(IMAGES, CLASSES, 1, 1) + torch.randn(IMAGES, 3, 8, 8, generator=generator) / 2
    )
    noise = [torch.randn(IMAGES, 3, 8, 8, generator=generator) / 10 for _ in range(views)]
    return Batch([base + n for n in noise], torch.arange(IMAGES), labels)


def losses(learner: nn.Module, steps: int, views: int) -> list[float]:
    """The losses of a short training."""
    optimizer = torch.optim.SGD([p for p in learner.parameters() if p.requires_grad], lr=0.05, momentum=0.9)
    learner.train()
    found = []
    for step in range(steps):
        loss = learner(batch(views, seed=step % 2))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        learner.after_step((step + 1) / steps)  # type: ignore[operator]  # nn.Module hides what it has
        found.append(loss.item())
    return found


def gradients(learner: nn.Module) -> Iterator[Tensor]:
    return (p.grad for p in learner.parameters() if p.grad is not None)


# ---- every method


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_a_method_around_its_encoder(name: str) -> None:
    """It keeps the encoder it was given, and says how many views it takes and whether it needs labels."""
    learner = method(name)
    assert isinstance(learner, Method)
    assert isinstance(learner.encoder, SmallResNet)
    assert learner.views >= 1
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
    """Everything that a step depends on is in the state_dict: a fresh method that loads it gives the same next loss."""
    learner, fresh = method(name), method(name, seed=5)
    losses(learner, 3, learner.views)
    fresh.load_state_dict(learner.state_dict())
    assert torch.equal(fresh(batch(fresh.views))["loss"], learner(batch(learner.views))["loss"])


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


@pytest.mark.parametrize("name", sorted(UNTRAINED))
def test_an_untrained_method_says_so(name: str) -> None:
    """Asked for a loss it names the setting that is wrong."""
    with pytest.raises(TrainingError, match=r"training\.epochs to 0"):
        method(name)(batch(1))


def test_supervised_starts_at_log_classes() -> None:
    """The classifier starts at zero, so the first loss knows nothing: log(classes)."""
    assert method("supervised")(batch(1))["loss"].item() == pytest.approx(math.log(CLASSES), abs=1e-6)


# ---- SimCLR's equation


def fixture() -> tuple[Tensor, Tensor]:
    """A[i,j] = sin(8i + j), B[i,j] = cos(0.7 (8i + j)), float64 (4, 8)."""
    k = torch.arange(32, dtype=torch.float64).view(4, 8)
    return torch.sin(k).requires_grad_(), torch.cos(0.7 * k).requires_grad_()


def orthonormal(count: int) -> Tensor:
    return torch.eye(count, dtype=torch.float64)


@pytest.mark.parametrize(("temperature", "value"), [(0.5, 1.92684745), (0.1, 4.45635739)])
def test_golden_values(temperature: float, value: float) -> None:
    """The values of an independent computation on the fixture."""
    assert nt_xent(*fixture(), temperature, "paper").item() == pytest.approx(value, abs=1e-6)


def test_golden_gradients() -> None:
    """The norms of both gradients of the same computation at τ = 0.5: neither view is spared."""
    a, b = fixture()
    gradients = torch.autograd.grad(nt_xent(a, b, 0.5, "paper"), (a, b))
    assert [gradient.norm().item() for gradient in gradients] == pytest.approx([0.28541209, 0.40584074], abs=1e-6)


def test_nt_xent_is_the_paper_s_double_sum() -> None:
    """Equation 1 term by term, in Python floats."""
    a, b = fixture()
    z = [[v / math.hypot(*row) for v in row] for row in torch.cat([a, b]).tolist()]
    similarity = [[sum(x * y for x, y in zip(p, q, strict=True)) for q in z] for p in z]
    terms = []
    for i in range(8):
        others = sum(math.exp(similarity[i][k] / 0.3) for k in range(8) if k != i)
        terms.append(-math.log(math.exp(similarity[i][(i + 4) % 8] / 0.3) / others))
    assert nt_xent(a, b, 0.3, "paper").item() == pytest.approx(sum(terms) / 8, abs=1e-12)


def test_the_official_reduction_is_twice_the_paper_s() -> None:
    """Value and gradient, exactly."""
    a, b = fixture()
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
    a, b = fixture()
    assert nt_xent(a[:1], b[:1], 0.5, "paper").item() == 0


def test_neither_order_nor_side_matters() -> None:
    """Permuted images and swapped views have the same loss within 1e-12."""
    a, b = fixture()
    loss, order = nt_xent(a, b, 0.5, "paper").item(), [2, 0, 3, 1]
    assert nt_xent(a[order], b[order], 0.5, "paper").item() == pytest.approx(loss, abs=1e-12)
    assert nt_xent(b, a, 0.5, "paper").item() == pytest.approx(loss, abs=1e-12)
    assert nt_xent(a, b[order], 0.5, "paper").item() != pytest.approx(loss, abs=1e-3)


@pytest.mark.parametrize("row", range(4))
def test_only_the_direction_of_an_embedding_matters(row: int) -> None:
    """A scaled embedding has the same loss, and the gradient of an embedding is orthogonal to it."""
    a, b = fixture()
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
    a, b = (x.detach().float() for x in fixture())
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


# ---- heads


def projector(layers: Any, norm: bool) -> Projector:
    torch.manual_seed(0)
    return Projector(5, Projection(layers=layers, hidden=6, out=4, norm=norm))


@pytest.mark.parametrize("layers", [2, 3])
def test_a_projector_is_linear_norm_relu(layers: int) -> None:
    """Under `norm` each linear layer is followed by normalization, without a shift of its own; the last has no ReLU."""
    parts = [[type(part) for part in layer.children()] for layer in projector(layers, norm=True).layers]
    assert parts == [[nn.Linear, nn.BatchNorm1d, nn.ReLU]] * (layers - 1) + [[nn.Linear, nn.BatchNorm1d]]
    linear = [m for m in projector(layers, norm=True).modules() if isinstance(m, nn.Linear)]
    assert [(m.in_features, m.out_features) for m in linear] == [(5, 6), *[(6, 6)] * (layers - 2), (6, 4)]
    assert all(m.bias is None for m in linear)


@pytest.mark.parametrize("layers", [2, 3])
def test_a_projector_without_norm_is_the_paper_s(layers: int) -> None:
    """Without `norm` it is Linear-ReLU-…-Linear, with shifts."""
    head = projector(layers, norm=False)
    assert [[type(part) for part in layer.children()] for layer in head.layers] == [[nn.Linear, nn.ReLU]] * (
        layers - 1
    ) + [[nn.Linear]]
    assert all(m.bias is not None for m in head.modules() if isinstance(m, nn.Linear))


@pytest.mark.parametrize("layers", [2, 3])
def test_the_last_layer_has_no_shift_and_no_relu(layers: int) -> None:
    """Under `norm` embeddings are centered, of both signs, and stay so: the shift is zero and is not trained."""
    head = projector(layers, norm=True)
    z = head(torch.randn(64, 5))
    torch.testing.assert_close(z.mean(0), torch.zeros(4), rtol=0, atol=1e-6)
    assert (z < 0).any()
    frozen = [name for name, p in head.named_parameters() if not p.requires_grad]
    assert frozen == [f"layers.{layers - 1}.1.bias"]
    assert not head.state_dict()[frozen[0]].any()


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("layers", [2, 3])
def test_the_first_layers_share_their_weights_with_the_projector(layers: int, norm: bool) -> None:
    """`first(1)` is Linear-(BN)-ReLU, `first(layers)` the whole projector, on the same tensors."""
    head, x = projector(layers, norm).eval(), torch.randn(3, 5)
    assert torch.equal(head.first(layers)(x), head(x))
    [first] = head.first(1).children()
    assert [type(part) for part in first.children()] == [nn.Linear, *[nn.BatchNorm1d] * norm, nn.ReLU]
    assert (head.first(1)(x) >= 0).all()
    assert next(head.first(1).parameters()) is next(head.parameters())


def test_a_classifier_starts_at_zero() -> None:
    """Weight and shift are zero."""
    assert not any(p.any() for p in classifier(5, 3).parameters())


# ---- every objective


def objective(name: str) -> Objective:
    torch.manual_seed(0)
    spec = plugins.specify("objectives", {"name": name}, f"finetunes.{name}.objective")
    return spec.make(SmallResNet(width=4, blocks=1), 16, CLASSES)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_starts_at_log_classes(name: str) -> None:
    """Its classifier starts at zero, so all classes are equal and the first loss is log(classes)."""
    tuned = objective(name)
    assert isinstance(tuned, Objective)
    assert not tuned.logits(batch(1).views[0]).any()
    assert tuned(batch(1))["loss"].item() == pytest.approx(math.log(CLASSES), abs=1e-6)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_tunes_the_whole_network(name: str) -> None:
    """Forty steps lower the loss, change every weight of the network, and give the classes of the training images."""
    tuned = objective(name)
    before = [p.clone() for p in tuned.network.parameters()]
    found = losses(tuned, 40, 1)
    assert found[-1] < 0.5 * found[0]
    assert not any(torch.equal(a, b) for a, b in zip(before, tuned.network.parameters(), strict=True))
    assert torch.equal(tuned.logits(batch(1).views[0]).argmax(1), batch(1).labels)


def test_normalized_fixture_is_not_trivial() -> None:
    """The fixture of the golden values has similarities of both signs, so that every term counts."""
    a, b = fixture()
    similarity = normalize(a) @ normalize(b).T
    assert similarity.min() < -0.2 < 0.2 < similarity.max()
