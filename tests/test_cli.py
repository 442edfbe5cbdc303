"""The `contrail` command: verbs, errors, recipes, quick runs, the doctor."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from toy_project import PARAMS, REPOSITORY, STAGES, commit, edit, make, run
from typer.testing import CliRunner

from pipeline import cli, deploy, doctor, lock, params, plugins, quick, recipes, repro, where
from pipeline.errors import Refusal
from pipeline.recipes import RecipeError

VERBS = {
    *("check", "plan", "status", "run", "use", "fetch", "sync", "register", "promote", "rollback"),
    *("select", "label", "trace", "forget", "doctor", "deploy", "ui", "where"),
}


def contrail(root, *arguments):
    """The command as a process, as a person runs it."""
    return subprocess.run(
        [sys.executable, "-m", "pipeline", *arguments],
        cwd=root,
        env=repro.environment(PYTHONPATH=str(REPOSITORY)),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def project(tmp_path):
    return make(tmp_path / "project")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A project under git that has run and holds a second study as the recipe `other`."""
    root = make(tmp_path_factory.mktemp("finished") / "project", git=True)
    other = root / "recipes" / "other"
    other.mkdir(parents=True)
    other.joinpath("params.yaml").write_text(PARAMS.replace("study: toy", "study: other").replace("  b:", "  c:"))
    edit(root, "dvc.yaml", "cat data/encoders/*", "cat data/encoders/a")
    edit(root, "dvc.yaml", "deps: [data/encoders/a, data/encoders/b]", "deps: [data/encoders/a]")
    run(*repro.dvc("repro"), cwd=root)
    commit(root)
    return root


@pytest.fixture
def studies(finished, tmp_path):
    run("cp", "-r", "--preserve=timestamps", str(finished), str(tmp_path / "project"), cwd=tmp_path)
    return tmp_path / "project"


def files(root):
    return {path.relative_to(root): path.read_bytes() for path in root.glob("data/**/*") if path.is_file()}


def test_every_verb_is_listed_with_what_it_does():
    """The help names each verb and says something of it."""
    assert {command.name or command.callback.__name__ for command in cli.app.registered_commands} == VERBS
    assert all(command.callback.__doc__ for command in cli.app.registered_commands)


def test_the_command_starts_without_heavy_imports():
    """Nothing slow is imported before a verb needs it."""
    heavy = {"torch", "mlflow", "prefect", "dvc", "pandas", "sklearn", "numpy"}
    code = f"import sys, pipeline.cli; print({heavy} & sys.modules.keys())"
    assert run(sys.executable, "-c", code, cwd=REPOSITORY) == "set()\n"


def test_an_expected_error_is_one_sentence(project):
    """What a user did wrong ends with exit code 1 and no traceback."""
    answer = contrail(project, "run", "pretrian@a")
    assert answer.returncode == 1
    assert answer.stderr.startswith("error: dvc.yaml has no stage 'pretrian@a'; did you mean 'pretrain@a'?")
    assert answer.stderr.count("\n") == 1


def test_outside_of_a_project_it_says_so(tmp_path):
    """Without a dvc.yaml here or above there is nothing to work on."""
    answer = contrail(tmp_path, "plan")
    assert answer.returncode == 1
    assert "no dvc.yaml here or above" in answer.stderr


def test_plan_and_status_for_scripts(project, monkeypatch):
    """--json gives every stage with its action and reasons."""
    monkeypatch.chdir(project)
    steps = json.loads(CliRunner().invoke(cli.app, ["plan", "--json"]).stdout)
    assert [(step["stage"], step["action"]) for step in steps] == [(name, "run") for name in STAGES]
    status = json.loads(CliRunner().invoke(cli.app, ["status", "--json"]).stdout)
    assert (set(status["stages"]), status["data"]) == (set(STAGES), {})


def test_plan_for_people(project, monkeypatch):
    """A line a stage, aligned, and a count."""
    monkeypatch.chdir(project)
    lines = CliRunner().invoke(cli.app, ["plan"]).stdout.splitlines()
    assert lines[0] == "prepare@d   run  dvc.lock has no entry of it"
    assert lines[-1] == "4 of 4 stages would run, 0 would come from the cache"


