"""The named networks and the training around them, as params.yaml of the recipe cifar10-quick has it.

    small   three-stage ResNet, width 16, 32×32, batch 256      r18   ResNet-18 with CIFAR stem, batch 64

The crop is bilinear, as that of the peers is.
"""

import io
import time
from contextlib import redirect_stderr
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks._paired import plain
from pipeline import params
from stages import pretrain
from stages.datasets import cifar10
from stages.datasets._storage import Packed
from stages.encoders._viewer import viewer
from stages.methods._method import Batch, Method
from stages.training.checkpoints import LEAST, SHARE, Checkpoints
from stages.training.feed import placed
from stages.training.loop import Images, Plan, Trainer
from stages.training.optimizers import make_optimizer

ROOT = Path(__file__).resolve().parent.parent
CIFAR = ROOT / "data" / "raw" / "cifar-10-batches-py"
ENDLESS = 10**6  # epochs
VIEWS = 2  # of an image, SimCLR's


class Network(NamedTuple):
    """A network by name, its block of params.yaml, and the images of a batch."""

    name: str
    encoder: dict[str, Any]
    batch: int


SMALL = Network("small", {"name": "small_resnet", "width": 16, "blocks": 1}, 256)
R18 = Network("r18", {"name": "resnet", "depth": 18, "stem": "cifar", "zero_init_residual": False}, 64)
TINY = Network("tiny", {"name": "small_resnet", "width": 4, "blocks": 1}, 16)


class Photographs(NamedTuple):
    """uint8 (n, 32, 32, 3), int64 (n,) labels, and what they are: "CIFAR-10" or "random"."""

    pixels: np.ndarray
    labels: np.ndarray
    kind: str


@cache
def cifar() -> cifar10.Images:
    """All of CIFAR-10, training images first."""
    return cifar10.load(path=str(CIFAR))


def photographs(count: int) -> Photographs:
    """CIFAR-10's first images if it is there, else random ones: the speed is the same."""
    if CIFAR.exists():
        images = cifar()
        return Photographs(np.asarray(images.pixels)[:count], images.labels[:count], "CIFAR-10")
    draws = np.random.default_rng(0)
    return Photographs(draws.integers(0, 256, (count, 32, 32, 3), np.uint8), draws.integers(0, 10, count), "random")


def arguments(network: Network, **hardware: Any) -> dict[str, Any]:
    """The checked arguments of the stage `pretrain` for a network; `hardware` in place of the recipe's."""
    values = params.read(ROOT / "recipes" / "cifar10-quick" / "params.yaml")
    run = values["runs"]["simclr"]
    run |= {"encoder": network.encoder, "init": f"stages/encoders/{network.encoder['name']}.py"}
    run["views"]["crop"]["interpolation"] = "bilinear"
    run["training"] |= {"batch_size": network.batch, "epochs": ENDLESS}
    return params.arguments(pretrain.pretrain, run | {"hardware": values["hardware"] | hardware}, "runs.simclr")


class Pause(Exception):
    """The training has made the steps of its turn."""


class Host:
    """In place of the stage: lets the loop make some steps, then takes it out of the loop."""

    stopping = False
    left = 0

    def check(self) -> None:
        self.left -= 1
        if not self.left:
            raise Pause

    def log(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Nobody listens."""


class Costs(Checkpoints):
    """Checkpoints whose clock stands still while another side has its turn, and what each of them cost."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.saved: list[float] = []  # seconds of every checkpoint

    def save(self, step: int, state: dict[str, Any]) -> None:
        start = time.monotonic()
        super().save(step, state)
        self.saved.append(time.monotonic() - start)

    def waited(self, seconds: float) -> None:
        """Take a pause off the clock."""
        self._due += seconds

    @staticmethod
    def interval(cost: float) -> float:
        """Seconds after a checkpoint of so many seconds in which there is none."""
        return max(LEAST, cost / SHARE)


class Training:
    """Our training of a network, the loop of stages/training with all that belongs to it, a few steps at a time."""

    def __init__(self, network: Network, device: torch.device, folder: Path, images: int, **hardware: Any) -> None:
        self.network, self.device, self.seconds = network, device, 0.0
        self.asked = arguments(network, device=device.type, **hardware)
        self.photographs = photographs(images)
        pixels, rows = self.photographs.pixels, torch.arange(len(self.photographs.pixels))
        shown = Images(placed(Packed(pixels), device), torch.full((len(rows),), -1, device=device), rows)
        self.model, self.learner = built(self.asked, shown)
        self.host, self.costs = Host(), Costs(folder)
        self.plan = Plan(
            name=network.name,
            seed=0,
            epochs=ENDLESS,
            settings=self.asked["training"],
            make_views=viewer(self.asked["views"], self.model),
            precision=self.asked["hardware"].precision,
            look=None,
            plain=None,
        )
        self.trainer = Trainer(self.learner, shown, self.plan, self.costs, self.host)
        self._ended = time.monotonic()

    def steps(self, count: int) -> None:
        """Go on for `count` steps."""
        start = time.monotonic()
        self.costs.waited(start - self._ended)
        self.host.left = count
        try:
            with redirect_stderr(io.StringIO()):  # its progress bar
                self.trainer.run()
        except Pause:
            pass
        self._ended = time.monotonic()
        self.seconds += self._ended - start


def built(asked: dict[str, Any], images: Images) -> tuple[Any, Method]:
    """The model and the method, as the stage builds them."""
    return pretrain.build(
        asked["encoder"],
        asked["init"],
        asked["method"],
        asked["input"],
        images,
        asked["training"].batch_size,
        asked["sees"],
    )


class Limit:
    """The model-only limit: same network, batch, optimizer and precision on random tensors that are there already."""

    def __init__(self, training: Training) -> None:
        self._training = training
        asked, device, size = training.asked, training.device, training.network.batch
        self.learner = built(asked, training.trainer.images)[1].train()
        self._optimizer = make_optimizer(self.learner, asked["training"].optimizer)
        for group in self._optimizer.param_groups:
            group["lr"] = 0.01
        shape = (size, 3, asked["input"].side, asked["input"].side)
        views = [torch.randn(shape, device=device).contiguous(memory_format=torch.channels_last) for _ in range(VIEWS)]
        index = torch.arange(size, device=device)
        self._batch = Batch(views, index, torch.full_like(index, -1))

    def steps(self, count: int) -> None:
        """`count` steps in plain torch."""
        precision = self._training.plan.precision
        with plain():
            for _ in range(count):
                with torch.autocast(self._training.device.type, torch.bfloat16, enabled=precision == "bf16"):
                    loss: Tensor = self.learner(self._batch)["loss"]
                self._optimizer.zero_grad(set_to_none=True)
                loss.backward()
                self._optimizer.step()
