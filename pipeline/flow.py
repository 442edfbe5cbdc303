"""The flow: dvc.yaml's graph as a Prefect flow run, one task run per stage.

Prefect decides when and shows what happens; DVC alone decides whether there is anything to do, and keeps every result.
So `dvc repro` and the flow may be mixed freely: they leave equal locks and equal bytes.
"""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline import graph, params, paths, repro, tracking
from pipeline.graph import Node
from pipeline.hardware import side_by_side
from pipeline.repro import Outcome, Result, Runner

SETTINGS = {  # read when prefect is imported
    "PREFECT_HOME": str(paths.root() / ".prefect"),
    "PREFECT_CLIENT_MAX_RETRIES": "3",  # with five, a dead server holds up the end for minutes
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",  # the first start makes the database
}
repro.settle(SETTINGS)

from prefect import flow, get_client, get_run_logger, runtime, task  # noqa: E402
from prefect.artifacts import create_markdown_artifact  # noqa: E402
from prefect.cache_policies import NO_CACHE  # noqa: E402
from prefect.futures import PrefectFuture, as_completed  # noqa: E402
from prefect.states import Cancelled, Completed, Failed, State  # noqa: E402

LONGEST_SYNC = 120.0  # seconds


def run(targets: list[str], *, force: bool) -> int:
    """Run the flow here and now; the exit code says whether every stage is up to date."""
    with _uninterrupted():
        get_client(sync_client=True)
    state: State[Any] = contrail(targets, force, return_state=True)
    return 0 if state.is_completed() else 1


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Children started here never see Ctrl-C: a temporary server must outlive the flow that reports to it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


@flow(name="contrail", persist_result=False)
def contrail(targets: list[str], force: bool) -> State[Any]:
    """Bring the named stages and all that they depend on up to date; every stage, if none is named.

    force: run the named stages even if nothing changed.
    """
    root = paths.root()
    nodes = graph.select(graph.read(root), targets)
    forced = graph.named(nodes, targets) if force else []
    runner = Runner(root, repro.environment(CONTRAIL_PIPELINE_ID=str(runtime.flow_run.id)))
    futures: dict[str, PrefectFuture[Any]] = {}

    def start(node: Node, cause: str | None) -> PrefectFuture[Any]:
        stage = bring.with_options(retries=node.meta.get("retries", 0))
        futures[node.name] = stage.submit(
            node.name,
            node.name in forced,
            node.meta.get("timeout"),
            cause,
            runner,
            wait_for=[] if cause else [futures[name] for name in node.upstream],
            return_state=False,
        )
        return futures[node.name]

    try:
        hardware = params.read(root / "params.yaml")["hardware"]
        places = side_by_side(hardware["threads"] * hardware["ranks"])
        results = repro.schedule(nodes, places, start, _first_done)
    except BaseException:  # Ctrl-C, or the worker cancels
        runner.stop()
        raise
    _sync(root)
    return _conclude(results, {entry.stage: entry.key for entry in graph.lock_entries(root)})


@task(task_run_name="{stage}", cache_policy=NO_CACHE, persist_result=False)
def bring(stage: str, force: bool, timeout: float | None, cause: str | None, runner: Runner) -> State[Result]:
    """Bring one stage up to date in a DVC child, unless `cause` failed; the state's name is the outcome."""
    if cause:
        result = repro.skipped(stage, cause)
    else:
        result = runner.run(stage, force=force, timeout=timeout, say=get_run_logger().info)
    make = Completed if result.outcome.good else Failed if result.outcome is Outcome.FAILED else Cancelled
    return make(name=result.outcome.value, message=result.message, data=result)


def _first_done(futures: list[PrefectFuture[Any]]) -> tuple[PrefectFuture[Any], Result]:
    future = next(as_completed(futures))
    return future, future.result(raise_on_failure=False)


def _sync(root: Path) -> None:
    """Enter into MLflow what came from the run-cache, in a child: MLflow stays out of this process.

    What fails there is one warning.
    """
    if not tracking.wanted():
        return
    command = [sys.executable, "-m", "pipeline", "sync"]
    try:
        child = subprocess.run(
            command,
            cwd=root,
            env=repro.environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=LONGEST_SYNC,
        )
        problem = child.stderr.strip().rpartition("\n")[2].removeprefix("error: ") if child.returncode else ""
    except (OSError, subprocess.TimeoutExpired) as error:
        problem = str(error)
    if problem:
        get_run_logger().warning(f"tracking: {problem}; `contrail sync` tries again")


def _conclude(results: list[Result], keys: dict[str, str]) -> State[Any]:
    """The outcome of each stage as an artifact of the flow run and as the last lines of its log."""
    table = ["| stage | outcome | seconds | key | |", "|---|---|---:|---|---|"]
    for result in results:
        key = keys.get(result.stage, "")[:16]
        table.append(f"| {result.stage} | {result.outcome} | {result.seconds:.1f} | `{key}` | {result.message} |")
        get_run_logger().info(
            f"{result.outcome:<20} {result.seconds:8.1f} s  {result.stage}  {result.message}".rstrip()
        )
    create_markdown_artifact(markdown="\n".join(table), key="contrail-summary", description="The stages of this run")
    good = sum(result.outcome.good for result in results)
    make = Completed if good == len(results) else Failed
    return make(message=f"{good} of {len(results)} stages are up to date")
