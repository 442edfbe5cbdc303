"""A host for a training without a stage, the views that it draws, and when two results are the same."""

import torch
from torch import Tensor

from pipeline.errors import Stopped
from stages.training.optimizers import Sgd
from stages.views._operations import Pixels

SGD = Sgd(name="sgd", learning_rate=0.1, momentum=0.9, nesterov=False, weight_decay=0.01)


class Host:
    """Stands in for the stage: asks the training to stop after each of the given numbers of checks."""

    def __init__(self, *stops: int) -> None:
        self.stops, self.checks, self.logged = set(stops), 0, []

    @property
    def stopping(self) -> bool:
        return self.checks + 1 in self.stops

    def check(self) -> None:
        self.checks += 1
        if self.checks in self.stops:
            raise Stopped(15)

    def log(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.logged.append((step, metrics))


def make_views(images: Pixels, source) -> list[Tensor]:
    return [images.values.permute(0, 3, 1, 2).float() / 255 + source.view(0).uniform(0, 0.1)[:, None, None, None]]


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)