def test_use_swaps_studies_there_and_back(studies):
    """Params, lock and results are swapped; outputs of the other study go; coming back needs no run at all."""
    before = files(studies)
    assert recipes.use("other", studies) == ["prepare@d", "pretrain@a", "pretrain@c", "report"]
    assert params.read(studies / "params.yaml")["study"] == "other"
    assert (studies / "recipes/toy/results.json").read_bytes() in before.values()
    assert not (studies / "dvc.lock").exists()
    assert not (studies / "data/encoders/b").exists()
    assert not (studies / "data/report/results.json").exists()
    assert recipes.use("toy", studies) == []
    assert files(studies) == before
    assert json.loads(run(*repro.dvc("status", "--json"), cwd=studies)) == {}


def test_use_takes_what_the_cache_knows(studies):
    """A study that ran once is complete after `use`, its metrics included, and both studies keep their results."""
    recipes.use("other", studies)
    run(*repro.dvc("repro"), cwd=studies)
    commit(studies)
    there = files(studies)
    recipes.use("toy", studies)
    assert recipes.use("other", studies) == []
    assert files(studies) == there


def test_use_refuses_to_lose_changes(studies):
    """An edit that git does not have would be lost."""
    edit(studies, "params.yaml", "rate: 0.1", "rate: 0.3")
    with pytest.raises(RecipeError, match=r"uncommitted changes in params\.yaml: commit"):
        recipes.use("other", studies)
    assert params.read(studies / "params.yaml")["runs"]["a"]["rate"] == 0.3


def test_use_never_writes_into_the_cache(studies):
    """The results file of the current study may be a link into DVC's cache: it is replaced, not written to."""
    results = studies / "data/report/results.json"
    [record] = [out for out in lock.read(studies)["report"]["outs"] if out["path"] == "data/report/results.json"]
    kept = studies / ".dvc/cache/files/md5" / record["md5"][:2] / record["md5"][2:]
    results.unlink()
    results.hardlink_to(kept)
    before = kept.read_bytes()
    (studies / "recipes/other/results.json").write_text("{}")
    recipes.use("other", studies)
    assert (results.read_text(), kept.read_bytes()) == ("{}", before)


def test_an_unknown_recipe_gets_a_suggestion(studies):
    """The message names the nearest recipe and lists all."""
    with pytest.raises(RecipeError, match=r"recipes/otter/params\.yaml; did you mean 'other'\? The recipes are other"):
        recipes.use("otter", studies)


def test_shrink_keeps_the_shape_of_a_study():
    """Few images, one seed, one epoch, a small batch that ranks can share and a queue holds; all else stays."""
    study = {
        "hardware": {"ranks": 3},
        "datasets": {
            "d": {"subset": None, "budgets": {"1pct": {"select": {"name": "official", "file": "x"}, "seeds": [3, 4]}}},
            "e": {"subset": 50, "budgets": {}},
        },
        "runs": {
            "a": {
                "method": {"temperature": 0.1, "queue": 100, "prototypes": [3000, 10]},
                "init": "data/encoders/a/seed-1/encoder.safetensors",
                "training": {"epochs": 100, "batch_size": 256, "warmup_epochs": 5},
                "seeds": [0, 1],
            }
        },
        "evaluations": {"a": {"run": "a", "dataset": "d", "probes": {"linear": {"steps": 13}}}},
        "finetunes": {"a": {"training": {"steps": 200, "batch_size": 16}}},
        "selections": {"next": {"evaluation": "a", "seed": 1, "images": 200}},
    }
    small = quick.shrink(study)
    listed = {"select": {"name": "per_class", "images": 1}, "seeds": [3]}
    assert small["datasets"] == {
        "d": {"subset": 200, "budgets": {"1pct": listed}},
        "e": {"subset": 50, "budgets": {}},
    }
    assert small["runs"]["a"] == {
        "method": {"temperature": 0.1, "queue": 90, "prototypes": [20, 10]},
        "init": "data/encoders/a/seed-0/encoder.safetensors",
        "training": {"epochs": 1, "batch_size": 30, "warmup_epochs": 5},
        "seeds": [0],
    }
    assert small["evaluations"] == study["evaluations"]
    assert small["finetunes"]["a"]["training"] == {"steps": 1, "batch_size": 16}
    assert small["selections"] == {"next": {"evaluation": "a", "seed": 0, "images": 20}}
    assert study["datasets"]["d"]["subset"] is None


