"""What a GPU shows, ResNet-18 with CIFAR stem in bf16: throughput, limit, breakdown, lightly, time to accuracy.

    python -m benchmarks.gpu                            all parts, at most 8 minutes     (make bench-gpu)
    python -m benchmarks.gpu --parts accuracy --minutes 9    goes on from where the last call stopped
    python -m benchmarks.gpu --smoke                    the same on tiny sizes, on the CPU too; nothing is kept

Needs the extra `worker`; lightly is measured where it is installed. Without CIFAR-10 in data/raw the images are random,
and there is no time to accuracy.
"""

import argparse
import json
import re
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks import _lightly, breakdown
from benchmarks._networks import R18, ROOT, TINY, Limit, Network, Photographs, Training, cifar, photographs
from benchmarks._paired import Elsewhere, Record, Side, compared, cores, rounds, side
from benchmarks._results import keep, shown
from pipeline.hardware import set_up
from stages import pretrain
from stages.probes import knn

COMMAND = f"python -m {__spec__.name}"
LEVELS = (0.75, 0.80, 0.84)  # of kNN on test


class Sizes(NamedTuple):
    """How much of everything."""

    network: Network
    batches: tuple[int, ...]
    images: int
    steps: int
    rounds: int
    epochs: int  # of the training to an accuracy: its schedule ends there
    every: int  # epochs between two looks at kNN
    k: int


FULL = Sizes(R18, (512, 256), 50_000, 40, 5, 200, 5, 200)
SMOKE = Sizes(TINY, (16,), 64, 2, 2, 2, 1, 5)


def device() -> torch.device:
    """The GPU; the CPU for a smoke."""
    return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")


class Ours:
    """Our training under its own settings of torch, whatever the side before it has set."""

    def __init__(self, network: Network, folder: Path, images: int, **hardware: Any) -> None:
        self.training = Training(
            network, device(), folder, images, **{"precision": "bf16", "threads": cores()} | hardware
        )
        if self.training.asked["hardware"].compile:
            pretrain.compile_encoder(self.training.learner, device())

    def steps(self, count: int) -> None:
        set_up(self.training.asked["hardware"])
        self.training.steps(count)


# ---- throughput


def throughput(sizes: Sizes) -> dict[str, Record]:
    """Images a second at every batch size against the limit; at the first one also the variants and lightly."""
    records: dict[str, Record] = {}
    for batch in sizes.batches:
        first = batch == sizes.batches[0]
        records |= at(sizes, sizes.network._replace(batch=batch), variants=first)
    return records


def at(sizes: Sizes, network: Network, variants: bool) -> dict[str, Record]:
    """One batch size."""
    with ExitStack() as stack:

        def ours(**hardware: Any) -> Ours:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            return Ours(network, folder, sizes.images, **hardware)

        found = {"ours": ours()}
        if variants:
            found["free"] = ours(deterministic=False)
            if device().type == "cuda":  # on a CPU the compiler alone takes a minute
                found["compiled"] = ours(compile=True)
        units, limit = sizes.steps * network.batch, Limit(found["ours"].training)
        sides: dict[str, Side] = {name: side(units, partial(one.steps, sizes.steps)) for name, one in found.items()}
        sides["limit"] = side(units, partial(limit.steps, sizes.steps))
        if variants and find_spec("lightly"):
            sides["lightly"] = stack.enter_context(lightly(sizes, network))
        return told(rounds(sides, sizes.rounds), network, found["ours"].training.photographs.kind)


def lightly(sizes: Sizes, network: Network) -> Elsewhere:
    """Lightly's training on the same device, with as many workers as there are cores, 8 at most."""
    kind, workers = device().type, min(8, cores())
    return Elsewhere(_lightly.side, network, sizes.images, sizes.steps, cores(), kind, workers)


def told(found: dict[str, list[float]], network: Network, kind: str) -> dict[str, Record]:
    """The ratios of one batch size, and seconds an epoch."""
    batch, of = network.batch, f"images/s at batch {network.batch}, bf16, {kind} images"
    ratio = partial(compared, unit="images/s", command=COMMAND)
    epochs = ([50_000 / rate for rate in found[name]] for name in ("ours", "limit"))
    what = f"seconds for 50,000 images at batch {batch}, over those of the limit"
    records = {
        f"gpu_limit_{batch}": ratio(found["ours"], found["limit"], what=f"{of}, over the limit", target="≥ 0.90"),
        f"gpu_epoch_{batch}": compared(*epochs, what=what, unit="s", target="", command=COMMAND),
    }
    for claim, name, other, words in (
        ("gpu_free", "free", "ours", "deterministic: false over true"),
        ("gpu_compiled", "compiled", "ours", "compile: true over false"),
        ("gpu_vs_lightly", "ours", "lightly", "over lightly's training"),
    ):
        if name in found and other in found:
            records[f"{claim}_{batch}"] = ratio(found[name], found[other], what=f"{of}, {words}", target="")
    return records


def parts_of_step(sizes: Sizes) -> dict[str, Record]:
    """The breakdown at the first batch size."""
    with tempfile.TemporaryDirectory() as folder:
        network = sizes.network._replace(batch=sizes.batches[0])
        training = Ours(network, Path(folder), sizes.images).training
        set_up(training.asked["hardware"])
        return {f"gpu_{name}": r for name, r in breakdown.of(training, sizes.steps, 3, COMMAND).items()}


# ---- time to accuracy


class Halves(NamedTuple):
    """The gallery and the queries of the kNN: training and test images."""

    train: Photographs
    test: Photographs


