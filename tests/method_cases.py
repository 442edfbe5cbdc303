"""What the tests of methods share: every method on a tiny network, a batch, a short training, the golden fixture."""

from typing import Any

import torch
from torch import Tensor, nn

from pipeline import plugins
from stages.encoders.small_resnet import SmallResNet
from stages.methods._method import Batch, Method, Setting

PROJECTOR = {"layers": 2, "hidden": 16, "out": 8, "norm": "all"}
OPEN = {**PROJECTOR, "norm": "hidden"}  # embeddings of any mean and variance
PREDICTOR = {"layers": 2, "hidden": 16, "norm": "hidden"}
MOMENTUM = {"start": 0.9, "end": 1.0}
SETTINGS: dict[str, dict[str, Any]] = {  # a tiny block of params.yaml for every method
    "deepcluster_v2": {"temperature": 0.1, "prototypes": [3, 4], "iterations": 10, "projector": PROJECTOR},
    "dino": {
        "temperature": 0.1,
        "teacher_temperature": {"start": 0.04, "end": 0.07},
        "momentum": {"start": 0.9, "end": 1.0},
        "center_momentum": 0.99,
        "hidden": 16,
        "bottleneck": 8,
        "prototypes": 10,
        "frozen": 0.0,
    },
    "npid": {"temperature": 0.1, "negatives": "all", "momentum": 0.5, "projector": PROJECTOR},
    "barlow_twins": {"off_diagonal": 0.0051, "scale": 0.1, "projector": OPEN},
    "byol": {"momentum": MOMENTUM, "projector": OPEN, "predictor": PREDICTOR},
    "imported": {},
    "isif": {"temperature": 0.1, "projector": PROJECTOR},
    "macl": {"temperature": 0.1, "alpha": 0.5, "alignment": 0.0, "projector": PROJECTOR},
    "moco": {"temperature": 0.2, "queue": 24, "momentum": MOMENTUM, "symmetric": False, "projector": PROJECTOR},
    "moco_v3": {"temperature": 0.2, "momentum": MOMENTUM, "projector": PROJECTOR, "predictor": PREDICTOR},
    "nnclr": {"temperature": 0.2, "queue": 24, "projector": PROJECTOR, "predictor": PREDICTOR},
    "pcl": {
        "temperature": 0.2,
        "queue": 24,
        "momentum": {"start": 0.9, "end": 1.0},
        "prototypes": [3, 4],
        "iterations": 10,
        "warmup": 0.0,
        "projector": PROJECTOR,
    },
    "random": {},
    "rotnet": {},
    "simclr": {"temperature": 0.5, "reduction": "paper", "projector": PROJECTOR},
    "simsiam": {"projector": PROJECTOR, "predictor": PREDICTOR},
    "supervised": {},
    "vicreg": {"invariance": 1.0, "variance": 0.5, "covariance": 0.1, "projector": OPEN},
    "swav": {
        "temperature": 0.1,
        "epsilon": 0.05,
        "iterations": 3,
        "prototypes": 6,
        "frozen": 0.0,
        "queue": 24,
        "queue_from": 0.0,
        "projector": PROJECTOR,
    },
}
UNTRAINED = {"imported", "random"}  # has no loss
ALL, IMAGES, CLASSES = 18, 12, 3
ROWS = torch.arange(ALL).view(-1, 3)[:, 1:].flatten()  # of all, the images that a run may see: 1, 2, 4, 5 … 17


def method(name: str, seed: int = 0, **changed: object) -> Method:
    """The method `name` on a tiny network, with some of its settings changed."""
    torch.manual_seed(seed)
    network = SmallResNet(width=4, blocks=1)
    spec = plugins.specify("methods", {"name": name, **SETTINGS[name], **changed}, f"runs.{name}.method")
    learner = spec.make(network, Setting(features=16, images=ALL, rows=ROWS, classes=CLASSES, batch_size=IMAGES))
    start_epoch(learner)
    return learner


def astray(name: str) -> Any:
    """The method `name` whose teacher is no longer a copy of what it follows."""
    learner: Any = method(name)
    torch.manual_seed(1)
    with torch.no_grad():
        for p in learner.teacher.parameters():
            p.add_(torch.randn_like(p), alpha=0.1)
    return learner


def start_epoch(learner: Method, progress: float = 0.0) -> None:
    """What the loop does before the first step of an epoch."""

    def represented() -> tuple[Tensor, Tensor]:
        learner.eval()
        with torch.no_grad():
            rows = learner.represent(batch(1).views[0])
        learner.train()
        return ROWS, rows

    learner.on_epoch_start(progress, represented)


def batch(views: int | range, seed: int = 0) -> Batch:
    """Images of three colors with noise of their own in every view; the color is the label.

    For a method that takes a range of views, two of 8 × 8 pixels and two of 6 × 6.
    """
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(IMAGES) % CLASSES
    base = (
        torch.eye(CLASSES)[labels].view(IMAGES, CLASSES, 1, 1) + torch.randn(IMAGES, 3, 8, 8, generator=generator) / 2
    )
    sides = [8] * views if isinstance(views, int) else [8, 8, 6, 6]
    noise = [torch.randn(IMAGES, 3, side, side, generator=generator) / 10 for side in sides]
    return Batch([base[:, :, : n.shape[2], : n.shape[3]] + n for n in noise], ROWS.clone(), labels)


def halves(given: Batch) -> list[Batch]:
    """A batch in two pieces, as a training that accumulates gives it."""
    cuts = slice(0, IMAGES // 2), slice(IMAGES // 2, IMAGES)
    return [Batch([v[cut] for v in given.views], given.index[cut], given.labels[cut]) for cut in cuts]


def losses(learner: nn.Module, steps: int, views: int | range) -> list[float]:
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


def fixture() -> tuple[Tensor, Tensor, Tensor]:
    """A[i,j] = sin(8i + j) and B[i,j] = cos(0.7 (8i + j)), (4, 8); Q[i,j] = sin(1.3 (8i + j)), (6, 8); float64."""
    k = torch.arange(48, dtype=torch.float64).view(6, 8)
    a, b, q = torch.sin(k[:4]), torch.cos(0.7 * k[:4]), torch.sin(1.3 * k)
    return a.requires_grad_(), b.requires_grad_(), q.requires_grad_()


def orthonormal(count: int) -> Tensor:
    return torch.eye(count, dtype=torch.float64)


def norms(loss: Tensor, *inputs: Tensor) -> list[float | None]:
    """L2 norms of the gradients of `loss`; None where there is no way to an input."""
    found = torch.autograd.grad(loss, inputs, allow_unused=True)
    return [None if gradient is None else gradient.norm().item() for gradient in found]