def test_quick_runs_everything_elsewhere(studies):
    """The whole DAG runs on shrunk parameters in a copy, raw data is reached through a link, and nothing stays."""
    edit(studies, "dvc.yaml", "deps: [code]", "deps: [code, data/raw/photos]")
    edit(studies, "dvc.yaml", "cat code/pixels", "grep -h '' code/pixels data/raw/photos/one params.yaml")
    elsewhere = studies.parent / "photos"
    elsewhere.mkdir()
    (elsewhere / "one").write_text("photo")
    (studies / "data/raw").mkdir()
    (studies / "data/raw/photos").symlink_to(elsewhere)
    before, state = files(studies), run("git", "status", "--porcelain", cwd=studies)
    said = []
    assert quick.quick(studies, said.append)
    assert said[-1].startswith("4 of 4 stages ran")
    assert (files(studies), run("git", "status", "--porcelain", cwd=studies)) == (before, state)
    assert list((studies / ".scratch/quick").iterdir()) == []


def test_quick_keeps_the_copy_of_a_failure(studies):
    """What failed can be looked at, with what each stage printed."""
    edit(studies, "dvc.yaml", "mkdir -p data/datasets/${key} &&", "echo no light; false &&")
    said = []
    assert not quick.quick(studies, said.append)
    [copy] = (studies / ".scratch/quick").iterdir()
    assert said[-2].startswith("0 of 4 stages ran")
    assert str(copy) in said[-1]
    assert "no light" in (copy / "logs/prepare@d.log").read_text()


def test_the_doctor_names_strangers_and_stale_entries(studies):
    """Files that no stage makes, and lock entries of stages that are gone."""
    [finding] = doctor.strangers(studies)
    assert finding.state == "ok"
    (studies / "data/finetunes/older").mkdir(parents=True)
    (studies / "data/finetunes/.gitkeep").touch()
    [finding] = doctor.strangers(studies)
    assert finding.state == "ok", "a folder with nothing in it"
    (studies / "data/encoders/old").write_text("")
    (studies / "data/raw").mkdir()
    (studies / "data/raw/anything").write_text("")
    [finding] = doctor.strangers(studies)
    assert (finding.state, finding.words) == (
        "fault",
        "no stage of this study makes these, remove them: data/encoders/old",
    )
    edit(studies, "params.yaml", "  b: {", "  c: {")
    [finding] = doctor.stale(studies)
    assert (finding.state, "pretrain@b" in finding.words) == ("note", True)


def test_what_stops_a_run_in_the_end_stops_it_at_the_start(studies):
    """What nobody has put there, and results of a block that is gone: refused before any stage runs."""
    [finding] = doctor.missing(studies)
    assert finding.state == "ok"
    (studies / "code").rename(studies / "other")
    (studies / "data/encoders/old").write_text("")
    answer = contrail(studies, "run")
    assert answer.returncode == 1
    first, second = answer.stderr.splitlines()
    assert first == "error: inputs: not there: code for prepare@d; put it there, or `contrail fetch` the data set"
    assert second == "data: no stage of this study makes these, remove them: data/encoders/old"


def test_an_unfinished_forget_stops_a_run(studies):
    """Stages would read again what is to go; the same command goes on."""
    [finding] = doctor.forgetting(studies)
    assert finding.state == "ok"
    (studies / ".scratch").mkdir(exist_ok=True)
    (studies / ".scratch/forget.json").write_text('{"names": ["P3/a b.png", "P3/c.png"]}')
    answer = contrail(studies, "run")
    assert answer.returncode == 1
    says = "was interrupted: `contrail forget --image 'P3/a b.png'` finishes all of it"
    assert answer.stderr == f"error: forget: {says}\n"


