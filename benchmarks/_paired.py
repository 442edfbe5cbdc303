"""Paired measurements: the sides take turns in one run, and a ratio compares only what ran in the same round.

    round 0, not counted    A B C
    round 1                 A B C    →  rate of A / rate of B,  rate of A / rate of C
    round 2                 C B A    →  …                          median and quartiles of each ratio

A side is a function that works for a moment and returns its rate in units a second. Whatever slows the machine for a
while slows all sides of a round, and a slow drift cancels as the order turns around.
"""

import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipeline import hardware

Side = Callable[[], float]


@dataclass(frozen=True, kw_only=True)
class Record:
    """One claim and what was measured of it."""

    value: float  # the median over the pairs
    spread: tuple[float, float]  # its quartiles
    pairs: int
    what: str  # "views/s of … / views/s of …"
    ours: float  # the median of our figure, and of the other side's
    other: float
    unit: str  # of these two
    target: str  # "≥ 6", or "" where nothing is promised
    command: str  # what repeats it

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None where there is none."""
        if not self.target:
            return None
        relation, limit = self.target.split()
        return self.value >= float(limit) if relation == "≥" else self.value <= float(limit)


def cores() -> int:
    """CPU cores that this process may use; OMP_NUM_THREADS where it is set."""
    return int(os.environ.get("OMP_NUM_THREADS", hardware.cores()))


def synchronize() -> None:
    """Wait until a GPU has done what it was told."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds(work: Callable[[], object]) -> float:
    """How long `work` takes, until the device is done."""
    synchronize()
    start = time.perf_counter()
    work()
    synchronize()
    return time.perf_counter() - start


def side(units: float, work: Callable[[], object]) -> Side:
    """The side that does `units` of work in one call."""
    return lambda: units / seconds(work)


def rounds(sides: Mapping[str, Side], count: int) -> dict[str, list[float]]:
    """The rates of each side in `count` rounds, after one that is not counted."""
    names = list(sides)
    found: dict[str, list[float]] = {name: [] for name in names}
    for number in range(count + 1):
        for name in names if number % 2 else names[::-1]:
            rate = sides[name]()
            if number:
                found[name].append(rate)
    return found


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def compared(
    ours: Sequence[float], other: Sequence[float], *, what: str, unit: str, target: str, command: str
) -> Record:
    """The record of our rates over the other's, round by round."""
    low, middle, high = quartiles([a / b for a, b in zip(ours, other, strict=True)])
    return Record(
        value=middle,
        spread=(low, high),
        pairs=len(ours),
        what=what,
        ours=statistics.median(ours),
        other=statistics.median(other),
        unit=unit,
        target=target,
        command=command,
    )


class Elsewhere:
    """A side in a fresh process of its own, which waits while another side has its turn.

    make: a function of a module, called there with `arguments`; it returns the side.
    """

    def __init__(self, make: Callable[..., Side], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, make, arguments))
        self._process.start()
        theirs.close()

    def __call__(self) -> float:
        self._pipe.send(None)
        return self._pipe.recv()

    def close(self) -> None:
        self._pipe.close()
        self._process.join()

    def __enter__(self) -> "Elsewhere":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _serve(pipe: Any, make: Callable[..., Side], arguments: tuple[Any, ...]) -> None:
    measure = make(*arguments)
    while True:
        try:
            pipe.recv()
        except EOFError:
            return
        pipe.send(measure())


def peak(make: Callable[..., Callable[[], object]], *arguments: Any) -> float:
    """MiB of memory that the work which `make` gives takes at its peak, in a fresh process, beyond what was there."""
    with Elsewhere(_growth, make, arguments) as process:
        return process()


def _growth(make: Callable[..., Callable[[], object]], arguments: tuple[Any, ...]) -> Side:
    work = make(*arguments)

    def measure() -> float:
        Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
        before = _resident("VmRSS")
        work()
        return (_resident("VmHWM") - before) / 1024

    return measure


def _resident(name: str) -> int:
    """KiB, from Linux."""
    lines = Path("/proc/self/status").read_text().splitlines()
    [line] = [line for line in lines if line.startswith(f"{name}:")]
    return int(line.split()[1])


@contextmanager
def plain() -> Iterator[None]:
    """Torch as it comes, without the deterministic mode that our stages work in: how a peer is measured."""
    mode = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode("default")
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(mode)


def plainly(measure: Side) -> Side:
    """A side that is measured in plain torch."""

    def inside() -> float:
        with plain():
            return measure()

    return inside
