"""The contract that every stage runs under.

    read the stage's own parameters → set threads → look at the inputs → reopen the scratch folder of this identity
    → open the tracking run → work → look at the inputs again → move the outputs into place

A stage module is a command: `python -m stages.pretrain simclr` calls `run(pretrain)`, which calls
`pretrain(stage, **parameters)` with exactly the parameters that dvc.yaml declares for `pretrain@simclr`.
"""

import errno
import json
import os
import platform
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from pipeline import graph, lock, params, paths, ranks, tracking
from pipeline.errors import InputsChanged, MissingInput, RankLost, Refusal, Stopped
from pipeline.fingerprint import Fingerprint, edited_since_start
from pipeline.hardware import hardware_class, places, set_up
from pipeline.params import Hardware
from pipeline.private import masked
from pipeline.scratch import Scratch

CHECKPOINT_SCHEMA = 1  # raised when a checkpoint of an older version cannot be resumed
PACKAGES = ("torch", "torchvision", "numpy", "scikit-learn", "pyarrow", "safetensors", "pillow")
FIRST_SAY = 2.0  # seconds that rank 0 has to say what is wrong with all ranks, and to end them
LOOK_EVERY = 5.0  # seconds between two looks at the inputs while a stage works, or more:
LOOK_COST = 50  # times what the look took, so that looking takes no more than 2 % of the time
ALONE = "one process does the work of this stage: start it without torchrun, or set ranks to 1"
UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST}


