"""Tracking: what a stage writes down reaches MLflow, once, whatever happens in between."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pipeline import courier, tracking
from pipeline.graph import LockEntry

ROOT = Path(__file__).resolve().parent.parent
KEY = "0123456789abcdef" * 4
EXPERIMENT = "digits"


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory):
    """A folder with the database that the first use makes: a copy is quicker than another one."""
    root = tmp_path_factory.mktemp("store")
    with tracking.reach(root):
        return root / ".mlflow"


@pytest.fixture
def root(tmp_path, empty_store, monkeypatch):
    """An empty project with an empty store."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(tracking, "PATIENCE", 300.0)  # of a loaded machine
    monkeypatch.chdir(tmp_path)
    shutil.copytree(empty_store, tmp_path / ".mlflow")
    return tmp_path


@pytest.fixture
def no_courier(monkeypatch):
    """A machine where MLflow is not installed."""
    monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda name: None)


def start(stage="pretrain@simclr", key=KEY):
    params = {"runs.simclr": {"method": {"name": "simclr"}, "seeds": [0, 1]}, "hardware": {"threads": 1}}
    return tracking.start(stage=stage, key=key, study=EXPERIMENT, params=params)


def sync(root, entries=()):
    return tracking.sync(root, EXPERIMENT, entries)


def runs(root):
    """The runs in the store, oldest first."""
    with tracking.reach(root) as mlflow:
        client = mlflow.MlflowClient()
        return list(reversed(client.search_runs([tracking.experiment(client, EXPERIMENT)])))


def history(root, run, metric):
    with tracking.reach(root) as mlflow:
        return sorted((m.step, m.value) for m in mlflow.MlflowClient().get_metric_history(run.info.run_id, metric))


def waiting():
    return sorted(path.name for path in tracking.SPOOLS.glob("*"))


def lose(run):
    """What remains of a writer that is killed: its lock is gone, nothing else was done."""
    run._file.close()


def test_importing_tracking_imports_no_mlflow():
    """A stage pays nothing for MLflow where it starts: the module alone does not import it."""
    code = "import sys, pipeline.tracking; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_a_run_arrives_with_all_that_was_logged(root, capsys, monkeypatch):
    """The courier delivers parameters, tags, every step and the end, and leaves no spool."""
    monkeypatch.setenv("CONTRAIL_PIPELINE_ID", "p-1")
    run = start()
    for step in range(3):
        run.log({"loss": 1.0 / (step + 1), "knn@5": 0.5}, step)
    run.end("FINISHED")
    [found] = runs(root)
    assert found.info.status == "FINISHED"
    assert found.info.run_name == "simclr"
    assert found.data.params == {"method.name": "simclr", "seeds": "[0, 1]", "hardware.threads": "1"}
    expected = {"dvc.stage": "pretrain@simclr", "dvc.key": KEY, "pipeline.id": "p-1", "pid": str(os.getpid())}
    assert expected.items() <= found.data.tags.items()
    assert history(root, found, "loss") == [(0, 1.0), (1, 0.5), (2, 1 / 3)]
    assert found.data.metrics["knn_5"] == 0.5
    assert waiting() == []
    assert capsys.readouterr().out == ""


def test_without_mlflow_the_spool_waits_for_sync(root, no_courier, capsys):
    """A worker without MLflow says nothing and keeps the spool; sync delivers it once, a second sync does nothing."""
    run = start()
    run.log({"loss": 1.0}, 0)
    run.end("FINISHED")
    assert capsys.readouterr().out == ""
    assert len(waiting()) == 1
    assert sync(root) == ["pretrain@simclr: delivered"]
    assert sync(root) == []
    assert [found.info.status for found in runs(root)] == ["FINISHED"]
    assert waiting() == []


def test_a_spool_that_is_being_written_is_left_alone(root, no_courier):
    """Sync beside a running stage takes nothing away from it."""
    run = start()
    assert sync(root) == []
    run.log({"loss": 1.0}, 0)
    run.end("FINISHED")
    assert sync(root) == ["pretrain@simclr: delivered"]
    assert history(root, runs(root)[0], "loss") == [(0, 1.0)]