def test_a_data_set_is_fetched_by_its_source_too(project, monkeypatch):
    """As the sentence about missing files names it; of two with one source it has to be said which."""
    fetched = []
    monkeypatch.chdir(project)
    monkeypatch.setattr(plugins, "fetcher", lambda source: lambda path: fetched.append((source, path)))
    block = "{source: {name: %s, path: data/raw/%s}}"
    named = [("train", "cifar10"), ("one", "stl10"), ("two", "stl10")]
    lines = [f"  {name}: {block % (source, name)}" for name, source in named]
    (project / "params.yaml").write_text("\n".join(["study: a", "datasets:", *lines]))
    for what in ("train", "cifar10", "two"):
        cli.fetch(what)
    assert fetched == [("cifar10", "data/raw/train")] * 2 + [("stl10", "data/raw/two")]
    with pytest.raises(Refusal, match="2 data sets have the source 'stl10', say which: one, two"):
        cli.fetch("stl10")
    with pytest.raises(Refusal, match=r"has no data set 'trian'; did you mean 'train'\? It has train, one, two"):
        cli.fetch("trian")


def test_nothing_is_missing_before_the_first_run(tmp_path):
    """What a stage reads is made by others, also where it is the folder of all that they make."""
    root = make(tmp_path / "project")
    edit(root, "dvc.yaml", "deps: [data/encoders/a, data/encoders/b]", "deps: [data/encoders]")
    [finding] = doctor.missing(root)
    assert finding.state == "ok", finding.words


def test_check_says_what_would_stop_a_run(monkeypatch, capsys):
    """The file may be right and a run fail all the same."""
    monkeypatch.setattr(cli, "_obstacles", lambda: ["inputs: not there: x"])
    cli.check()
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("params.yaml is fine: ")
    assert second == "but a run would fail, inputs: not there: x"


def test_the_doctor_frees_no_space_that_is_needed(tmp_path, monkeypatch):
    """What it advises to remove are copies of failed quick runs and attempts before the newest, never DVC's cache."""
    monkeypatch.setattr(doctor, "LOW_DISK", float("inf"))
    [finding] = doctor.disk(tmp_path)
    assert ".scratch holds nothing old" in finding.words
    for age, name in enumerate(("pretrain@a/new", "pretrain@a/old", "pretrain@b/only")):
        folder = tmp_path / ".scratch" / name
        folder.mkdir(parents=True)
        (folder / "identity.json").write_text("{}")
        os.utime(folder / "identity.json", (0, -age))
    for name in ("quick/20260101-000000", "tracking"):
        (tmp_path / ".scratch" / name).mkdir(parents=True)
    [finding] = doctor.disk(tmp_path)
    assert "`rm -r .scratch/pretrain@a/old .scratch/quick/20260101-000000` frees 0.0 GB" in finding.words
    assert "gc" not in finding.words


def test_clean_keeps_what_is_not_delivered(tmp_path):
    """`make clean` empties .scratch apart from tracking; where there is no .scratch it has nothing to do."""
    shutil.copyfile(REPOSITORY / "Makefile", tmp_path / "Makefile")
    run("make", "clean", cwd=tmp_path)
    for name in ("tracking", "pretrain@a", "quick"):
        (tmp_path / ".scratch" / name).mkdir(parents=True)
        (tmp_path / ".scratch" / name / "file").touch()
    (tmp_path / ".scratch" / "tracked").touch()
    run("make", "clean", cwd=tmp_path)
    assert list(tmp_path.glob(".scratch/*")) == [tmp_path / ".scratch/tracking"]
    assert (tmp_path / ".scratch/tracking/file").exists()