class Stage:
    """What a running stage may ask of the frame."""

    def __init__(
        self, node: graph.Node, hardware: Hardware, study: str, scratch: Scratch, run: tracking.Run, inputs: Fingerprint
    ) -> None:
        self.name = node.name
        self.item = node.name.partition("@")[2]
        self.hardware = hardware
        self.study = study
        self.scratch = scratch.state
        self.ledger = paths.ingest(self.item)  # what later runs may take over, whatever changed
        self._outs = {str(out): scratch.outs / out for out in node.outs}
        self._run = run
        self._inputs = inputs
        self._signal: int | None = None
        self._patient = False  # a signal is noted, and acted on at the next `check`
        self._next_look = time.monotonic() + LOOK_EVERY
        self._warned = False
        self._joining = False  # other ranks are reading the inputs: by the next `check` they have

    def out(self, path: Path | str) -> Path:
        """Where to write the declared output `path`; it is put into place when the stage is done."""
        staged = self._outs[str(path)]
        staged.parent.mkdir(parents=True, exist_ok=True)
        return staged

    def log(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Send metrics to the tracker; never fails and never waits."""
        self._run.log(metrics, step)

    @contextmanager
    def device(self, *, shared: bool = False) -> Iterator[None]:
        """Hold a place on the device; meanwhile a signal waits for `check`, so that the training can save its state.

        shared: `hardware.ranks` processes work together here, each with a place of its own; InputsChanged if an input
        is no longer that of the start, as the others read it now. Not shared: Refusal if others are there.
        """
        if not shared and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise Refusal(ALONE)
        count = self.hardware.ranks if shared else 1
        local = int(os.environ.get("LOCAL_WORLD_SIZE", count))
        with places(self.hardware, local), self.patience(), ranks.started(self.name, count):
            if count > 1:
                self._require_inputs()
                self._joining = True
            yield

    @contextmanager
    def patience(self) -> Iterator[None]:
        """A signal is acted on at the next `check` or at the end of this block, not at once."""
        self._patient = True
        try:
            yield
        finally:
            self._patient = False
        self.check()

    @property
    def stopping(self) -> bool:
        """True as soon as a signal asked the stage to stop: save state, then call `check`."""
        return self._signal is not None

    def check(self) -> None:
        """Raise Stopped if a signal asked for it; warn once if an input was edited. Call it after saving state.

        The first one after other ranks were started raises InputsChanged: they may have read what was edited.
        """
        if self._signal is not None:
            raise Stopped(self._signal)
        if self._joining:
            self._joining = False
            self._require_inputs()
        if self._warned or (begun := time.monotonic()) < self._next_look:
            return
        changes = self._inputs.changes()
        ended = time.monotonic()
        self._next_look = ended + max(LOOK_EVERY, LOOK_COST * (ended - begun))
        if changes:
            self._warned = True
            print(f"warning: edited while {self.name} runs, restore it: {'; '.join(changes)}", flush=True)

    def _require_inputs(self) -> None:
        """InputsChanged unless the inputs are those of the start."""
        if changes := self._inputs.changes():
            raise InputsChanged(
                f"inputs changed while ranks were started, which may have read either version: {'; '.join(changes)}. "
                f"`dvc repro {self.name}` starts them again"
            )

    def listen(self) -> None:
        """SIGTERM and SIGINT stop the stage: where it is patient at its next `check`; a second SIGINT at once."""
        signal.signal(signal.SIGTERM, self._note)
        signal.signal(signal.SIGINT, self._note)

    def _note(self, number: int, frame: Any) -> None:
        asked_before, self._signal = self._signal, number
        if asked_before and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not self._patient:
            raise Stopped(number)


class Follower(Stage):
    """The stage as a rank other than 0 sees it: it works for rank 0, keeps nothing and decides nothing."""

    def __init__(self, name: str, hardware: Hardware, study: str) -> None:
        self.name, self.hardware, self.study = name, hardware, study
        self.item = name.partition("@")[2]
        self._folder = ranks.folder(name)
        shutil.rmtree(self._folder, ignore_errors=True)
        self.scratch = self._folder / "state"

    def out(self, path: Path | str) -> Path:
        """Where to write what nobody reads."""
        staged = self._folder / path
        staged.parent.mkdir(parents=True, exist_ok=True)
        return staged

    def log(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Nothing: rank 0 logs."""

    @contextmanager
    def device(self, *, shared: bool = False) -> Iterator[None]:
        """Rank 0 holds the device; Refusal where it works alone."""
        if not shared:
            raise Refusal(ALONE)
        yield

    @property
    def stopping(self) -> bool:
        """Rank 0 hears the signals."""
        return False

    def check(self) -> None:
        """Rank 0 looks at the inputs."""


def run(function: Callable[..., None]) -> None:
    """Run a stage's function as the command it is; a Refusal ends with its sentence and exit code 1."""
    name = "@".join([function.__name__, *sys.argv[1:2]])
    if ranks.rank():
        follow(function, name)
        return
    ranks.die_with_parent(signal.SIGTERM)  # a stage whose dvc is gone would hold the device for nobody
    try:
        os.chdir(paths.root())
        execute(function, name)
    except Refusal as error:
        sys.exit(f"error: {name}: {error}{_way_back(name)}")
    except Stopped as stopped:
        print(f"{name} stopped; `dvc repro {name}` goes on from here", flush=True)
        sys.exit(128 + int(str(stopped)))
    except KeyboardInterrupt:
        print(f"{name} stopped at once; `dvc repro {name}` goes on from the last state that it kept", flush=True)
        sys.exit(128 + signal.SIGINT)


def follow(function: Callable[..., None], name: str) -> None:
    """One call of `function`, for rank 0."""
    ranks.obey()
    try:
        os.chdir(paths.root())
        values = params.read()
        hardware = Hardware(**values["hardware"])
        set_up(hardware)
        stage = Follower(name, hardware, values["study"])
        function(stage, **own_arguments(function, _node(name)))
    except Stopped:
        pass
    except RankLost:
        sys.exit(ranks.BEREFT)
    except Refusal as error:
        time.sleep(FIRST_SAY)
        sys.exit(f"error: {name}, rank {ranks.rank()}: {error}")
    finally:
        shutil.rmtree(ranks.folder(name), ignore_errors=True)


def execute(function: Callable[..., None], name: str) -> None:
    """The contract, around one call of `function`."""
    values = params.read()
    params.check(values)
    node = _node(name)
    hardware = Hardware(**values["hardware"])
    set_up(hardware)
    inputs = Fingerprint.take(values, list(node.params), node.deps)
    _require(node.deps)
    if edited := edited_since_start(node.deps):
        raise InputsChanged(
            f"edited while the stage started, which may have read either version: {'; '.join(edited)}. "
            f"`dvc repro {name}` starts it again"
        )
    key, hashes = graph.identity(name)
    receipt = _receipt(node, hardware, hashes)
    scratch = Scratch(name, {"key": key, "schema": CHECKPOINT_SCHEMA, **receipt})
    if scratch.fresh_because:
        print(f"starting afresh: since the unfinished run, these changed: {scratch.fresh_because}", flush=True)
    told = masked(node.params) if values["private"] else node.params
    tracker = tracking.start(stage=name, key=key, study=values["study"], params=told)
    stage = Stage(node, hardware, values["study"], scratch, tracker, inputs)
    status = "FAILED"
    try:
        stage.listen()
        if not scratch.finished:
            _work(function, stage, scratch, node, receipt)
        _hand_over(stage, scratch, node, inputs)
        status = "FINISHED"
    except (Stopped, KeyboardInterrupt):
        status = "KILLED"
        raise
    finally:
        tracker.end(status)


def _work(
    function: Callable[..., None], stage: Stage, scratch: Scratch, node: graph.Node, receipt: dict[str, Any]
) -> None:
    try:
        function(stage, **own_arguments(function, node))
        out = paths.receipt(node.name)
        if str(out) in stage._outs:
            stage.out(out).write_text(json.dumps({"stage": node.name, **receipt}, indent=1, sort_keys=True) + "\n")
        scratch.finish()
    except OSError as error:
        raise _unwritable(error, node) from error


def _hand_over(stage: Stage, scratch: Scratch, node: graph.Node, inputs: Fingerprint) -> None:
    if changes := inputs.changes():
        raise InputsChanged(
            f"inputs changed during the run: {'; '.join(changes)}. The finished outputs are kept: restore what changed "
            f"and `dvc repro {node.name}` completes in seconds; or run it with the new inputs from the start"
        )
    try:
        with stage.patience():
            scratch.place([str(out) for out in node.outs])
    except OSError as error:
        raise _unwritable(error, node) from error


def own_arguments(function: Callable, node: graph.Node) -> dict[str, Any]:
    """The keyword arguments of a stage's function: exactly the parameters that dvc.yaml declares for the stage.

    `runs.simclr` gives its keys, any other entry (`hardware`, `evaluations.simclr.probes`) gives its last word.
    """
    values: dict[str, Any] = {}
    for key, value in node.params.items():
        steps = key.split(".")
        if len(steps) == 2 and steps[0] in params.SECTIONS:
            values |= value
        else:
            values[steps[-1]] = value
    accepted = params.keywords(function)
    values = {key: value for key, value in values.items() if key in accepted or key not in params.SHARED}
    return params.arguments(function, values, node.name)


def _node(name: str) -> graph.Node:
    nodes = {node.name: node for node in graph.read(Path.cwd())}
    if name not in nodes:
        command = name.partition("@")[0]
        known = ", ".join(n for n in nodes if n.startswith(command))
        raise Refusal(f"params.yaml has no such item. The stages are {known}")
    return nodes[name]


def _require(inputs: list[str]) -> None:
    for path in inputs:
        if not Path(path).exists():
            raise MissingInput(f"{path} is missing: run `{graph.producer(path)}` first")


def _receipt(node: graph.Node, hardware: Hardware, hashes: dict[str, str]) -> dict[str, Any]:
    """What made the outputs, without anything that changes from one run to the next."""
    code = {path: md5 for path, md5 in hashes.items() if path.endswith(".py") or path.startswith("stages")}
    return {
        "params": node.params,
        "code": code,
        "data": {path: md5 for path, md5 in hashes.items() if path not in code},
        "versions": {"python": platform.python_version()}
        | {package: metadata.version(package) for package in PACKAGES},
        "hardware": hardware_class(hardware),
    }


def _unwritable(error: OSError, node: graph.Node) -> Exception:
    """A Refusal for an output that cannot be written; any other OSError as it is."""
    if error.errno not in UNWRITABLE:
        return error
    return Refusal(
        f"could not write {error.filename or 'the outputs'}: {error.strerror}. What is finished is kept in "
        f"{paths.SCRATCH / node.name}; `dvc repro {node.name}` goes on from there"
    )


def _way_back(name: str) -> str:
    """How the outputs of the last run come back, if DVC has removed them for this one."""
    locked = lock.read_if_whole(Path()).get(name, {}).get("outs", [])
    if all(Path(out["path"]).exists() for out in locked):
        return ""
    outs = _node(name).outs
    in_git = [out["path"] for out in locked if outs.get(out["path"])]
    cached = [out["path"] for out in locked if not outs.get(out["path"])]
    commands = [f"dvc checkout {shlex.join(cached)}"] if cached else []
    commands += [f"git checkout -- {shlex.join(in_git)}"] if in_git else []
    return f". The outputs of the last run come back with `{' && '.join(commands)}`"
