"""What tests of objectives share: each on a tiny network, a batch with and without labels, a short training."""

from typing import Any

import torch
from method_cases import CLASSES, IMAGES
from torch import nn

from pipeline import plugins
from stages.encoders.small_resnet import SmallResNet
from stages.methods._method import Batch
from stages.objectives._objective import Objective, Setting

GROWTH = {"weight": 1.0, "shape": "linear", "begin": 0.0, "end": 0.0}
SETTINGS: dict[str, dict[str, Any]] = {  # a tiny block of params.yaml for every objective
    "distill": {"unlabeled": 2, "alpha": 0.5, "temperature": 1.0},
    "fixmatch": {"unlabeled": 2, "weight": 1.0, "threshold": 0.9, "momentum": 0.9},
    "mean_teacher": {"unlabeled": 2, "weight": GROWTH, "momentum": 0.9},
    "pseudo_label": {"unlabeled": 2, "weight": GROWTH, "threshold": 0.9},
    "s4l": {"unlabeled": 2, "weight": 1.0},
    "supervised": {},
    "uda": {"unlabeled": 2, "weight": 1.0, "threshold": 0.3, "temperature": 0.4, "annealing": {"shape": "log"}},
}
KNOWN = IMAGES // 3  # of the images of a batch, where some are without label


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(SmallResNet(width=4, blocks=1), nn.Sequential())


def teacher() -> nn.Module:
    """Tells the colors of `batch` apart: the class scores are mean red, green and blue."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())


def objective(name: str, seed: int = 0, **changed: object) -> Any:
    """The objective `name` on a tiny network, with some of its settings changed."""
    spec = plugins.specify("objectives", {"name": name, **SETTINGS[name], **changed}, f"finetunes.{name}.objective")
    learner = spec.make(network(seed), Setting(16, CLASSES, teacher() if taught(name) else None))
    assert isinstance(learner, Objective)
    return learner


def taught(name: str) -> bool:
    return plugins.load("objectives", name).has_teacher  # type: ignore[attr-defined]


def batch(learner: Objective, seed: int = 0, progress: float = 0.5) -> Batch:
    """Images of three colors with noise of their own in every view; the color is the label, which only some have."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(IMAGES) % CLASSES
    base = (
        torch.eye(CLASSES)[labels].view(IMAGES, CLASSES, 1, 1) + torch.randn(IMAGES, 3, 8, 8, generator=generator) / 2
    )
    views = [base + torch.randn(IMAGES, 3, 8, 8, generator=generator) / 10 for _ in learner.views]
    labels[IMAGES // (1 + learner.unlabeled) :] = -1
    return Batch(views, torch.arange(IMAGES), labels, progress)


def losses(learner: Objective, steps: int) -> list[float]:
    """The losses of a short training."""
    optimizer = torch.optim.SGD([p for p in learner.parameters() if p.requires_grad], lr=0.05, momentum=0.9)
    learner.train()
    found = []
    for step in range(steps):
        loss = learner(batch(learner, step % 2, step / steps))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        learner.after_step((step + 1) / steps)
        found.append(loss.item())
    return found