def test_an_unreachable_store_costs_one_warning(root, monkeypatch, capsys):
    """With nothing behind its address the store fails no stage; once it is back, sync delivers everything."""
    monkeypatch.setattr(tracking, "PATIENCE_IN_TROUBLE", 0.5)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:9")
    run = start()
    run.log({"loss": 1.0}, 0)
    run.end("FINISHED")
    out = capsys.readouterr().out
    assert out.count("warning") == 1
    assert "http://127.0.0.1:9" in out
    assert "secret" not in out
    assert "contrail sync" in out
    with pytest.raises(tracking.TrackingError, match=r"tracking store http://127.0.0.1:9 failed"):
        sync(root)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert sync(root) == ["pretrain@simclr: delivered"]
    assert history(root, runs(root)[0], "loss") == [(0, 1.0)]


def test_a_locked_store_is_a_sentence(root, no_courier, monkeypatch):
    """While somebody holds the database nothing is lost: sync says so, and delivers everything afterwards."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root}/.mlflow/mlflow.db?timeout=0.2")
    run = start()
    run.log({"loss": 1.0}, 0)
    run.end("FINISHED")
    database = sqlite3.connect(root / ".mlflow" / "mlflow.db")
    database.execute("BEGIN EXCLUSIVE")
    with pytest.raises(tracking.TrackingError, match=r"mlflow\.db.* cannot be opened: .*locked"):
        sync(root)
    database.rollback()
    database.close()
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert sync(root) == ["pretrain@simclr: delivered"]
    [found] = runs(root)
    assert found.info.status == "FINISHED"
    assert history(root, found, "loss") == [(0, 1.0)]


def test_a_disk_that_takes_nothing_costs_one_warning(root, capsys):
    """Where the spool cannot even be opened, the stage goes on."""
    Path(".scratch").write_text("not a folder")
    run = start()
    run.log({"loss": 1.0}, 0)
    run.end("FINISHED")
    assert capsys.readouterr().out.count("warning") == 1


def test_a_killed_stage_is_closed_and_its_run_reopened(root, no_courier):
    """A killed run is KILLED; the next execution of the same key goes on in the same run, another key does not."""
    run = start()
    run.log({"loss": 3.0}, 0)
    lose(run)
    sync(root)
    [killed] = runs(root)
    assert killed.info.status == "KILLED"
    again = start()
    again.log({"loss": 2.0}, 1)
    again.end("FINISHED")
    other = start(key="f" * 64)
    other.end("FINISHED")
    sync(root)
    [first, second] = runs(root)
    assert first.info.run_id == killed.info.run_id
    assert first.info.status == "FINISHED"
    assert history(root, first, "loss") == [(0, 3.0), (1, 2.0)]
    assert second.data.tags["dvc.key"] == "f" * 64


def test_a_finished_run_is_not_reopened(root, no_courier):
    """The same work done again is a run of its own."""
    for _ in range(2):
        start().end("FINISHED")
        sync(root)
    assert len({found.info.run_id for found in runs(root)}) == 2


def test_the_courier_outlives_a_killed_stage(root):
    """SIGKILL on the stage: its courier delivers what was written and closes the run."""
    code = (
        "import os, signal, time; from pipeline import tracking\n"
        f"run = tracking.start(stage='pretrain@simclr', key='{KEY}', study='digits', params={{}})\n"
        "run.log({'loss': 1.0}, 0)\n"
        "print('written', flush=True); time.sleep(60)"
    )
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    stage = subprocess.Popen([sys.executable, "-c", code], env=env, stdout=subprocess.PIPE)
    assert stage.stdout is not None
    assert stage.stdout.readline() == b"written\n"
    stage.send_signal(signal.SIGKILL)
    stage.communicate()
    for _ in range(600):
        if not waiting():
            break
        time.sleep(0.1)
    [found] = runs(root)
    assert found.info.status == "KILLED"
    assert history(root, found, "loss") == [(0, 1.0)]


@pytest.mark.parametrize("lost", ["request", "state"])
def test_an_interrupted_delivery_goes_on_where_it_stopped(root, no_courier, monkeypatch, lost):
    """A store that fails in the middle, before or after it took a request, gets every step once in one run."""
    run = start()
    for step in range(2500):
        run.log({"loss": float(step)}, step)
    run.end("FINISHED")
    deliver, calls = courier.Delivery._deliver, []

    def spy(self, mlflow, client, records):
        calls.append(records[0]["kind"])
        if lost == "request" and len(calls) == 3:
            raise OSError("the store is gone")
        deliver(self, mlflow, client, records)
        if lost == "state" and len(calls) == 3:
            raise OSError("the store is gone")

    monkeypatch.setattr(courier.Delivery, "_deliver", spy)
    with pytest.raises(OSError, match="gone"):
        sync(root)
    assert sync(root) == ["pretrain@simclr: delivered"]
    assert calls == ["start", "metrics", "metrics", "metrics", "metrics", "end"]
    [found] = runs(root)
    assert found.info.status == "FINISHED"
    assert history(root, found, "loss") == [(step, float(step)) for step in range(2500)]


def test_a_run_that_ends_before_its_courier_looks_is_one_run(root, no_courier, monkeypatch):
    """A short stage is over while the courier still imports MLflow: it is delivered once, and nothing remains."""
    monkeypatch.setattr(courier.signal, "signal", lambda number, action: None)
    run = start()
    connect = courier.connect

    def slow(root):
        run.log({"loss": 1.0}, 0)
        run.end("FINISHED")
        return connect(root)

    monkeypatch.setattr(courier, "connect", slow)
    courier.main(run.spool)
    assert [found.info.status for found in runs(root)] == ["FINISHED"]
    assert waiting() == []


@pytest.mark.parametrize("patient", [True, False])
def test_a_stage_that_has_just_ended_is_entered_once(root, no_courier, monkeypatch, patient):
    """Sync beside a courier waits for it, and if that takes too long, neither closes nor enters what it delivers."""
    monkeypatch.setattr(courier, "alive", lambda pid: False)
    entry = LockEntry(stage="pretrain@simclr", key=KEY, metrics={})
    run = start()
    delivery = courier.Delivery(run.spool)
    with tracking.reach(root) as mlflow:
        delivery.go_on(mlflow)
    run.end("FINISHED")

    def finish():
        delivery.finish(mlflow)
        delivery.close()

    if patient:
        late = threading.Timer(0.5, finish)
        late.start()
        assert sync(root, [entry]) == []
        assert [found.info.status for found in runs(root)] == ["FINISHED"]
        late.join()
    else:
        monkeypatch.setattr(tracking, "PATIENCE", 0.0)
        assert sync(root, [entry]) == []
        assert [found.info.status for found in runs(root)] == ["RUNNING"]
        finish()
        assert sync(root, [entry]) == []
        assert [found.info.status for found in runs(root)] == ["FINISHED"]


def test_a_torn_line_is_skipped(root, no_courier):
    """What a full disk cut short costs that record only."""
    run = start()
    run._file.write(b'{"kind": "metrics", "metr')
    run._torn = True
    run.log({"loss": 1.0}, 1)
    run.end("FINISHED")
    sync(root)
    assert history(root, runs(root)[0], "loss") == [(1, 1.0)]


@pytest.mark.parametrize("reader", ["sync", "courier"])
def test_a_spool_without_its_beginning_stops_no_other(root, no_courier, monkeypatch, capsys, reader):
    """The disk was full when its stage started: it is put aside with a sentence, once, and those behind it arrive."""
    lost = start("pretrain@moco")
    lost.spool.write_bytes(b'{"kind": "sta')
    lost._file.seek(0, os.SEEK_END)
    lost._torn = True
    lost.log({"loss": 1.0}, 0)
    if reader == "courier":
        monkeypatch.setattr(courier.signal, "signal", lambda number, action: None)
        courier.main(lost.spool)
    lost.end("FINISHED")
    run = start()
    run.end("FINISHED")
    assert sync(root) == ["pretrain@simclr: delivered"]
    said = capsys.readouterr().out
    assert said.count("warning: tracking: pretrain@moco could not write the beginning of a run") == 1
    assert waiting() == [lost.spool.with_suffix(".aside").name]
    assert b'"end"' in lost.spool.with_suffix(".aside").read_bytes()
    assert sync(root) == []


def test_what_the_store_refuses_stops_no_other_spool(root, no_courier):
    """A run that MLflow will never open is an error each time, after all else was delivered."""
    refused = tracking.Run("pretrain@moco", None)
    refused._write("start", key=None, study="", name="moco", params={}, tags={})
    refused.end("FINISHED")
    start().end("FINISHED")
    for _ in range(2):
        with pytest.raises(tracking.TrackingError, match="name"):
            sync(root)
        assert waiting() == [refused.spool.with_suffix(suffix).name for suffix in (".jsonl", ".lock")]
    assert [found.info.status for found in runs(root)] == ["FINISHED"]


def test_a_refused_record_does_not_block_the_rest(root, no_courier):
    """What MLflow will never take is noted on the run, and what follows arrives."""
    run = start()
    run._write("metrics", metrics={"not@legal": 1.0}, step=0)
    run.log({"loss": 1.0}, 1)
    run.end("FINISHED")
    sync(root)
    [found] = runs(root)
    assert "not@legal" in found.data.tags["refused"]
    assert found.data.metrics == {"loss": 1.0}


def test_reap_closes_only_runs_of_dead_processes_of_this_machine(root):
    """A run is closed where its process is known to be gone: not a living one, not one of another machine."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    with tracking.reach(root) as mlflow:
        client = mlflow.MlflowClient()
        here = tracking.experiment(client, EXPERIMENT)
        host = tracking.socket.gethostname()
        for name, pid, machine in (("dead", gone.pid, host), ("alive", os.getpid(), host), ("far", gone.pid, "far")):
            client.create_run(here, run_name=name, tags={"host": machine, "pid": str(pid), "dvc.stage": name})
    assert tracking.reap(root, EXPERIMENT) == ["dead"]
    assert tracking.reap(root, EXPERIMENT) == []
    assert {r.info.run_name: r.info.status for r in runs(root)} == {
        "dead": "KILLED",
        "alive": "RUNNING",
        "far": "RUNNING",
    }


