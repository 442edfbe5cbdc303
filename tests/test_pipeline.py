"""Claims about the pipeline as a whole, shown on a small study of real digits in a copy of the project.

- every stage runs; running again runs nothing; forcing everything gives the same bytes, also on one core
- only what an edit can change becomes stale
- a killed training resumes and ends in the same bytes
- inputs edited during a run are an error that keeps the work; restoring them completes it without training
- a tracker that is down costs nothing; bad input is one sentence with exit code 1
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from study_copy import Study

from pipeline import params, quick

STAGES = {"prepare@digits", "pretrain@simclr", "pretrain@supervised", "pretrain@random", "report"} | {
    f"{stage}@{row}" for stage in ("embed", "evaluate") for row in ("simclr", "supervised", "random")
}
STAGES |= {"finetune@simclr", "finetune@random"}


def small(values: dict) -> dict:
    """The shipped study on 200 images, with two seeds and a few epochs."""
    values = quick.shrink(values)
    for section in ("runs", "evaluations"):
        del values[section]["pixels"]
    values["runs"]["simclr"]["seeds"] = [0, 1]
    values["runs"]["simclr"]["training"] |= {"epochs": 40, "batch_size": 32, "monitor_epochs": 20}
    values["runs"]["supervised"]["training"] |= {"epochs": 2, "batch_size": 32}
    return values


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Study:
    """The small study, run once by `dvc repro`."""
    folder = tmp_path_factory.mktemp("study") / "project"
    quick._copy(root, folder)
    (folder / "params.yaml").write_text(json.dumps(small(params.read(root / "params.yaml"))))
    study = Study(folder)
    study.first = study.repro()
    return study


def test_every_stage_runs_and_leaves_what_it_declares(study: Study, root: Path) -> None:
    """The lock names every stage, and the results follow the published schema."""
    assert set(study.lock) == STAGES
    schema = json.loads((root / "tests" / "scores.schema.json").read_text())
    results = json.loads((study.folder / "data/report/results.json").read_text())
    jsonschema.validate(results, {**schema, "$ref": "#/$defs/results"})
    assert list(results) == ["simclr", "supervised", "random"]
    assert results["simclr"]["finetune.10pct.top1"]["test"]["n"] == 2


def test_running_again_runs_nothing(study: Study) -> None:
    """`dvc repro` after `dvc repro` is up to date."""
    assert "Running stage" not in study.repro()
    assert study.stale == set()


def test_forcing_every_kind_of_stage_gives_the_same_bytes(study: Study) -> None:
    """`dvc repro -f` on one core of the same machine gives a lock of equal content."""
    before = study.lock
    core = str(min(os.sched_getaffinity(0)))
    row = [f"{stage}@simclr" for stage in ("pretrain", "embed", "evaluate", "finetune")]
    done = study.run("taskset", "-c", core, "dvc", "repro", "-f", "--single-item", "prepare@digits", *row, "report")
    assert done.returncode == 0, done.stdout + done.stderr
    assert study.lock == before


def test_an_edit_of_the_frame_makes_nothing_stale(study: Study) -> None:
    """Nothing in pipeline/ can change a number."""
    for file in sorted((study.folder / "pipeline").glob("*.py")):
        file.write_text(file.read_text() + "\n# edited\n")
    assert study.stale == set()


def test_an_edit_of_a_method_makes_its_run_stale_and_what_follows(study: Study) -> None:
    """stages/methods/simclr.py matters to `simclr` and to nothing else."""
    text = (study.folder / "stages/methods/simclr.py").read_text()
    with study.edited("stages/methods/simclr.py", text + "\n# edited\n"):
        assert study.stale == {"pretrain@simclr"}
    assert study.downstream("pretrain@simclr") == {
        "pretrain@simclr", "embed@simclr", "evaluate@simclr", "finetune@simclr", "report"
    }  # fmt: skip


def test_a_probe_parameter_retrains_nothing(study: Study) -> None:
    """Another k makes the evaluation stale, and neither a training nor an embedding."""
    values = json.loads((study.folder / "params.yaml").read_text())
    values["evaluations"]["simclr"]["probes"]["knn"]["k"] = 5
    with study.edited("params.yaml", json.dumps(values)):
        assert study.stale == {"evaluate@simclr", "report"}


def test_a_new_label_retrains_only_what_sees_labels(study: Study) -> None:
    """A label that was unknown changes the evaluation, the fine-tuning and `supervised`, not `simclr`."""
    folder = study.folder / "data/datasets/digits"
    kept = study.folder / "kept"
    shutil.copytree(folder, kept)
    try:
        for name in ("labels.parquet", "pretrain/labels.parquet"):
            table = pq.read_table(folder / name).to_pylist()
            (folder / name).unlink()  # a link into the cache
            pq.write_table(pa.Table.from_pylist(table[1:]), folder / name)
        stale = {name for name in study.stale if not name.startswith("prepare")}
    finally:
        shutil.rmtree(folder)
        kept.rename(folder)
    assert stale == {f"evaluate@{row}" for row in ("simclr", "supervised", "random")} | {
        "finetune@simclr", "finetune@random", "pretrain@supervised", "report"
    }  # fmt: skip


def test_labels_outside_a_budget_change_no_score_of_it(study: Study) -> None:
    """Every train label that no budget grants is another one: the fine-tuning scores stay."""
    folder = study.folder / "data/datasets/digits"
    granted = {row["id"] for file in (folder / "budgets").glob("*.parquet") for row in pq.read_table(file).to_pylist()}
    split = {row["id"]: row["split"] for row in pq.read_table(folder / "splits.parquet").to_pylist()}
    before = (study.folder / "data/finetunes/random.json").read_text()
    kept = (folder / "labels.parquet").read_bytes()
    table = pq.read_table(folder / "labels.parquet").to_pylist()
    changed = [row for row in table if split[row["id"]] == "train" and row["id"] not in granted]
    for row in changed:
        row["label"] = (row["label"] + 1) % 10
        row["name"] = str(row["label"])
    assert len(changed) > 50
    (folder / "labels.parquet").unlink()
    try:
        pq.write_table(pa.Table.from_pylist(table), folder / "labels.parquet")
        done = study.run(sys.executable, "-m", "stages.finetune", "random")
        after = (study.folder / "data/finetunes/random.json").read_text()
    finally:
        (folder / "labels.parquet").write_bytes(kept)
    assert done.returncode == 0, done.stderr
    assert after == before
    study.repro()


def wait_for(study: Study, stage: str, pattern: str, process: subprocess.Popen[str]) -> None:
    """Until a file that matches `pattern` stands in the scratch folder of a stage."""
    while not list((study.folder / ".scratch" / stage).glob(pattern)):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("stage", "begun", "done", "kind"),
    [
        ("pretrain@simclr", "seed-1/*.pt", "seed-0:", signal.SIGKILL),
        ("pretrain@simclr", "seed-1/*.pt", "seed-0:", signal.SIGTERM),
        ("finetune@simclr", "10pct-*/*.pt", "1pct-draw-0-seed-0:", signal.SIGKILL),
    ],
)
def test_a_killed_training_resumes_to_the_same_bytes(
    study: Study, stage: str, begun: str, done: str, kind: signal.Signals
) -> None:
    """Stopped half-way by any signal, `dvc repro` does not repeat what is done and ends in the recorded md5."""
    before = study.lock[stage]
    process = study.start("dvc", "repro", "-f", "--single-item", stage)
    wait_for(study, stage, f"*/state/{begun}", process)
    os.killpg(process.pid, kind)
    output = process.communicate()[0]
    assert process.returncode != 0
    if kind != signal.SIGKILL:
        assert "goes on from here" in output
    resumed = study.repro("-f", "--single-item", stage)
    assert done not in resumed
    assert study.lock[stage] == before


def test_inputs_edited_during_a_run_are_refused_and_the_work_is_kept(study: Study) -> None:
    """The error names the file; restoring it completes the stage without a training step."""
    before = study.lock["pretrain@simclr"]
    text = (study.folder / "stages/methods/simclr.py").read_text()
    process = study.start("dvc", "repro", "-f", "--single-item", "pretrain@simclr")
    wait_for(study, "pretrain@simclr", "*/state/seed-0/*.pt", process)
    with study.edited("stages/methods/simclr.py", text + "\n# edited\n"):
        output = process.communicate()[0]
        assert process.returncode != 0
        assert "inputs changed during the run: stages/methods/simclr.py" in output
    restored = study.repro("--single-item", "pretrain@simclr")
    assert "seed-" not in restored
    assert study.lock["pretrain@simclr"] == before
    assert study.stale == set()


def test_parameters_edited_during_a_run_are_refused(study: Study) -> None:
    """Only the stage's own parameters count: another run's may be edited meanwhile."""
    values = json.loads((study.folder / "params.yaml").read_text())
    values["runs"]["supervised"]["training"]["epochs"] = 3
    values["finetunes"]["random"]["training"]["steps"] = 2
    process = study.start("dvc", "repro", "-f", "--single-item", "finetune@random")
    wait_for(study, "finetune@random", "*/state/*", process)
    with study.edited("params.yaml", json.dumps(values)):
        output = process.communicate()[0]
    assert "inputs changed during the run: params.yaml: finetunes.random" in output
    assert "supervised" not in output
    study.repro("--single-item", "finetune@random")


def test_a_tracker_that_is_down_costs_nothing(study: Study) -> None:
    """With an unreachable store the stage finishes, warns once, and keeps what it would have sent."""
    unreachable = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    output = study.repro("-f", "--single-item", "evaluate@random", **unreachable)
    assert output.count("contrail sync") == 1
    assert list((study.folder / ".scratch/tracking").glob("evaluate@random*.jsonl"))


def test_outputs_that_cannot_be_written_say_how_to_get_the_old_ones_back(study: Study) -> None:
    """A file where a folder should be is an OSError: the sentence gives the commands, the work is kept."""
    scores = study.folder / "data/scores"
    scores.rename(study.folder / "aside")
    try:
        scores.write_text("in the way")
        done = study.run(sys.executable, "-m", "stages.evaluate", "random")
    finally:
        scores.unlink()
        (study.folder / "aside").rename(scores)
    assert done.returncode == 1
    assert "could not write" in done.stderr
    assert "dvc checkout data/predictions/random.parquet" in done.stderr
    assert "git checkout -- data/scores/random.json" in done.stderr
    assert study.run(sys.executable, "-m", "stages.evaluate", "random").returncode == 0
    study.repro()


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        (["stages.evaluate", "simclrr"], "params.yaml has no such item. The stages are evaluate@simclr"),
        (["stages.pretrain"], "params.yaml has no such item. The stages are pretrain@simclr"),
    ],
)
def test_an_unknown_item_lists_the_known_ones(study: Study, command: list[str], sentence: str) -> None:
    """A command with a wrong or no item says which there are."""
    done = study.run(sys.executable, "-m", *command)
    assert done.returncode == 1
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_earlier_stage_is_named(study: Study) -> None:
    """Without features, `evaluate` says which command makes them."""
    features = study.folder / "data/features/random"
    features.rename(study.folder / "aside")
    try:
        done = study.run(sys.executable, "-m", "stages.evaluate", "random")
    finally:
        (study.folder / "aside").rename(features)
    assert done.returncode == 1
    assert "data/features/random is missing: run `dvc repro embed@random` first" in done.stderr


def test_a_stranger_in_data_is_named(study: Study) -> None:
    """The report refuses a score of no run in params.yaml."""
    stranger = study.folder / "data/scores/forgotten.json"
    stranger.write_text("{}")
    try:
        done = study.run("dvc", "repro", "-f", "--single-item", "report")
    finally:
        stranger.unlink()
    assert done.returncode != 0
    assert "data/scores/forgotten.json" in done.stdout + done.stderr
    study.repro()


@pytest.mark.service
def test_a_consumer_needs_neither_this_project_nor_torchvision(study: Study, tmp_path: Path) -> None:
    """In a second environment, without unpickling, the registered model gives the features that `embed` saved."""
    assert study.run(sys.executable, "-m", "pipeline", "register", "simclr").returncode == 0
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    [ours] = [Path(path) for path in sys.path if path.endswith("site-packages")]
    [theirs] = environment.glob("lib/python*/site-packages")
    for package in ours.iterdir():
        if not package.name.startswith(("torchvision", "contrail", "__editable__", "__pycache__")):
            (theirs / package.name).symlink_to(package)
    script = tmp_path / "consume.py"
    script.write_text(
        "import importlib.util, mlflow, numpy as np\n"
        "assert not any(map(importlib.util.find_spec, ('torchvision', 'pipeline', 'stages')))\n"
        "encoder = mlflow.pyfunc.load_model('models:/digits-encoder@candidate')\n"
        f"np.save('features.npy', encoder.predict(np.load(r'{study.folder}/data/datasets/digits/images/pixels.npy')))\n"
    )
    done = subprocess.run(
        [environment / "bin" / "python", script],
        cwd=tmp_path,
        env={
            "PATH": os.environ["PATH"],
            "OMP_NUM_THREADS": "1",
            "MLFLOW_TRACKING_URI": f"sqlite:///{study.folder}/.mlflow/mlflow.db",
            "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    expected = np.load(study.folder / "data/features/simclr/seed-0.npy")
    assert np.array_equal(np.load(tmp_path / "features.npy"), expected)
