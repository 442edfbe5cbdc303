"""DVC as a child process: how the frame starts stages, watches them and stops them.

DVC's own API is not safe in threads, and a stage must not share a process with an orchestrator, so every stage is
`dvc --wait-for-lock repro --single-item <stage>`. The child stays in this process group: whatever interrupts or cancels
the group reaches the training too.
"""

import os
import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.graph import Node

QUIET = {  # nothing here reports its use to anybody
    "DO_NOT_TRACK": "1",
    "DVC_NO_ANALYTICS": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
}
BUSY = re.compile(r"is busy, it is being blocked by|Unable to acquire lock")
CHATTER = re.compile(
    r"To track the changes with git|\s+git add |To enable auto staging|\s+dvc config core.autostage|Use `dvc push`"
)
BAR_EVERY = 10.0  # seconds between two updates of a progress bar that are passed on
GRACE = 30.0  # seconds that a stage has to save its state before it is killed


class Outcome(StrEnum):
    """What became of a stage."""

    UP_TO_DATE = "UpToDate"
    RESTORED = "RestoredFromRunCache"
    EXECUTED = "Executed"
    FAILED = "Failed"
    SKIPPED = "Skipped"  # something upstream failed
    STOPPED = "Stopped"

    @property
    def good(self) -> bool:
        """The stage is up to date now."""
        return self in (Outcome.UP_TO_DATE, Outcome.RESTORED, Outcome.EXECUTED)


@dataclass(frozen=True)
class Result:
    """The outcome of one stage; `message` is the sentence that a failed stage ended with."""

    stage: str
    outcome: Outcome
    seconds: float
    message: str = ""


def schedule(
    nodes: list["Node"],
    places: int,
    start: Callable[["Node", str | None], Any],
    first_done: Callable[[list[Any]], tuple[Any, Result]],
) -> list[Result]:
    """Start each stage as soon as all that it depends on is done and one of `places` is free.

    start: begins a stage, or, given the name of a failed stage that it needs, skips it; returns a future.
    first_done: waits for one of the futures; returns it with its result.
    Returns the results in the order of `nodes`, which is a running order.
    """
    results: dict[str, Result] = {}
    causes: dict[str, str] = {}  # stage that did not succeed → the failed stage behind it
    running: dict[Any, str] = {}
    waiting = list(nodes)
    while waiting or running:
        ready = [node for node in waiting if all(name in results for name in node.upstream)]
        for node in ready[: places - len(running)]:
            waiting.remove(node)
            cause = next((causes[name] for name in node.upstream if name in causes), None)
            running[start(node, cause)] = node.name
            if cause:
                causes[node.name] = cause
        future, result = first_done(list(running))
        name = running.pop(future)
        results[name] = result
        if not result.outcome.good:
            causes.setdefault(name, name)
    return [results[node.name] for node in nodes]


def skipped(stage: str, cause: str) -> Result:
    """The result of a stage that waits for a failed one."""
    return Result(stage, Outcome.SKIPPED, 0.0, f"because {cause} failed")


def dvc(*arguments: str) -> list[str]:
    """The command line of the DVC that is installed beside this Python."""
    return [sys.executable, "-m", "dvc", *arguments]


def environment(**extra: str) -> dict[str, str]:
    """The environment of a child: this Python first on the path, so that `python` in dvc.yaml is this one."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return {**QUIET, **os.environ, "PATH": path, "PYTHONUNBUFFERED": "1", **extra}


def settle(settings: Mapping[str, str]) -> None:
    """Set, beside QUIET, what a library reads from the environment; a person's own setting stands."""
    for name, value in {**QUIET, **settings}.items():
        os.environ.setdefault(name, value)