def test_sync_enters_what_the_run_cache_restored(root, no_courier):
    """An entry of dvc.lock without a finished run gets one with its metrics; one that has a run gets no other."""
    start(key="a" * 64).end("FINISHED")
    entries = [
        LockEntry(stage="pretrain@simclr", key="a" * 64, metrics={}),
        LockEntry(stage="evaluate@simclr", key="b" * 64, metrics={"knn.top1.test": 0.9}),
    ]
    assert sync(root, entries) == ["pretrain@simclr: delivered", "evaluate@simclr: entered from the run-cache"]
    assert sync(root, entries) == []
    [_, found] = runs(root)
    assert found.data.tags["origin"] == "run-cache"
    assert found.data.metrics == {"knn.top1.test": 0.9}
    assert found.info.status == "FINISHED"


def test_a_study_whose_experiment_was_deleted_goes_on(root, no_courier):
    """Deleted by hand in MLflow, the experiment is restored as soon as the study has a new run."""
    with tracking.reach(root) as mlflow:
        client = mlflow.MlflowClient()
        client.delete_experiment(tracking.experiment(client, EXPERIMENT))
    start().end("FINISHED")
    assert sync(root) == ["pretrain@simclr: delivered"]
    assert [found.info.status for found in runs(root)] == ["FINISHED"]


