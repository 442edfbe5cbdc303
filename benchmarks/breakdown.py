"""Where a step's time goes, from torch's profiler: views, forward, backward, optimizer; the rest is the loop.

Each part is a range of the profiler around the call that the loop makes; on a GPU a range ends when the device is done,
so that the parts add up and none hides behind another.
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks._networks import R18, SMALL, TINY, Network, Training
from benchmarks._paired import Record, cores, quartiles, synchronize
from benchmarks._results import command
from pipeline.hardware import set_up

COMMAND = f"python -m {__spec__.name}"
PARTS = ("views", "forward", "backward", "optimizer")


def ranged(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as a range of the profiler."""

    @wraps(function)
    def inside(*positional: Any, **named: Any) -> Any:
        with record_function(f"part:{name}"):
            result = function(*positional, **named)
            synchronize()
            return result

    return inside


@contextmanager
def parts(training: Training) -> Iterator[None]:
    """The calls of the loop as ranges, inside."""
    trainer, backward = training.trainer, torch.Tensor.backward
    plan, forward, step = trainer.plan, training.learner.forward, trainer.optimizer.step
    trainer.plan = plan._replace(make_views=ranged("views", plan.make_views))
    training.learner.forward = ranged("forward", forward)  # type: ignore[method-assign]
    trainer.optimizer.step = ranged("optimizer", step)  # type: ignore[method-assign]
    torch.Tensor.backward = ranged("backward", backward)  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.Tensor.backward = backward  # type: ignore[method-assign]
        trainer.plan = plan
        training.learner.forward = forward  # type: ignore[method-assign]
        trainer.optimizer.step = step  # type: ignore[method-assign]


def shares(training: Training, steps: int) -> dict[str, float]:
    """The share of each part in the time of `steps` steps, which is looked at as one range."""
    with parts(training), profile(activities=[ProfilerActivity.CPU]) as profiler, record_function("part:all"):
        training.steps(steps)
    took = {event.key.removeprefix("part:"): event.cpu_time_total for event in profiler.key_averages()}
    found = {name: took[name] / took["all"] for name in PARTS}
    return found | {"rest": 1 - sum(found.values())}


def of(training: Training, steps: int, count: int, command_: str) -> dict[str, Record]:
    """A record for each part, over `count` stretches of `steps` steps."""
    training.steps(2)
    found = [shares(training, steps) for _ in range(count)]
    records = {}
    for part in found[0]:
        low, middle, high = quartiles([100 * one[part] for one in found])
        records[f"step_{training.network.name}_{part}"] = Record(
            value=middle,
            spread=(low, high),
            pairs=count,
            what=f"% of a step of {training.network.name}: {part}",
            ours=middle,
            other=100.0,
            unit="%",
            target="",
            command=command_,
        )
    return records


def measured(network: Network, steps: int, count: int, images: int) -> dict[str, Record]:
    """One network on all cores."""
    with tempfile.TemporaryDirectory() as folder:
        training = Training(network, torch.device("cpu"), Path(folder), images, threads=cores())
        set_up(training.asked["hardware"])
        return of(training, steps, count, COMMAND)


def measure(smoke: bool) -> dict[str, Record]:
    """Both networks."""
    if smoke:
        return measured(TINY, 2, 2, 256)
    return measured(SMALL, 10, 3, 50_000) | measured(R18, 2, 3, 50_000)


if __name__ == "__main__":
    command(measure)