def alive(pid: int) -> bool:
    """Whether there is a process of this number, be it somebody else's."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


class Runner:
    """Runs single stages of the project at `root`, from any number of threads, until it is stopped."""

    def __init__(self, root: Path, environment: dict[str, str]) -> None:
        self._root = root
        self._environment = environment
        self._children: set[subprocess.Popen[str]] = set()
        self._starting = threading.Lock()
        self._stopped = threading.Event()

    def run(self, stage: str, *, force: bool, say: Callable[[str], None], timeout: float | None = None) -> Result:
        """Bring one stage up to date, given that everything upstream is; `say` gets each line as it is printed.

        A stage whose files another DVC process holds is tried again until they are free. After `timeout` seconds of
        one attempt it is ended as `stop` does, and has failed.
        """
        began = time.monotonic()
        told = False
        while not self._stopped.is_set():
            result, blocked = self._attempt(stage, force, say, timeout)
            if not blocked:
                return replace(result, seconds=time.monotonic() - began)
            if not told:
                say(f"waiting for another DVC process: {blocked}")
            told = True
            self._stopped.wait(random.uniform(0.5, 3.0))
        return Result(stage, Outcome.STOPPED, time.monotonic() - began)

    def stop(self) -> None:
        """End every child and all that it started, after GRACE seconds for good; start no new ones."""
        self._stopped.set()
        with self._starting:
            running = [child for child in self._children if child.poll() is None]
        _end(running)

    def _attempt(
        self, stage: str, force: bool, say: Callable[[str], None], timeout: float | None
    ) -> tuple[Result, str]:
        """One child; its result, and the line that says so if DVC could not start because of another process."""
        with self._starting:
            if self._stopped.is_set():
                return Result(stage, Outcome.STOPPED, 0.0), ""
            child = self._start(stage, force)
            self._children.add(child)
        late = threading.Timer(timeout or threading.TIMEOUT_MAX, _end, [[child]])
        late.daemon = True
        late.start()
        began = time.monotonic()
        assert child.stdout is not None
        outcome, blocked, said, last = Outcome.UP_TO_DATE, "", "", ""
        for line in _lines(child.stdout):
            if line == f"Running stage '{stage}':":
                outcome = Outcome.EXECUTED
            elif line == f"Stage '{stage}' is cached - skipping run, checking out outputs":
                outcome = Outcome.RESTORED
            elif outcome is Outcome.UP_TO_DATE and BUSY.search(line):
                blocked = line
            elif line.startswith("error: "):  # a stage's own sentence, which more lines may follow
                said = line
            elif not (line.startswith("> ") or (last and line.startswith("ERROR: failed to reproduce"))):
                last = line
            if not blocked:
                say(line)
        failed = child.wait() != 0
        late.cancel()
        self._children.discard(child)
        if failed and timeout and time.monotonic() - began > timeout:
            said = f"ended after its timeout of {timeout:g} s"
        if failed:
            outcome = Outcome.STOPPED if self._stopped.is_set() else Outcome.FAILED
        return Result(stage, outcome, 0.0, (said or last) if failed else ""), blocked if failed else ""

    def _start(self, stage: str, force: bool) -> subprocess.Popen[str]:
        command = dvc("--wait-for-lock", "repro", "--single-item", *(["--force"] if force else []), stage)
        return subprocess.Popen(
            command,
            cwd=self._root,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
        )


def _end(children: list["subprocess.Popen[str]"]) -> None:
    """End children and all that they started; what is left after GRACE seconds is killed."""
    import psutil  # type: ignore[import-untyped]

    stages = [process for child in children for process in _descendants(child.pid)]
    idle = [child for child in children if not _descendants(child.pid)]
    for process in (*stages, *idle):  # a dvc that has a stage outlives it, to release its locks
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    _, alive = psutil.wait_procs(stages, timeout=GRACE)
    for process in alive:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    for child in children:
        with suppress(subprocess.TimeoutExpired):
            child.wait(GRACE)
        child.kill()


def _descendants(pid: int) -> list[Any]:
    import psutil

    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _lines(stream: IO[str]) -> Iterator[str]:
    """The lines of a child's output, without DVC's advice; of a progress bar one every BAR_EVERY seconds."""
    shown = -BAR_EVERY
    stream.reconfigure(newline="")  # type: ignore[attr-defined]  # a pipe that is read as text is a TextIOWrapper
    for line in stream:
        if line.endswith("\r"):  # as a progress bar does
            if time.monotonic() - shown < BAR_EVERY:
                continue
            shown = time.monotonic()
        text = line.rstrip()
        if text and not CHATTER.match(text):
            yield text
