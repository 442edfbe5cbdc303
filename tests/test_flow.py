"""Running stages: one by one through DVC children, and as the Prefect flow."""

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
from ruamel.yaml import YAML
from toy_project import REPOSITORY, STAGES, edit, make, run

from pipeline import hardware, lock, repro
from pipeline.graph import Node
from pipeline.repro import Outcome, Result, Runner

STUBBORN = """\
import signal, sys, time, pathlib
stop = []
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, frame: stop.append(number))
pathlib.Path("working").touch()
while not stop:
    time.sleep(0.05)
time.sleep(0.5)
pathlib.Path("saved").touch()
sys.exit(143)
"""
# runs the flow again and again in one process, so that one temporary server serves all; MLflow cannot be imported
DRIVER = """\
import json, os, shutil, sys
from pathlib import Path
from pipeline import flow, lock

def look():
    names = {}
    def note(results, keys):
        names.update({result.stage: [result.outcome.value, result.message] for result in results})
        return conclude(results, keys)
    conclude, flow._conclude = flow._conclude, note
    code = flow.run([], force=False)
    flow._conclude = conclude
    return {"code": code, "stages": names, "lock": lock.read(Path())}

Path("mlflow.py").write_text("raise ImportError('broken')")
seen = {"first": look()}
os.environ["CONTRAIL_TRACKING"] = "off"
shutil.rmtree("data")
Path("dvc.lock").unlink()
seen["restored"] = look()
dag = Path("dvc.yaml").read_text()
Path("dvc.yaml").write_text(dag.replace("mkdir -p data/encoders && grep", "test ${key} = b && grep"))
seen["failing"] = look()
seen["heavy"] = sorted({"torch", "mlflow"} & sys.modules.keys())
Path("seen.json").write_text(json.dumps(seen))
"""


def node(name, *upstream):
    return Node(name, [], {}, {}, list(upstream), {})


def child(root, *arguments, more=None, **options):
    """A Python process of its own session in a project, with this repository's code."""
    env = repro.environment(PYTHONPATH=str(REPOSITORY), **(more or {}))
    return subprocess.Popen([sys.executable, *arguments], cwd=root, env=env, start_new_session=True, **options)


@pytest.fixture
def project(tmp_path):
    return make(tmp_path / "project")


@pytest.fixture
def runner(project):
    return Runner(project, repro.environment())


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """What three runs of the flow did."""
    root = make(tmp_path_factory.mktemp("flow") / "project")
    (root / "driver.py").write_text(DRIVER)
    with (root / "log").open("w") as log:
        assert child(root, "driver.py", stdout=log, stderr=log).wait() == 0, (root / "log").read_text()
    return json.loads((root / "seen.json").read_text()) | {"log": (root / "log").read_text()}


def outcomes(look):
    return [look["stages"][name][0] for name in STAGES]


def bring(runner, **options):
    return runner.run("prepare@d", **{"force": False, "say": lambda line: None, **options}).outcome


def test_the_outcome_of_a_stage_is_what_dvc_did(project, runner):
    """Executed at first and when forced, else up to date, restored when only the cache has the outputs."""
    assert bring(runner) is Outcome.EXECUTED
    assert bring(runner) is Outcome.UP_TO_DATE
    assert bring(runner, force=True) is Outcome.EXECUTED
    run("rm", "-rf", "data", "dvc.lock", cwd=project)
    assert bring(runner) is Outcome.RESTORED


def test_every_line_is_passed_on_but_no_flood(project, runner):
    """Of a progress bar, whose updates overwrite each other, one in a while; a failure's message is the last line.

    Or the sentence of the stage, which may go on in more lines.
    """
    noisy = r"printf '1%%\r2%%\r3%%\r\ndone\n'; echo no paper >&2; false"
    edit(project, "dvc.yaml", "cmd: mkdir", f"cmd: {noisy} && mkdir")
    lines: list[str] = []
    result = runner.run("prepare@d", force=False, say=lines.append)
    said = ("1%", "2%", "3%", "done", "no paper")
    assert [line for line in lines if line in said] == ["1%", "3%", "done", "no paper"]
    assert (result.outcome, result.message) == (Outcome.FAILED, "no paper")
    (project / "said").write_text("error: no paper\n  ordered: none\n")
    edit(project, "dvc.yaml", "echo no paper", "cat said")
    result = runner.run("prepare@d", force=False, say=lines.append)
    assert result.message == "error: no paper"


