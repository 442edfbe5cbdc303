"""Images a second that each method is trained on, as the recipe cifar10-methods sets it up: one thread of a CPU.

A turn is an epoch with all that belongs to it: views, forwards, backward, teacher, queue, k-means before it. The ratio
compares with `simclr` in the same round. docs/results.md reads the rates.
"""

import io
from contextlib import redirect_stderr
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks._networks import ENDLESS, ROOT, Host, Pause, Photographs, built, photographs
from benchmarks._paired import Record, compared, rounds, side
from benchmarks._results import command
from pipeline import params
from pipeline.hardware import set_up
from stages import pretrain
from stages.datasets._storage import Packed
from stages.encoders._viewer import viewer
from stages.training.checkpoints import Checkpoints
from stages.training.loop import Images, Plan, Trainer

COMMAND = f"python -m {__spec__.name}"
RECIPE = ROOT / "recipes" / "cifar10-methods" / "params.yaml"
IMAGES = 7_500  # about as many as the recipe trains on
FIRST = "simclr"  # what the others are compared with


class Epochs:
    """The training of one run of the recipe, an epoch at a time."""

    def __init__(self, run: dict[str, Any], name: str, shown: Photographs, folder: Path) -> None:
        asked = params.arguments(pretrain.pretrain, run, f"runs.{name}")
        rows = torch.arange(len(shown.pixels))
        labels = torch.from_numpy(shown.labels) if run["sees"] == "labels" else torch.full((len(rows),), -1)
        images = Images(Packed(shown.pixels), labels, rows)
        model, learner = built(asked, images)
        plan = Plan(
            name=name,
            seed=0,
            epochs=ENDLESS,
            settings=asked["training"],
            make_views=viewer(asked["views"], model),
            precision=asked["hardware"].precision,
            look=None,
            plain=partial(pretrain.plain, model, images),
        )
        self.host = Host()
        self.trainer = Trainer(learner, images, plan, Checkpoints(folder), self.host)
        self.images = self.trainer.per_epoch * self.trainer.size

    def one(self) -> None:
        """Go on for an epoch."""
        self.host.left = self.trainer.per_epoch
        try:
            with redirect_stderr(io.StringIO()):  # its progress bar
                self.trainer.run()
        except Pause:
            pass


def measured(runs: dict[str, Any], hardware: dict[str, Any], count: int, images: int) -> dict[str, Record]:
    """Some runs of the recipe, in turn."""
    set_up(params.arguments(pretrain.pretrain, runs[FIRST] | {"hardware": hardware}, "runs")["hardware"])
    shown = photographs(images)
    with TemporaryDirectory() as folder:
        epochs = {
            name: Epochs(run | {"hardware": hardware}, name, shown, Path(folder) / name) for name, run in runs.items()
        }
        found = rounds({name: side(each.images, each.one) for name, each in epochs.items()}, count)
    return {
        f"method_{name}": compared(
            rates,
            found[FIRST],
            what=f"images/s that {name} trains on over those of {FIRST}, recipe cifar10-methods, 1 thread, on "
            f"{shown.kind} images",
            unit="images/s",
            target="",
            command=COMMAND,
        )
        for name, rates in found.items()
    }


def measure(smoke: bool) -> dict[str, Record]:
    """Every run that trains; at a try two of them, on few images."""
    values = params.read(RECIPE)
    hardware = values["hardware"] | {"device": "cpu"}
    runs = {name: run for name, run in values["runs"].items() if run["training"]["epochs"]}
    if smoke:
        return measured(dict(list(runs.items())[:2]), hardware, 1, 256)
    return measured(runs, hardware, 2, IMAGES)


if __name__ == "__main__":
    command(measure, "methods.json")
