"""What happened, for MLflow. A stage only writes it down; a courier, a process of its own, carries it to the store.

    stage ── a JSON line each ──▶ .scratch/tracking/<stage>-<key>-<time>.jsonl ── courier, every 2 s ──▶ MLflow

So a training neither waits for MLflow nor fails with it, and none of MLflow's imports, threads or locks enter the
process whose bits count. A spool that could not be delivered waits for the next stage or for `contrail sync`. Its
writer holds a lock on it, which the kernel drops with the writer: that is how a courier knows that a run was killed.
"""

import fcntl
import importlib.util
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pipeline import paths, repro
from pipeline.errors import Refusal

if TYPE_CHECKING:
    from pipeline.graph import LockEntry

SPOOLS = paths.SCRATCH / "tracking"
PATIENCE = 15.0  # seconds that the end of a stage waits for its courier
PATIENCE_IN_TROUBLE = 5.0  # the same, once the store has failed
TRUST = 900.0  # seconds after a delivery in which the end of a stage does not wait for its own
LONGEST_PROBLEM = 300  # characters
SETTINGS = {  # read when mlflow is imported
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
}


class TrackingError(Refusal):
    """The tracking store cannot be used."""


def trusted() -> bool:
    """Whether the store took everything of late: a courier that starts now will be heard."""
    mark = paths.SCRATCH / "tracked"
    try:
        return mark.read_text() == store() and time.time() - mark.stat().st_mtime < TRUST
    except OSError:
        return False


