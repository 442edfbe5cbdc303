"""Parts of methods that are thrown away: heads, teachers, schedules, queues, and losses in full precision."""

from itertools import pairwise
from typing import Any

import pydantic
import pytest
import torch
from torch import Tensor, nn

from pipeline.errors import ParamsError
from stages.networks.heads import Projection, Projector, classifier
from stages.networks.memory import RingQueue
from stages.networks.precision import full_precision
from stages.networks.schedule import Momentum, Ramp
from stages.networks.teacher import Teacher

# ---- heads

NORMS = ("none", "hidden", "all")
AFTER: dict[str, tuple[list[type[nn.Module]], list[type[nn.Module]]]] = {  # a middle layer, the last one
    "none": ([nn.Linear, nn.ReLU], [nn.Linear]),
    "hidden": ([nn.Linear, nn.BatchNorm1d, nn.ReLU], [nn.Linear]),
    "all": ([nn.Linear, nn.BatchNorm1d, nn.ReLU], [nn.Linear, nn.BatchNorm1d]),
}


def projector(layers: int, norm: Any) -> Projector:
    torch.manual_seed(0)
    return Projector(5, Projection(layers=layers, hidden=6, out=4, norm=norm))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("layers", [1, 2, 3, 4])
def test_a_projector_is_what_norm_says(layers: int, norm: str) -> None:
    """Linear, normalization where `norm` puts it, ReLU but after the last; linear layers shift only under `none`."""
    head = projector(layers, norm)
    middle, last = AFTER[norm]
    assert [[type(part) for part in layer.children()] for layer in head.layers] == [middle] * (layers - 1) + [last]
    linear = [m for m in head.modules() if isinstance(m, nn.Linear)]
    widths = [5, *[6] * (layers - 1), 4]
    assert [(m.in_features, m.out_features) for m in linear] == list(pairwise(widths))
    assert all((m.bias is not None) == (norm == "none") for m in linear)
    assert head(torch.randn(8, 5)).shape == (8, 4)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("layers", [1, 2, 3, 4])
def test_only_the_last_shift_under_all_is_not_trained(layers: int, norm: str) -> None:
    """It is zero and stays so: embeddings are centered, and of both signs; under the others everything is trained."""
    head = projector(layers, norm)
    frozen = [name for name, p in head.named_parameters() if not p.requires_grad]
    assert frozen == ([f"layers.{layers - 1}.1.bias"] if norm == "all" else [])
    assert not any(head.state_dict()[name].any() for name in frozen)
    z = head(torch.randn(64, 5))
    assert (z < 0).any()
    assert (z.mean(0).abs() < 1e-6).all() == (norm == "all")


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("layers", [2, 3])
def test_the_first_layers_share_their_weights_with_the_projector(layers: int, norm: str) -> None:
    """`first(1)` is Linear-(BN)-ReLU, `first(layers)` the whole projector, on the same tensors."""
    head, x = projector(layers, norm).eval(), torch.randn(3, 5)
    assert torch.equal(head.first(layers)(x), head(x))
    [first] = head.first(1).children()
    assert [type(part) for part in first.children()] == AFTER[norm][0]
    assert (head.first(1)(x) >= 0).all()
    assert next(head.first(1).parameters()) is next(head.parameters())


@pytest.mark.parametrize(("layers", "norm"), [(0, "all"), (5, "all"), (2, True), (2, "last")])
def test_a_projector_has_one_to_four_layers_and_a_known_norm(layers: int, norm: Any) -> None:
    """Anything else is refused where params.yaml is checked."""
    with pytest.raises(pydantic.ValidationError):
        Projection(layers=layers, hidden=6, out=4, norm=norm)


def test_a_classifier_starts_at_zero() -> None:
    """Weight and shift are zero."""
    assert not any(p.any() for p in classifier(5, 3).parameters())


# ---- teachers


def online(seed: int) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6)), nn.Linear(6, 4)


def test_a_teacher_is_a_frozen_copy() -> None:
    """It gives what its modules give one after the other, shares no tensor with them, and nothing in it is trained."""
    parts, x = online(0), torch.randn(8, 5)
    teacher = Teacher(*parts)
    assert torch.equal(teacher(x), parts[1](parts[0](x)))
    assert not any(p.requires_grad for p in teacher.parameters())
    theirs = {p.data_ptr() for part in parts for p in part.parameters()}
    assert not theirs & {p.data_ptr() for p in teacher.parameters()}


def test_no_gradient_passes_through_a_teacher() -> None:
    """Not even to its input."""
    assert not Teacher(*online(0))(torch.randn(8, 5, requires_grad=True)).requires_grad


@pytest.mark.parametrize("momentum", [0.0, 0.25, 0.9, 1.0])
def test_a_teacher_follows_at_its_momentum(momentum: float) -> None:
    """θ' ← m θ' + (1 − m) θ for every parameter: 0 copies and 1 stays, to the bit."""
    teacher, parts = Teacher(*online(0)), online(1)
    before = [p.clone() for p in teacher.parameters()]
    teacher.follow(*parts, momentum=momentum)
    for old, own, theirs in zip(before, teacher.parameters(), nn.ModuleList(parts).parameters(), strict=True):
        torch.testing.assert_close(own, momentum * old + (1 - momentum) * theirs, rtol=0, atol=1e-6)
        if momentum in (0.0, 1.0):
            assert torch.equal(own, old if momentum else theirs)


