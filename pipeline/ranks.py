"""Several processes that train one encoder together. Rank 0 runs the stage contract, the others only its function.

    contrail, dvc ─ rank 0 ┬ rank 1   the same command, in the same process group, with torchrun's environment;
                           └ rank 2   a rank ends with rank 0, however that ends, and rank 0 with any of them

Under torchrun, that is on several machines, the ranks are there already and torchrun watches them.
"""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline import paths
from pipeline.errors import ParamsError, RankLost, Stopped

GRACE = 10.0  # seconds that a rank has to end by itself once another has
LOOK_EVERY = 0.2  # seconds between two looks at whether all ranks are alive
BEREFT = 75  # exit status of a rank that ends because another one did
SIGNALS = {signal.SIGINT, signal.SIGTERM}  # rank 0 decides what to do about them


def rank() -> int:
    """Which rank this process is."""
    return int(os.environ.get("RANK", "0"))


def local_rank() -> int:
    """Which rank of this machine this process is: the number of its GPU."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def folder(stage: str) -> Path:
    """Where a rank other than 0 writes what only rank 0 keeps."""
    return paths.SCRATCH / stage / f"rank-{rank()}"


@contextmanager
def started(stage: str, count: int) -> Iterator[None]:
    """The other ranks of a training of `count`: they are there inside, and gone afterwards, however it ends.

    RankLost names a rank that died; ParamsError if torchrun has started another number of them.
    """
    if "WORLD_SIZE" in os.environ:
        if int(os.environ["WORLD_SIZE"]) != count:
            raise ParamsError(
                f"params.yaml: hardware.ranks is {count}, but torchrun started {os.environ['WORLD_SIZE']} process(es): "
                "make the two equal"
            )
        yield
    elif count == 1:
        yield
    else:
        with _environment(count) as environment:
            others = _Others(stage, count, environment)
            try:
                yield
                others.end(GRACE)
            except Stopped:
                others.end(GRACE)
                raise
            except RankLost as error:
                raise RankLost(others.lost(GRACE) or str(error)) from error
            finally:
                others.end(0)


@contextmanager
def _environment(count: int) -> Iterator[dict[str, str]]:
    """Torchrun's environment: rank 0's is set inside, and given for the others to put their rank in."""
    from torch.distributed import TCPStore

    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # at a free port; ranks meet there
    shared = {
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # the store is there: rank 0 must not open one
        "GLOO_SOCKET_IFNAME": os.environ.get("GLOO_SOCKET_IFNAME", "lo" if sys.platform == "linux" else "lo0"),
    }
    before = dict(os.environ)
    os.environ.update(shared, RANK="0", LOCAL_RANK="0")
    try:
        yield {**before, **shared, "CONTRAIL_RANK_0": str(os.getpid())}
    finally:
        os.environ.clear()
        os.environ.update(before)


class _Others:
    """Ranks 1 … count − 1 as children of this process, watched by a thread."""

    def __init__(self, stage: str, count: int, environment: dict[str, str]) -> None:
        self.stage, self.count = stage, count
        self._ended = threading.Event()
        command = [sys.executable, *sys.orig_argv[1:]]
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # children inherit it, from their first moment
        try:
            self._children = {
                rank: subprocess.Popen(
                    command,
                    env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,  # rank 0 speaks for all; errors go to stderr
                )
                for rank in range(1, count)
            }
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        threading.Thread(target=self._watch, name="ranks", daemon=True).start()

    def lost(self, patience: float) -> str | None:
        """A sentence about the rank that died, waited for so long."""
        until = time.monotonic() + patience
        while not (sentence := self._death()) and time.monotonic() < until:
            time.sleep(LOOK_EVERY)
        return sentence

    def end(self, patience: float) -> None:
        """Wait so long for the others to end, then end them."""
        self._ended.set()
        until = time.monotonic() + patience
        for child in self._children.values():
            try:
                child.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        for left in (paths.SCRATCH / self.stage).glob("rank-*"):
            shutil.rmtree(left, ignore_errors=True)

    def _death(self) -> str | None:
        for rank, child in self._children.items():
            if (status := child.poll()) and status != BEREFT:
                killed = status < 0  # as subprocess has it
                how = f"was killed by {signal.Signals(-status).name}" if killed else f"ended with exit status {status}"
                return (
                    f"rank {rank} of {self.count} {how}, so all were stopped; "
                    f"`dvc repro {self.stage}` goes on from the last checkpoint"
                )
        return None

    def _watch(self) -> None:
        """Rank 0 hears of a death when it next waits for the dead; this ends it if it never does."""
        while not self._ended.wait(LOOK_EVERY):
            if sentence := self._death():
                if not self._ended.wait(GRACE):
                    print(f"error: {self.stage}: {sentence}", file=sys.stderr, flush=True)
                    self.end(0)
                    os._exit(1)
                return


def die_with_parent(number: signal.Signals) -> None:
    """Ask the kernel for a signal when the parent of this process ends (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, number)  # PR_SET_PDEATHSIG


def obey() -> None:
    """What a rank other than 0 does at its start: signals are rank 0's to decide on, and its end is this one's."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    die_with_parent(signal.SIGKILL)
    if os.environ.get("CONTRAIL_RANK_0", str(os.getppid())) != str(os.getppid()):
        sys.exit("rank 0 is gone")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