def test_the_pages_of_a_store_elsewhere_are_not_served_here(tmp_path, monkeypatch):
    """MLFLOW_TRACKING_URI may name a server: then only Prefect's is started, else MLflow's on the store."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://name:secret@tracking.example")
    assert list(deploy._commands(tmp_path)) == ["prefect"]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////elsewhere.db")
    assert "sqlite:////elsewhere.db" in deploy._commands(tmp_path)["mlflow"]
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert f"sqlite:///{tmp_path}/.mlflow/mlflow.db" in deploy._commands(tmp_path)["mlflow"]


def test_the_doctor_compares_versions(tmp_path):
    """A package outside its range or absent is a fault, one that is not the tested version a note."""
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nname = "x"\nrequires-python = ">=3.11"\ndependencies = ["dvc<2", "nonesuch>=1", "pytest>=8"]\n'
    )
    found = {finding.what: finding for finding in doctor.ranges(tmp_path)}
    states = {what: finding.state for what, finding in found.items()}
    assert states == {"python": "ok", "dvc": "fault", "nonesuch": "fault", "pytest": "ok"}
    assert found["nonesuch"].words == "is not installed: pip install 'nonesuch>=1'"
    (tmp_path / "constraints.txt").write_text("# tested\npytest==1.0\n")
    [finding] = doctor.pins(tmp_path)
    assert (finding.state, "instead of 1.0" in finding.words) == ("note", True)


def score(mean, std, n, labels):
    return {"test": {"mean": mean, "std": std, "n": n}, "labels_used": labels}


def test_the_scores_are_a_table(project):
    """A line for each row in the order of the study, a column for each headline score, with the labels it used."""
    scores = {
        "b": {"knn.top1": score(0.5, 0.0, 1, 1095), "linear.top1": score(0.61, 0.0, 1, 1095)},
        "a": {
            "knn.top1": score(0.9735, 0.0031, 3, 1095),
            "knn.macro_f1": score(0.9, 0.1, 3, 1095),
            "finetune.few.top1": score(0.8, 0.1, 9, 10),
        },
    }
    study = {"evaluations": {"a": {}, "b": {}}, "finetunes": {"a": {"budgets": ["few", "all"]}}}
    assert where.drawn(scores, study) == [
        "top-1 on test, %  kNN         linear  fine-tuned few",
        "labels            1,095       1,095   10",
        "a                 97.4 ± 0.3  –       80.0 ± 10.0",
        "b                 50.0        61.0    –",
    ]
    assert where.drawn({}, study) == where.drawn({**scores, "c": {}}, study) == []
    (project / "data/report").mkdir(parents=True)
    (project / "data/report/results.json").write_text(json.dumps(scores))
    sections = "".join(f"{name}: {json.dumps(block)}\n" for name, block in study.items())
    (project / "params.yaml").write_text((project / "params.yaml").read_text() + sections)
    assert where.results(project)[:4] == where.drawn(scores, study)


def test_published_outputs_are_compared_with_the_last_commit(studies):
    """Equal bytes are counted; a difference has its reason, or is laid at the machine's door."""
    theirs = lock.read(studies)
    assert where.compare(theirs, theirs) == ["5 of 5 outputs are, byte for byte, those of the last commit"]
    ours = json.loads(json.dumps(theirs))
    ours["pretrain@a"]["outs"][0]["md5"] = "0"
    ours["pretrain@b"]["outs"][0]["md5"] = "0"
    ours["pretrain@b"]["params"]["params.yaml"]["runs.b"]["rate"] = 0.3
    count, first, second = where.compare(theirs, ours)
    assert count.startswith("3 of 5")
    assert first == f"pretrain@a: data/encoders/a differ: {where.ELSEWHERE}"
    assert second.endswith("runs.b.rate: 0.2 → 0.3")
    assert len(where.words(studies)) == 1  # nothing to compare before there is a report
    (studies / "data/report").mkdir(parents=True, exist_ok=True)
    (studies / "data/report/index.html").touch()
    assert "5 of 5" in where.words(studies)[1]
    edit(studies, "params.yaml", "study: toy", "study: mine")
    assert where.words(studies)[1] == "the last commit holds another study, toy: there is nothing to compare with"