class Run:
    """One execution of a stage as the stage writes it down; nothing here fails because of MLflow or the disk."""

    def __init__(self, stage: str, key: str | None) -> None:
        self.spool = SPOOLS.absolute() / f"{spool_name(stage, key)}-{time.time_ns()}.jsonl"
        self._file: FileIO | None = None
        self._courier: subprocess.Popen | None = None
        self._torn = self._warned = False
        with self._harmless():
            SPOOLS.mkdir(parents=True, exist_ok=True)
            new = self.spool.with_suffix(".new")
            file = new.open("xb", buffering=0)
            fcntl.flock(file, fcntl.LOCK_EX)
            new.rename(self.spool)  # visible only once it is locked
            self._file = file

    def log(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Metrics of one step."""
        numbers = {legal(name): float(value) for name, value in metrics.items()}
        self._write("metrics", metrics=numbers, step=step or 0)

    def end(self, status: str) -> None:
        """FINISHED, FAILED or KILLED. Waits a bounded time for the courier and warns if the store failed it."""
        self._write("end", status=status)
        if self._file is not None:
            fcntl.flock(self._file, fcntl.LOCK_UN)  # also for the children that inherited it
            self._file.close()
        if self._courier is None:
            return
        begin = time.monotonic()
        while self._courier.poll() is None:
            problem = self._problem()
            if trusted() and not problem:
                return
            if time.monotonic() - begin > (PATIENCE_IN_TROUBLE if problem else PATIENCE):
                break  # a courier that is only late delivers after us
            time.sleep(0.05)
        if problem := self._problem():
            self._courier.kill()
            self._courier.wait()
            self._warn(f"{store()} did not take everything ({problem})")

    def send(self) -> None:
        """Start the courier, unless the spool has to wait for another machine or time."""
        if self._file is None or not wanted():
            return
        search = [str(Path(__file__).resolve().parent.parent), os.environ.get("PYTHONPATH", "")]
        env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, search))}
        command = [sys.executable, "-m", "pipeline.courier", str(self.spool)]
        nothing = subprocess.DEVNULL
        with self._harmless():  # it stays in the stage's process group: who ends the stage for good ends both
            self._courier = subprocess.Popen(command, env=env, stdin=nothing, stdout=nothing, stderr=nothing)

    def _write(self, kind: str, **record: Any) -> None:
        if self._file is None:
            return
        line = json.dumps({"kind": kind, "time": time.time_ns() // 1_000_000, **record}, default=str).encode() + b"\n"
        with self._harmless():
            line = b"\n" + line if self._torn else line
            self._torn = True
            self._torn = self._file.write(line) != len(line)

    def _problem(self) -> str | None:
        return read_state(self.spool).get("problem")

    @contextmanager
    def _harmless(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._warn(f"{self.spool} cannot be written ({error})")

    def _warn(self, what: str) -> None:
        if not self._warned:
            self._warned = True
            print(f"warning: tracking: {what}; what waits in {SPOOLS} is delivered by `contrail sync`", flush=True)


def wanted() -> bool:
    """Whether this process should reach the store: MLflow is installed, and CONTRAIL_TRACKING is not "off".

    What a stage wrote down waits then for a machine that has MLflow, or for `contrail sync`.
    """
    return os.environ.get("CONTRAIL_TRACKING") != "off" and importlib.util.find_spec("mlflow") is not None


def start(*, stage: str, key: str | None, study: str, params: dict[str, Any]) -> Run:
    """Open the run of a stage's execution; a run of the same key that did not finish is reopened.

    stage: "pretrain@simclr"; the run is called "simclr". key: DVC's run-cache key, the identity of what is computed.
    """
    run = Run(stage, key)
    identity = {"dvc.stage": stage, "dvc.key": key, "pipeline.id": os.environ.get("CONTRAIL_PIPELINE_ID")}
    tags = {**identity, **git_tags(), "host": socket.gethostname(), "pid": os.getpid()}
    own = {re.sub(rf"^[a-z]+\.{re.escape(item(stage))}(\.|$)", "", name): value for name, value in params.items()}
    flat = {legal(name): str(value) for name, value in _leaves(own)}
    known = {name: value for name, value in tags.items() if value is not None}
    run._write("start", key=key, study=study, name=item(stage), params=flat, tags=known)
    run.send()
    return run


def sync(root: Path, study: str, entries: "Iterable[LockEntry]") -> list[str]:
    """Bring the store up to date; returns a phrase for each thing done, none if there was nothing to do.

    Spools that waited are delivered; runs whose process is gone are closed; an entry of dvc.lock without a finished
    run (its outputs came from the run-cache) gets one. What a courier still delivers after PATIENCE is left to it.
    One process at a time; TrackingError if the store cannot be used.
    """
    from pipeline import courier

    spools = root / SPOOLS
    spools.mkdir(parents=True, exist_ok=True)
    with reach(root) as mlflow, (root / paths.SCRATCH / "sync.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = [f"{stage}: delivered" for stage in courier.deliver_waiting(mlflow, spools, PATIENCE)]
        done += [f"{stage}: closed, its process is gone" for stage in courier.reap(mlflow, study, spools)]
        return done + [f"{stage}: entered from the run-cache" for stage in courier.fill(mlflow, study, entries, spools)]


def reap(root: Path, study: str) -> list[str]:
    """Close, as KILLED, the runs of this machine whose process is gone; returns their stages."""
    from pipeline import courier

    with reach(root) as mlflow:
        return courier.reap(mlflow, study, root / SPOOLS)


@contextmanager
def reach(root: Path) -> Iterator[Any]:
    """The mlflow module, pointed at the store; where the store fails, a TrackingError says so in a sentence."""
    try:
        mlflow = connect(root)
        mlflow.MlflowClient()  # opens a database, which may be locked or of another version
    except ImportError as error:
        raise TrackingError(f"MLflow cannot be imported here ({error}): pip install mlflow") from error
    except Exception as error:  # MLflow lets pass what its database and HTTP libraries raise
        raise TrackingError(f"{store(root)} cannot be opened: {first_line(error)}") from error
    try:
        yield mlflow
    except mlflow.exceptions.MlflowException as error:
        raise TrackingError(f"{store(root)} failed: {first_line(error)}") from error


def connect(root: Path) -> Any:
    """The mlflow module, pointed at MLFLOW_TRACKING_URI or else at a database in `root`, made on first use."""
    repro.settle(SETTINGS)
    import mlflow

    if os.environ.get("MLFLOW_TRACKING_URI"):
        mlflow.set_tracking_uri(os.environ["MLFLOW_TRACKING_URI"])
        return mlflow
    database = root.absolute() / ".mlflow" / "mlflow.db"
    _create(mlflow, database)
    mlflow.set_tracking_uri(f"sqlite:///{database}")
    os.environ.pop("MLFLOW_TRACKING_URI", None)  # set by the line above; it would bind a call with another root
    return mlflow


def _create(mlflow: Any, database: Path) -> None:
    """The empty database, whole or not at all: processes that start together would leave a broken one."""
    database.parent.mkdir(parents=True, exist_ok=True)
    with (database.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not database.exists():
            new = database.with_suffix(".new")
            new.unlink(missing_ok=True)
            mlflow.MlflowClient(tracking_uri=f"sqlite:///{new}").search_experiments()
            new.rename(database)


def experiment(client: Any, study: str) -> str:
    """The id of the study's experiment; a database on this machine keeps its artifacts beside it."""
    if (found := client.get_experiment_by_name(study)) is None:
        uri = urlsplit(client.tracking_uri)
        place = Path(uri.path[1:]).with_name("artifacts").as_uri() if uri.scheme == "sqlite" else None
        try:
            return client.create_experiment(study, artifact_location=place)
        except Exception:
            if (found := client.get_experiment_by_name(study)) is None:
                raise  # else another process was faster
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)  # the study is worked on again
    return found.experiment_id


