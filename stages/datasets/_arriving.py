"""Files → what is kept of them, by several processes: most of the time of a small image is Pillow's own Python.

Each process reads, decodes and hashes a few files at a time. What becomes of a file depends on that file alone, and
everything comes back in the order in which it was asked for.
"""

import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import chain, islice
from multiprocessing import get_context, parent_process
from types import ModuleType
from typing import Any

from stages.datasets._images import DataError
from stages.datasets._reading import Bad, Batch, Kept, Reading, batch

FIRST, MOST = 8, 256  # files that a process is given in one go
WORK, LIMIT = 0.02, 0.1  # seconds that these should take, and after which it gives the others back

File = tuple[str, Any]  # its id and its item: see _images.Files


def arriving(reading: Reading, files: Iterable[File], workers: int) -> Iterator[Batch]:
    """What becomes of the files, in their order, some at a time; `workers` processes read ahead of who asks.

    A batch takes a process about WORK seconds, never much more, so whoever wants to stop need not wait for long.
    """
    coming = iter(files)
    if workers == 1:
        while some := list(islice(coming, 1)):
            yield batch(_within(WORK, reading, chain(some, islice(coming, MOST - 1))))
        return
    pool = _pool(reading, workers)
    ahead: deque[tuple[list[File], Future[Batch]]] = deque()
    size = FIRST

    def submitted(some: list[File]) -> list[tuple[list[File], Future[Batch]]]:
        with _without_main():
            parts = [some[start : start + size] for start in range(0, len(some), size)]
            return [(part, pool.submit(_read, part)) for part in parts]

    try:
        while True:
            while len(ahead) <= 2 * workers and (some := list(islice(coming, size))):
                ahead += submitted(some)
            if not ahead:
                return
            some, future = ahead.popleft()
            arrived = future.result()
            size = int(min(max(arrived.files * WORK / arrived.seconds, 1), MOST))
            if left := some[arrived.files :]:  # they take longer than was thought: what waits behind them, too
                behind, ahead = ahead, deque(submitted(left))
                for some, future in behind:
                    ahead += submitted(some) if future.cancel() else [(some, future)]
            yield arrived
    except BrokenProcessPool:
        raise DataError("a process that reads images was killed, most likely as memory ran out: free some") from None
    finally:
        pool.shutdown(cancel_futures=True)


def _pool(reading: Reading, workers: int) -> ProcessPoolExecutor:
    """Processes that are forked from one that has imported what they need, and has no threads."""
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__, "PIL.PngImagePlugin", "PIL.JpegImagePlugin"])
    return ProcessPoolExecutor(workers, context, _begin, (reading,))


@contextmanager
def _without_main() -> Iterator[None]:
    """A process that is started here does not import the command that this one runs, nor all that this imports."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


_reading: Reading  # of this process


def _begin(reading: Reading) -> None:
    global _reading
    _reading = reading
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the stage decides what to do about it
    threading.Thread(target=_end_with_the_stage, daemon=True).start()


def _end_with_the_stage() -> None:
    """However it ends; otherwise this process would wait for work for ever."""
    stage = parent_process()
    assert stage is not None
    stage.join()
    os._exit(1)


def _read(files: list[File]) -> Batch:
    return batch(_within(LIMIT, _reading, files))


def _within(seconds: float, reading: Reading, files: Iterable[File]) -> Iterator[Kept | Bad]:
    """What becomes of the first of the files, until that time has passed."""
    end = time.perf_counter() + seconds
    for file in files:
        yield reading(*file)
        if time.perf_counter() > end:
            return
