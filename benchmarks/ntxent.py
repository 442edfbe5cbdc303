"""NT-Xent by slabs of the similarity matrix against the plain form, which holds all of it: time and memory.

Forward and backward of 2n embeddings of width 128. Time at 4,096 images; memory, in fresh processes, up to 32,768,
where the plain form would take tens of GiB. The exponent is that of the growth: log₂ of what twice the images take.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise

import torch

from benchmarks._networks import SMALL, arguments
from benchmarks._paired import Record, compared, cores, peak, quartiles, rounds, side
from benchmarks._results import command
from pipeline.hardware import set_up
from stages.methods import simclr

COMMAND = f"python -m {__spec__.name}"
WIDTH = 128


@contextmanager
def form(plain: bool) -> Iterator[None]:
    """The loss in the plain form, or in slabs, however small the batch."""
    before = simclr.WHOLE
    simclr.WHOLE = 2**40 if plain else 0
    try:
        yield
    finally:
        simclr.WHOLE = before


def loss_and_gradient(images: int, plain: bool) -> Callable[[], object]:
    """The work: one forward and backward."""
    set_up(arguments(SMALL, threads=cores(), device="cpu")["hardware"])
    a, b = torch.randn(2, images, WIDTH).unbind()
    a.requires_grad_()
    b.requires_grad_()

    def work() -> None:
        with form(plain):
            simclr.nt_xent(a, b, 0.5, "paper").backward()
        a.grad = b.grad = None

    return work


def time_at(images: int, count: int) -> Record:
    """Seconds by slabs over seconds of the plain form."""
    units = 1.0
    sides = {name: side(units, loss_and_gradient(images, name == "plain")) for name in ("plain", "slabs")}
    found = rounds(sides, count)
    took = {name: [1 / rate for rate in rates] for name, rates in found.items()}
    return compared(
        took["slabs"],
        took["plain"],
        what=f"seconds of forward and backward at {images:,} images by slabs over the plain form, {cores()} thread(s)",
        unit="s",
        target="≤ 1.3",
        command=COMMAND,
    )


def memory(smallest: int, doublings: int, plain: bool) -> Record:
    """How memory grows with the batch."""
    sizes = [smallest * 2**k for k in range(doublings + 1)]
    found = [peak(loss_and_gradient, size, plain) for size in sizes]
    exponents = [math.log2(after / before) for before, after in pairwise(found)]
    low, middle, high = quartiles(exponents)
    way = "the plain form" if plain else "slabs"
    return Record(
        value=middle,
        spread=(low, high),
        pairs=doublings,
        what=f"exponent of the growth of memory from {sizes[0]:,} to {sizes[-1]:,} images by {way}; ours, other: MiB "
        f"at the most and the fewest images",
        ours=found[-1],
        other=found[0],
        unit="MiB",
        target="" if plain else "≤ 1.1",
        command=COMMAND,
    )


def measure(smoke: bool) -> dict[str, Record]:
    """Time at 4k images; memory of both forms."""
    if smoke:
        return {"ntxent_time_4k": time_at(64, 2), "ntxent_memory_slope": memory(512, 1, plain=False)}
    return {
        "ntxent_time_4k": time_at(4096, 5),
        "ntxent_memory_slope": memory(4096, 3, plain=False),
        "ntxent_memory_slope_plain": memory(1024, 2, plain=True),
    }


if __name__ == "__main__":
    command(measure)