def paged(search: Callable[..., Any], *query: Any) -> Iterator[Any]:
    """All that a search of the client finds: it answers by pages."""
    page = search(*query)
    yield from page
    while page.token:
        page = search(*query, page_token=page.token)
        yield from page


def store(root: Path | None = None) -> str:
    """The store, for a person: without the password that a URI may hold."""
    return f"the tracking store {discreet(address(root or Path.cwd()))}"


def address(root: Path) -> str:
    """The URI of the store: MLFLOW_TRACKING_URI, or the database in `root`."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root.absolute()}/.mlflow/mlflow.db"


def exists(root: Path) -> bool:
    """Whether there is a store to look into: the database of the repository, or one that the environment names."""
    return bool(os.environ.get("MLFLOW_TRACKING_URI")) or (root / ".mlflow" / "mlflow.db").exists()


def read_state(spool: Path) -> dict[str, Any]:
    """How far a spool was delivered: offset (bytes), run (its MLflow id), problem (of the last attempt)."""
    state = spool.with_suffix(".state")
    try:
        return json.loads(state.read_text())
    except FileNotFoundError:
        return {}


def spool_name(stage: str, key: str | None) -> str:
    """What the names of the spools of this work begin with; a time follows."""
    return f"{stage}-{(key or 'none')[:12]}"


def legal(name: str) -> str:
    """A name that MLflow takes: letters, digits and _ - . : / or a space."""
    return re.sub(r"[^\w./: -]", "_", name)


def _leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(tree, dict):
        yield path, tree
        return
    for key, value in tree.items():
        yield from _leaves(value, f"{path}.{key}".strip("."))


def first_line(error: Exception) -> str:
    """What an error of a library says, short and without passwords."""
    line = discreet(str(error)).partition("\n")[0] or type(error).__name__
    return line if len(line) <= LONGEST_PROBLEM else f"{line[:LONGEST_PROBLEM]}…"


def discreet(text: str) -> str:
    """A text without the passwords of the URIs in it."""
    return re.sub(r"//[^/\s]*@", "//", text)


def item(stage: str) -> str:
    return stage.rpartition("@")[2]


def git_tags() -> dict[str, str]:
    """The commit, and whether anything but results differs from it; nothing outside a repository."""
    commands = (["git", "rev-parse", "HEAD"], ["git", "status", "--porcelain", "--", ".", ":!dvc.lock", ":!data"])
    try:
        commit, changes = (subprocess.run(c, capture_output=True, check=True, text=True).stdout for c in commands)
    except (OSError, subprocess.CalledProcessError):
        return {}
    return {"git.commit": commit.strip(), "git.dirty": str(bool(changes)).lower()}
