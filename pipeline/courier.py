"""Carries to MLflow what the store lacks: spools (`python -m pipeline.courier <spool>`), and what was never run here.

A delivery goes on where the last one stopped: beside each spool a state file holds the offset, written after every
request, and the id of the MLflow run. MLflow takes a repeated request as the same one, so a crash in between does
no harm.
"""

import contextlib
import fcntl
import json
import signal
import socket
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.repro import alive
from pipeline.scratch import write_atomically
from pipeline.tracking import connect, experiment, first_line, item, legal, paged, read_state, spool_name, store

if TYPE_CHECKING:
    from pipeline.graph import LockEntry

DELIVER_EVERY = 2.0  # seconds
LOOK_EVERY = 0.1  # seconds between two looks whether the writer is gone
LAST_ATTEMPTS = 15.0  # seconds for which a courier outlives the writer
METRICS, PARAMS = 1000, 100  # what MLflow takes in one request
LONGEST_PARAM, LONGEST_TAG = 6000, 8000  # characters
REFUSED = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST"}  # asking again would not help


class NoRun(Exception):
    """A spool lacks the line that opens its run: the disk was full."""


class Delivery:
    """One spool on its way to MLflow; only one process at a time has it."""

    def __init__(self, spool: Path, wait: bool = False) -> None:
        """BlockingIOError if another process delivers the spool (or wait for it), FileNotFoundError if it is done."""
        self.spool = spool
        self.stage = spool.name.rsplit("-", 2)[0]
        self._file = spool.open("r+b")
        self._lock = spool.with_suffix(".lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            spool.stat()
        except OSError:
            self.close()
            raise
        self._state = {"offset": 0, "run": None, "ended": False, "problem": None} | read_state(spool)

    def take(self) -> bool:
        """True if the writer is gone: from now on the lock on the spool is ours."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def go_on(self, mlflow: Any) -> None:
        """Deliver the lines that are complete; raises what the store raises, what was delivered before is kept.

        NoRun before a line that nothing can be done with.
        """
        client = mlflow.MlflowClient()
        for records, end in self._batches():
            if self._refused(mlflow, client, records):  # one bad record must not take its neighbors along
                for record in records:
                    if reason := self._refused(mlflow, client, [record]):
                        with contextlib.suppress(mlflow.exceptions.MlflowException):
                            client.set_tag(self._state["run"], "refused", f"{record['kind']}: {reason}")
            self._save(offset=end, problem=None)
        write_atomically(self.spool.parent.with_name("tracked"), store().encode())

    def finish(self, mlflow: Any) -> None:
        """Deliver the rest of a spool whose writer is gone, and remove it; a run without an end was killed."""
        self.go_on(mlflow)
        if self._state["run"] and not self._state["ended"]:
            seconds = self.spool.stat().st_mtime
            mlflow.MlflowClient().set_terminated(self._state["run"], "KILLED", int(seconds * 1000))
        self.spool.unlink()
        for rest in (".state", ".lock"):
            self.spool.with_suffix(rest).unlink(missing_ok=True)

    def put_aside(self) -> None:
        """Take a spool without a run out of the way."""
        aside = self.spool.with_suffix(".aside")
        self.spool.rename(aside)
        for rest in (".state", ".lock"):
            self.spool.with_suffix(rest).unlink(missing_ok=True)
        says = f"{self.stage} could not write the beginning of a run; the rest of it is put aside in {aside}"
        print(f"warning: tracking: {says}", flush=True)

    def note(self, error: Exception) -> None:
        """Keep, for the writer's warning, why the store failed."""
        self._save(problem=first_line(error))
        self.spool.parent.with_name("tracked").unlink(missing_ok=True)

    def close(self) -> None:
        self._file.close()
        self._lock.close()

    def _save(self, **changes: Any) -> None:
        self._state |= changes
        write_atomically(self.spool.with_suffix(".state"), json.dumps(self._state).encode())

    def _batches(self) -> Iterator[tuple[list[dict[str, Any]], int]]:
        """Records and the offset after them: metrics together, as many as one request takes, all else one by one."""
        batch: list[dict[str, Any]] = []
        end = self._state["offset"]
        self._file.seek(end)
        while (line := self._file.readline()).endswith(b"\n"):
            record = _parsed(line)
            size = sum(len(r.get("metrics", ())) for r in [*batch, record])
            if batch and (record["kind"] != "metrics" or size > METRICS):
                yield batch, end
                batch = []
            end += len(line)
            batch.append(record)
            if record["kind"] != "metrics":
                yield batch, end
                batch = []
        if batch:
            yield batch, end

    def _refused(self, mlflow: Any, client: Any, records: list[dict[str, Any]]) -> str | None:
        """Deliver records of one kind; why MLflow will never take them, if so."""
        try:
            self._deliver(mlflow, client, records)
        except mlflow.exceptions.MlflowException as error:
            if error.error_code not in REFUSED or self._state["run"] is None:
                raise
            return first_line(error)
        return None

    def _deliver(self, mlflow: Any, client: Any, records: list[dict[str, Any]]) -> None:
        [record, *_] = records
        run = self._state["run"]
        match record["kind"]:
            case "start":
                self._state["run"] = _open(mlflow, client, record)
            case "metrics" | "end" if run is None:
                raise NoRun
            case "metrics":
                _log_metrics(mlflow, client, run, records)
            case "end":
                client.set_terminated(run, record["status"], record["time"])
                self._state["ended"] = True


def deliver_waiting(mlflow: Any, folder: Path, patience: float) -> list[str]:
    """Deliver, oldest first, every spool whose writer is gone; returns their stages.

    Those that couriers deliver meanwhile are waited for, up to `patience` seconds.
    """
    end = time.monotonic() + patience
    stages = _deliver_free(mlflow, folder)
    while any(map(_ended, folder.glob("*.jsonl"))) and time.monotonic() < end:
        time.sleep(LOOK_EVERY)
        stages += _deliver_free(mlflow, folder)
    return stages


def _deliver_free(mlflow: Any, folder: Path) -> list[str]:
    """One round of it. What the store refuses stops no other spool, and is raised at the end."""
    stages, refusal = [], None
    for spool in sorted(folder.glob("*.jsonl"), key=lambda path: int(path.stem.rpartition("-")[2])):
        taken = contextlib.suppress(BlockingIOError, FileNotFoundError)  # another process delivers or delivered it
        with taken, contextlib.closing(Delivery(spool)) as delivery:
            if not delivery.take():
                continue
            try:
                delivery.finish(mlflow)
                stages.append(delivery.stage)
            except NoRun:
                delivery.put_aside()
            except mlflow.exceptions.MlflowException as error:
                if error.error_code not in REFUSED:
                    raise
                refusal = error
    if refusal:
        raise refusal
    return stages


def fill(mlflow: Any, study: str, entries: "Iterable[LockEntry]", folder: Path) -> list[str]:
    """Enter a run for every entry of dvc.lock that has no finished one and no spool; returns their stages."""
    client = mlflow.MlflowClient()
    here = experiment(client, study)
    expected = _on_the_way(folder)  # before the search: what is delivered in between is found by it
    finished = paged(client.search_runs, [here], "attributes.status = 'FINISHED'")
    known = {run.data.tags.get("dvc.key") for run in finished}
    absent = [entry for entry in entries if entry.key not in known]
    missing = [entry for entry in absent if spool_name(entry.stage, entry.key) not in expected]
    for entry in missing:
        tags = {"dvc.stage": entry.stage, "dvc.key": entry.key, "origin": "run-cache"}
        run = client.create_run(here, tags=tags, run_name=item(entry.stage)).info
        numbers = {legal(name): float(value) for name, value in entry.metrics.items()}
        _log_metrics(mlflow, client, run.run_id, [{"metrics": numbers, "time": run.start_time, "step": 0}])
        client.set_terminated(run.run_id, "FINISHED")
    return [entry.stage for entry in missing]


def reap(mlflow: Any, study: str, folder: Path) -> list[str]:
    """Close, as KILLED, the runs of this machine whose process is gone and that have no spool; returns their stages."""
    client = mlflow.MlflowClient()
    expected = _on_the_way(folder)
    running = paged(client.search_runs, [experiment(client, study)], "attributes.status = 'RUNNING'")
    lost = [run for run in running if run.data.tags.get("host") == socket.gethostname() and not _works(run)]
    lost = [run for run in lost if spool_name(run.data.tags["dvc.stage"], run.data.tags.get("dvc.key")) not in expected]
    for run in lost:
        client.set_terminated(run.info.run_id, "KILLED")
    return [run.data.tags["dvc.stage"] for run in lost]


def _open(mlflow: Any, client: Any, record: dict[str, Any]) -> str:
    """The id of the run that goes on: the unfinished one of the same key, or a new one."""
    here = experiment(client, record["study"])
    query = f"tags.`dvc.key` = '{record['key']}' and attributes.status != 'FINISHED'"
    run = next(paged(client.search_runs, [here], query), None) if record["key"] else None
    if run is None:
        run = client.create_run(here, start_time=record["time"], run_name=record["name"])
    else:
        client.update_run(run.info.run_id, status="RUNNING")
    identifier = run.info.run_id
    client.log_batch(identifier, tags=_tags(mlflow, record["tags"]))
    new = [(name, value) for name, value in record["params"].items() if name not in run.data.params]
    params = [mlflow.entities.Param(name, value[:LONGEST_PARAM]) for name, value in new]
    for k in range(0, len(params), PARAMS):
        client.log_batch(identifier, params=params[k : k + PARAMS])
    return identifier


def _log_metrics(mlflow: Any, client: Any, run: str, records: list[dict[str, Any]]) -> None:
    metrics = [
        mlflow.entities.Metric(name, value, record["time"], record["step"])
        for record in records
        for name, value in record["metrics"].items()
    ]
    for k in range(0, len(metrics), METRICS):
        client.log_batch(run, metrics=metrics[k : k + METRICS])


def _tags(mlflow: Any, tags: dict[str, Any]) -> list[Any]:
    return [mlflow.entities.RunTag(name, str(value)[:LONGEST_TAG]) for name, value in tags.items()]


def _on_the_way(folder: Path) -> set[str]:
    """The work that a spool still has something to say of."""
    return {spool.stem.rpartition("-")[0] for spool in folder.glob("*.jsonl")}


def _ended(spool: Path) -> bool:
    """Whether the stage wrote its end down: what holds the spool now is a courier."""
    try:
        lines = spool.read_bytes().splitlines()
    except FileNotFoundError:
        return False  # just delivered
    return bool(lines) and _parsed(lines[-1])["kind"] == "end"


def _works(run: Any) -> bool:
    """Whether the process of a run of this machine is there."""
    return alive(int(run.data.tags["pid"]))


def _parsed(line: bytes) -> dict[str, Any]:
    """A line's record; what a full disk or a killed writer tore is skipped."""
    try:
        return json.loads(line)
    except ValueError:
        return {"kind": "torn"}


def main(spool: Path) -> None:
    """Deliver the spools that waited, then `spool` while it is written, and finish it once its writer is gone."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # they ask the stage to stop; the courier stops after it
    delivery = Delivery(spool, wait=True)
    gone_at = None
    mlflow = None
    while spool.exists():
        if gone_at is None and delivery.take():
            gone_at = time.monotonic()
        try:
            if mlflow is None:
                mlflow = connect(Path.cwd())
                deliver_waiting(mlflow, spool.parent, patience=0.0)
            delivery.go_on(mlflow) if gone_at is None else delivery.finish(mlflow)
        except NoRun:
            delivery.put_aside()
            return
        except Exception as error:  # whatever it is, the stage must not suffer
            delivery.note(error)
        if gone_at and time.monotonic() - gone_at > LAST_ATTEMPTS:
            sys.exit(1)
        _pause(delivery, gone_at is None)


def _pause(delivery: Delivery, writing: bool) -> None:
    """Until the next delivery is due, or the writer is gone."""
    end = time.monotonic() + DELIVER_EVERY
    while time.monotonic() < end and delivery.spool.exists() and not (writing and delivery.take()):
        time.sleep(LOOK_EVERY)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
