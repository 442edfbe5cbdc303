"""Training end to end against the model-only limit and against lightly; what checkpoints cost.

    ours      stages/training/loop.py with the views, the optimizer, the checkpoints of pretrain@simclr
    limit     the same network, batch and optimizer on random tensors that are there already: no views, no loop
    lightly   the same network, batch and policy of views in lightly's own parts, with 2 worker processes

Images a second, an image being two views. Ours and the limit share a process, lightly has its own.
"""

import tempfile
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks import _lightly
from benchmarks._networks import R18, SMALL, TINY, Limit, Network, Training
from benchmarks._paired import Elsewhere, Record, Side, compared, cores, quartiles, rounds, side
from benchmarks._results import command
from pipeline.hardware import set_up

COMMAND = f"python -m {__spec__.name}"
WORDS = {"small": "ResNet of width 16, 32×32, batch 256", "r18": "ResNet-18, CIFAR stem, batch 64", "tiny": "tiny"}


class Case(NamedTuple):
    """A network on so many threads; rounds of so many steps."""

    network: Network
    threads: int
    steps: int
    rounds: int
    lightly: bool
    limit: str  # targets
    peer: str


def cases() -> list[Case]:
    """All cores, beside lightly; one core, against the limit alone."""
    return [
        Case(SMALL, cores(), 4, 9, True, "≥ 0.92", "≥ 1.2"),
        Case(R18, cores(), 1, 9, True, "≥ 0.97", ""),
        Case(SMALL, 1, 2, 9, False, "≥ 0.92", ""),
        Case(R18, 1, 1, 7, False, "≥ 0.97", ""),
    ]


def measured(case: Case, images: int) -> tuple[dict[str, list[float]], Training]:
    """Images a second of every side, and our training."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        training = Training(case.network, torch.device("cpu"), folder, images, threads=case.threads)
        set_up(training.asked["hardware"])
        limit, units = Limit(training), case.steps * case.network.batch
        sides: dict[str, Side] = {
            "ours": side(units, lambda: training.steps(case.steps)),
            "limit": side(units, lambda: limit.steps(case.steps)),
        }
        if case.lightly:
            peer = Elsewhere(_lightly.side, case.network, images, case.steps, case.threads, "cpu", _lightly.WORKERS)
            sides["lightly"] = stack.enter_context(peer)
        return rounds(sides, case.rounds), training


def records(case: Case, images: int) -> dict[str, Record]:
    """The claims that one case shows."""
    found, training = measured(case, images)
    name, threads = case.network.name, f"{case.threads} thread{'s' * (case.threads > 1)}"
    suffix = "" if case.lightly else f"_{case.threads}_thread"
    of = f"images/s of {WORDS[name]}, {threads}, on {training.photographs.kind} images"
    common = {"unit": "images/s", "command": COMMAND}
    what = f"{of} over the same network on resident random tensors"
    shown = {f"limit_{name}{suffix}": compared(found["ours"], found["limit"], what=what, target=case.limit, **common)}
    if case.lightly:
        what = f"{of} over lightly's training with {_lightly.WORKERS} workers"
        shown[f"vs_lightly_{name}"] = compared(found["ours"], found["lightly"], what=what, target=case.peer, **common)
        shown[f"checkpoint_share_{name}"] = share(training)
    return shown


def share(training: Training) -> Record:
    """What a checkpoint costs, of the time from one to the next."""
    costs = training.costs
    low, middle, high = quartiles([cost / (cost + costs.interval(cost)) for cost in costs.saved])
    return Record(
        value=middle,
        spread=(low, high),
        pairs=len(costs.saved),
        what=f"seconds that a checkpoint of {WORDS[training.network.name]} takes over seconds from one to the next",
        ours=quartiles(costs.saved)[1],
        other=quartiles([cost + costs.interval(cost) for cost in costs.saved])[1],
        unit="s",
        target="≤ 0.01",
        command=COMMAND,
    )


def measure(smoke: bool) -> dict[str, Record]:
    """Both networks on all cores and on one."""
    if smoke:
        return records(Case(TINY, 1, 2, 2, find_spec("lightly") is not None, "", ""), 256)
    return {name: record for case in cases() for name, record in records(case, 50_000).items()}


if __name__ == "__main__":
    command(measure)