def test_the_key_of_a_spool_may_be_unknown(root, no_courier):
    """Without a key nothing is reopened."""
    lose(start(key=None))
    start(key=None).end("FINISHED")
    sync(root)
    assert [found.info.status for found in runs(root)] == ["KILLED", "FINISHED"]


def test_git_says_whether_anything_but_results_changed(root):
    """dvc.lock and data/ are what a stage changes itself; a changed source file makes the tree dirty."""
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    Path(".gitignore").write_text(".mlflow\n")
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *command], check=True)
    Path("dvc.lock").write_text("{}")
    assert tracking.git_tags()["git.dirty"] == "false"
    Path("stages.py").write_text("")
    assert tracking.git_tags()["git.dirty"] == "true"
    assert len(tracking.git_tags()["git.commit"]) == 40


@pytest.mark.service
def test_six_processes_open_a_cold_store_at_once(tmp_path):
    """The database is made by one of them and whole for all: each finds its run there."""
    code = (
        "import sys; from pathlib import Path; from pipeline import tracking\n"
        "with tracking.reach(Path.cwd()) as mlflow:\n"
        "    client = mlflow.MlflowClient()\n"
        "    client.create_run(tracking.experiment(client, 'digits'), run_name=sys.argv[1])"
    )
    env = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(k)], cwd=tmp_path, env=env | {"PYTHONPATH": str(ROOT)})
        for k in range(6)
    ]
    assert [process.wait() for process in processes] == [0] * 6
    assert sorted(found.info.run_name for found in runs(tmp_path)) == list("012345")
    state = json.dumps(sorted(path.name for path in (tmp_path / ".mlflow").iterdir()))
    assert state == '["lock", "mlflow.db"]'