def test_a_stage_waits_for_files_that_another_dvc_holds(project, runner):
    """DVC refuses a path that another process writes; the stage is tried again until that has ended."""
    held = project / ".dvc" / "tmp" / "rwlock"
    held.parent.mkdir()
    holder = {"pid": os.getpid(), "cmd": "dvc repro"}
    held.write_text(json.dumps({"write": {str(project / "data/datasets/d"): holder}, "read": {}}))
    said = []

    def say(line):
        if line.startswith("waiting"):
            held.unlink()
        said.append(line)

    assert runner.run("prepare@d", force=False, say=say).outcome is Outcome.EXECUTED
    assert "is busy" in said[0]


def test_stop_leaves_no_survivor(project, runner):
    """A stopped stage may save its state; then neither it nor its dvc is alive, and nothing starts any more."""
    (project / "stubborn.py").write_text(STUBBORN)
    edit(project, "dvc.yaml", "cmd: mkdir", "cmd: python stubborn.py; mkdir")
    before = set(psutil.Process().children(recursive=True))  # what other tests left, such as a resource tracker
    with ThreadPoolExecutor() as pool:
        future = pool.submit(bring, runner)
        _wait_for((project / "working").exists)
        family = set(psutil.Process().children(recursive=True)) - before
        runner.stop()
        assert future.result() is Outcome.STOPPED
    assert len(family) >= 2
    assert (project / "saved").exists()
    assert not any(process.is_running() for process in family)
    assert bring(runner) is Outcome.STOPPED


def test_a_stage_may_have_a_timeout(runner):
    """After that time it is ended and has failed."""
    result = runner.run("prepare@d", force=False, say=lambda line: None, timeout=0.01)
    assert (result.outcome, result.message) == (Outcome.FAILED, "ended after its timeout of 0.01 s")


def test_a_terminated_quick_run_leaves_nothing(tmp_path):
    """SIGTERM to a command is as good as Ctrl-C: children are ended, the copy is removed."""
    root = make(tmp_path / "project", git=True)
    (root / "stubborn.py").write_text(STUBBORN)
    edit(root, "dvc.yaml", "cmd: mkdir", "cmd: python stubborn.py; mkdir")
    quick = child(root, "-m", "pipeline", "run", "--quick", stdout=subprocess.DEVNULL)
    _wait_for(lambda: list(root.glob(".scratch/quick/*/working")))
    family = psutil.Process(quick.pid).children(recursive=True)
    quick.terminate()
    assert quick.wait(60) == 143
    assert len(family) >= 2
    assert not any(process.is_running() for process in family)
    assert list((root / ".scratch/quick").iterdir()) == []


def test_schedule_skips_what_depends_on_a_failure():
    """Everything downstream of a failed stage is skipped because of that stage; the rest runs, within the places."""
    nodes = [node("a"), node("b"), node("c"), node("a2", "a"), node("b2", "b"), node("a3", "a2", "b2")]
    running, most, counting = 0, 0, threading.Lock()

    def work(name, cause):
        nonlocal running, most
        if cause:
            return repro.skipped(name, cause)
        with counting:
            running += 1
            most = max(most, running)
        time.sleep(0.05)
        with counting:
            running -= 1
        return Result(name, Outcome.FAILED if name == "a" else Outcome.EXECUTED, 0.0)

    with ThreadPoolExecutor() as pool:
        futures = []

        def start(stage, cause):
            futures.append(pool.submit(work, stage.name, cause))
            return futures[-1]

        def first_done(waiting):
            return waiting[0], waiting[0].result()

        results = {result.stage: result for result in repro.schedule(nodes, 2, start, first_done)}
    assert [results[stage.name].outcome.value for stage in nodes] == [
        *("Failed", "Executed", "Executed"),
        *("Skipped", "Executed", "Skipped"),
    ]
    assert results["a3"].message == "because a failed"
    assert most == 2


def test_places_never_ask_for_more_threads_than_cores(monkeypatch):
    """Stages side by side × threads of each ≤ cores, and at least one stage runs."""
    monkeypatch.setattr(hardware, "cores", lambda: 8)
    assert [hardware.side_by_side(threads) for threads in (1, 3, 8, 16)] == [8, 2, 1, 1]