def halves(sizes: Sizes) -> Halves:
    """CIFAR-10's own; in a smoke the same images twice."""
    if sizes is SMOKE:
        return Halves(photographs(sizes.images), photographs(sizes.images))
    images = cifar()
    rows = (np.flatnonzero(np.asarray(images.split) == name) for name in ("train", "test"))
    return Halves(*(Photographs(np.asarray(images.pixels)[part], images.labels[part], "CIFAR-10") for part in rows))


class Accuracy:
    """One training with looks at kNN; its state is in `folder`, so that it may take several calls."""

    def __init__(self, sizes: Sizes, folder: Path, minutes: float) -> None:
        self.sizes, self.ends = sizes, time.monotonic() + 60 * minutes
        self.log = folder / "accuracy.json"
        self.seen: list[dict[str, float]] = json.loads(self.log.read_text()) if self.log.exists() else []
        self.halves = halves(sizes)
        ours = Ours(sizes.network._replace(batch=sizes.batches[0]), folder, sizes.images, deterministic=False)
        self.training = ours.training
        self.training.trainer.steps = sizes.epochs * self.training.trainer.per_epoch
        self.training.trainer.plan = self.training.plan._replace(epochs=sizes.epochs, look=self.look)
        set_up(self.training.asked["hardware"])
        steps = self.training.trainer.step  # that the last checkpoint holds
        self.seen = [look for look in self.seen if look["epoch"] * self.training.trainer.per_epoch <= steps]
        pace = self.seen[-1]["seconds"] / self.seen[-1]["epoch"] if self.seen else 0.0
        self.before = pace * steps / self.training.trainer.per_epoch
        self.start = time.monotonic()

    def look(self, epoch: int) -> dict[str, float]:
        """KNN on test every few epochs; afterwards the training is stopped if time is up, its state saved."""
        if (epoch + 1) % self.sizes.every:
            return {}
        seconds = self.before + time.monotonic() - self.start
        began = time.monotonic()
        top1 = self.knn()
        self.seen.append({"epoch": epoch + 1, "seconds": seconds, "knn": top1})
        self.log.write_text(json.dumps(self.seen) + "\n")
        print(f"epoch {epoch + 1}: kNN {top1:.4f} after {seconds:.0f} s of training", flush=True)
        self.start += time.monotonic() - began  # a look is no training
        if time.monotonic() > self.ends:
            self.training.costs.waited(-time.monotonic())  # the next step is saved, and the last
            self.training.host.left = 2
        return {}

    def knn(self) -> float:
        """Top-1 on test by the 200 nearest training images at temperature 0.1, the field's convention on CIFAR-10."""
        model = self.training.model.eval()
        found = [model(torch.from_numpy(part.pixels)) for part in self.halves]
        self.training.learner.train()
        labels: list[Tensor] = [torch.from_numpy(part.labels).to(found[0].device) for part in self.halves]
        predicted = knn.predict(found[1], found[0], labels[0], classes=10, k=self.sizes.k, temperature=0.1)
        return float((predicted == labels[1]).float().mean())

    def run(self) -> list[dict[str, float]]:
        """Go on until time is up or the schedule ends."""
        self.training.steps(10**9)
        return self.seen


def reached(seen: list[dict[str, float]]) -> dict[str, Any]:
    """All looks, and when kNN first was at each level, in a sentence."""
    firsts = [next((look for look in seen if look["knn"] >= level), None) for level in LEVELS]
    parts = [
        f"{100 * level:.0f} % after {first['seconds']:.0f} s ({first['epoch']} epochs)"
        for level, first in zip(LEVELS, firsts, strict=True)
        if first
    ]
    last = f"{100 * seen[-1]['knn']:.1f} % at epoch {seen[-1]['epoch']}" if seen else "no look yet"
    return {"said": f"kNN on CIFAR-10: {', '.join([*parts, last])}", "looks": seen, "command": COMMAND}


# ---- the command


def measure(sizes: Sizes, parts: list[str], folder: Path, minutes: float) -> dict[str, Any]:
    """The records of the parts; `gpu_accuracy` is no ratio but the times."""
    records: dict[str, Any] = {}
    if "throughput" in parts:
        records |= throughput(sizes)
    if "breakdown" in parts:
        records |= parts_of_step(sizes)
    if "accuracy" in parts:
        if photographs(1).kind != "CIFAR-10" and sizes is not SMOKE:
            print("no time to accuracy: data/raw/cifar-10-batches-py is missing")
        else:
            folder.mkdir(parents=True, exist_ok=True)
            if sizes is SMOKE:
                Accuracy(sizes, folder, 0).run()  # up to the first look; the rest is a second call
            records["gpu_accuracy"] = reached(Accuracy(sizes, folder, minutes).run())
    return records


def main() -> None:
    """Read the options, measure, print, keep."""
    parser = argparse.ArgumentParser(prog=COMMAND)
    parser.add_argument("--smoke", action="store_true", help="tiny sizes; nothing is kept")
    parser.add_argument("--parts", default="throughput,breakdown,accuracy")
    parser.add_argument("--minutes", type=float, default=3.0, help="of the training to an accuracy, in this call")
    asked = parser.parse_args()
    if not torch.cuda.is_available() and not asked.smoke:
        parser.exit(1, "torch finds no GPU here; --smoke runs on the CPU\n")
    with tempfile.TemporaryDirectory() as empty:
        folder = Path(empty) if asked.smoke else ROOT / ".scratch" / "benchmarks-gpu"
        records = measure(SMOKE if asked.smoke else FULL, asked.parts.split(","), folder, asked.minutes)
    for name, record in records.items():
        print(f"{name}: {shown(record.value)} {record.what}" if isinstance(record, Record) else record["said"])
    if not asked.smoke:
        name = re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name().lower())
        plain = {key: asdict(r) if isinstance(r, Record) else r for key, r in records.items()}
        keep(plain, f"gpu-{name}.json")


if __name__ == "__main__":
    main()