def test_a_teacher_normalizes_by_the_batch_with_statistics_of_its_own() -> None:
    """In train mode; following copies no statistics, and the trained network's stay as they were."""
    parts = online(0)
    teacher, x = Teacher(*parts), torch.randn(64, 5) + 3
    assert torch.allclose(teacher.copies[0](x).mean(0), torch.zeros(6), atol=1e-5)
    teacher.follow(*parts, momentum=0.0)
    assert teacher.copies[0][1].running_mean.any()  # type: ignore[index]
    assert not parts[0][1].running_mean.any()  # type: ignore[index]


# ---- schedules


@pytest.mark.parametrize(
    ("start", "end", "values"), [(0.996, 1.0, [0.996, 0.998, 1.0]), (0.9, 0.1, [0.9, 0.5, 0.1]), (0.3, 0.3, [0.3] * 3)]
)
def test_a_ramp_is_half_a_cosine(start: float, end: float, values: list[float]) -> None:
    """BYOL's rule at 0, 1/2 and 1; a constant stays one to the bit; in between it is slow, fast, slow."""
    ramp = Ramp(start=start, end=end)
    assert [ramp.at(p) for p in (0, 0.5, 1)] == pytest.approx(values, abs=1e-12)
    assert ramp.at(0.25) == pytest.approx(start + (end - start) * (1 - 0.5**0.5) / 2)
    if start == end:
        assert all(ramp.at(p / 7) == start for p in range(8))


@pytest.mark.parametrize("block", [{"start": 0.9, "end": 1.01}, {"start": -0.1, "end": 1.0}])
def test_a_momentum_lies_between_zero_and_one(block: dict[str, float]) -> None:
    """Outside, a teacher would run away: refused where params.yaml is checked."""
    with pytest.raises(pydantic.ValidationError):
        Momentum(**block)


# ---- queues


def counted(*rows: int) -> Tensor:
    """The row k is a unit vector that says k."""
    angles = torch.tensor(rows, dtype=torch.float32)
    return torch.stack([angles.cos(), angles.sin()], 1)


def test_a_queue_holds_the_last_rows_in_order() -> None:
    """Before it is full the rest are the random rows it started with; then the oldest go first."""
    queue = RingQueue(6, 2, step=2)
    started = queue.rows.clone()
    queue.push(counted(0, 1))
    assert torch.equal(queue.rows, torch.cat([counted(0, 1), started[2:]]))
    for first in (2, 4, 6):
        queue.push(counted(first, first + 1))
    assert torch.equal(queue.rows.roll(-int(queue.pointer), 0), counted(2, 3, 4, 5, 6, 7))
    assert int(queue.pointer) == 2


def test_a_step_may_be_pushed_around_the_end() -> None:
    """The pointer goes around wherever a push ends."""
    queue = RingQueue(6, 2, step=3)
    queue.push(counted(0, 1, 2, 3))
    queue.push(counted(4, 5, 6, 7))
    assert torch.equal(queue.rows, counted(6, 7, 2, 3, 4, 5))


def test_a_queue_starts_on_the_sphere_and_is_part_of_the_state() -> None:
    """Rows of unit length in all directions; a fresh queue that loads the state goes on at the same place."""
    torch.manual_seed(0)
    queue, fresh = RingQueue(512, 16, step=64), RingQueue(512, 16, step=64)
    torch.testing.assert_close(queue.rows.norm(dim=1), torch.ones(512))
    assert queue.rows.mean(0).norm() < 0.15
    queue.push(torch.eye(16)[:4])
    fresh.load_state_dict(queue.state_dict())
    assert torch.equal(fresh.rows, queue.rows)
    assert int(fresh.pointer) == 4


def test_a_queue_keeps_values_and_no_gradient() -> None:
    """What is pushed may be part of a graph, in any precision; the queue is neither."""
    queue = RingQueue(4, 2, step=2)
    queue.push(counted(0, 1).requires_grad_().bfloat16())
    assert not queue.rows.requires_grad
    assert queue.rows.dtype == torch.float32


@pytest.mark.parametrize(("size", "near"), [(1000, "896 or 1024"), (100, "128 or a multiple of it")])
def test_a_queue_holds_whole_steps(size: int, near: str) -> None:
    """Otherwise it says both sizes and the nearest that would be right."""
    sentence = rf"a queue of {size} embeddings is no multiple of the 128 .*: make it {near}"
    with pytest.raises(ParamsError, match=sentence):
        RingQueue(size, 2, step=128)


# ---- precision


@full_precision
def product(a: Tensor, b: Tensor, *, scale: float) -> Tensor:
    return a @ b.T * scale


@pytest.mark.parametrize(
    ("given", "computed"),
    [(torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64, torch.float64)],
)
def test_a_loss_is_computed_in_full_precision(given: torch.dtype, computed: torch.dtype) -> None:
    """Under autocast too, and half precision comes in as float32; float64 stays; gradient passes."""
    a = torch.randn(3, 5, dtype=given, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        found = product(a, a, scale=2.0)
    assert found.dtype == computed
    exact = a.to(computed)
    assert torch.equal(found, exact @ exact.T * 2)
    assert torch.autograd.grad(found.sum(), a)[0].any()