def test_the_flow_and_dvc_repro_are_interchangeable(seen, tmp_path):
    """The flow runs, skips and restores like `dvc repro`, and leaves the same lock."""
    root = make(tmp_path / "project")
    run(*repro.dvc("repro"), cwd=root)
    theirs = YAML(typ="safe").load(root / "dvc.lock")["stages"]
    assert seen["first"]["lock"] == seen["restored"]["lock"] == theirs
    assert outcomes(seen["first"]) == ["Executed"] * 4
    assert outcomes(seen["restored"]) == ["RestoredFromRunCache"] * 4
    assert [seen[look]["code"] for look in ("first", "restored")] == [0, 0]


def test_the_flow_goes_on_past_a_failure(seen):
    """A failed stage is tried as often as its meta says; its dependents are skipped, others run, the exit code is 1."""
    assert outcomes(seen["failing"]) == ["UpToDate", "Failed", "Executed", "Skipped"]
    assert seen["failing"]["stages"]["report"][1] == "because pretrain@a failed"
    assert seen["failing"]["code"] == 1
    assert seen["log"].count("> test a = b && grep") == 2  # meta: {retries: 1}


def test_a_failing_tracker_costs_the_flow_one_warning(seen):
    """At its end a flow brings MLflow up to date, unless that is switched off; what fails there is no failure of it."""
    [warning] = [line for line in seen["log"].splitlines() if "WARNING" in line]
    assert "tracking: MLflow cannot be imported here (broken)" in warning
    assert seen["first"]["code"] == 0


def test_the_flow_process_stays_light(seen):
    """Neither torch nor mlflow is ever imported where the flow runs."""
    assert seen["heavy"] == []


@pytest.mark.service
@pytest.mark.parametrize("how", ["interrupt", "terminate"])
def test_a_stopped_flow_leaves_no_survivor(tmp_path, how):
    """Ctrl-C reaches the whole group, SIGTERM only the flow: either way the stage saves its state and all is gone."""
    root = make(tmp_path / "project")
    (root / "stubborn.py").write_text(STUBBORN)
    edit(root, "dvc.yaml", "cmd: mkdir -p data/datasets", "cmd: python stubborn.py; mkdir -p data/datasets")
    flow = child(root, "-m", "pipeline", "run", stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    _wait_for((root / "working").exists)
    family = psutil.Process(flow.pid).children(recursive=True)
    assert len(family) >= 3  # a temporary server, dvc, the stage
    if how == "interrupt":
        os.killpg(flow.pid, signal.SIGINT)
    else:
        flow.terminate()
    assert flow.wait(60) == (130 if how == "interrupt" else 143)
    assert (root / "saved").exists()
    assert not any(process.is_running() for process in family)


@pytest.mark.service
def test_a_server_can_start_the_flow(tmp_path):
    """What `contrail deploy` serves runs in the project when the server asks for it, and leaves a run a stage."""
    root = make(tmp_path / "project")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    env = {"PREFECT_API_URL": f"http://127.0.0.1:{port}/api", "PREFECT_HOME": str(root / ".prefect")}
    env["MLFLOW_TRACKING_URI"] = ""
    log = (root / "log").open("w")
    children = [child(root, "-m", "prefect", "server", "start", "--port", port, more=env, stdout=log, stderr=log)]
    try:
        _wait_for(lambda: _answers(port))
        children.append(child(root, "-m", "pipeline", "deploy", more=env, stdout=log, stderr=log))
        _wait_for(lambda: "being served" in (root / "log").read_text())
        ask = child(root, "-m", "prefect", "deployment", "run", "contrail/toy", "--watch", more=env)
        assert ask.wait(120) == 0, (root / "log").read_text()
    finally:
        for process in reversed(children):
            os.killpg(process.pid, signal.SIGINT)
            process.wait(30)
    assert (root / "data" / "report" / "results.json").exists()
    assert set(lock.read(root)) == set(STAGES)
    database = sqlite3.connect(root / ".mlflow" / "mlflow.db")
    tags = database.execute("select value from tags where key = 'dvc.stage'").fetchall()
    database.close()
    assert sorted(stage for (stage,) in tags) == STAGES


def _answers(port):
    try:
        return urllib.request.urlopen(f"http://127.0.0.1:{port}/api/health").status == 200
    except OSError:
        return False


def _wait_for(what):
    for _ in range(900):
        if what():
            return
        time.sleep(0.1)
    raise AssertionError("it did not happen")
