"""DVC's graph as the frame reads it. The keys are a contract with DVC's internals: a DVC that breaks it fails here."""

import hashlib
import json
import sys
import threading

import pytest
from toy_project import REPOSITORY, SCORES, STAGES, edit, make, run

from pipeline import graph, lock, repro
from pipeline.graph import StageError


def repro_all(root):
    return run(*repro.dvc("repro"), cwd=root)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A project that has run once; tests that change it work on a copy."""
    root = make(tmp_path_factory.mktemp("finished") / "project")
    repro_all(root)
    return root


@pytest.fixture
def project(finished, tmp_path):
    run("cp", "-r", "--preserve=timestamps", str(finished), str(tmp_path / "project"), cwd=tmp_path)
    return tmp_path / "project"


def content(path):
    """The md5 of a file or folder as DVC computes it; none of what is gone."""
    if not path.is_dir():
        return hashlib.md5(path.read_bytes()).hexdigest() if path.exists() else None
    files = {file.relative_to(path).as_posix(): file for file in path.rglob("*") if file.is_file()}
    listing = [{"md5": content(files[name]), "relpath": name} for name in sorted(files) if "__pycache__" not in name]
    return hashlib.md5(json.dumps(listing, sort_keys=True).encode()).hexdigest() + ".dir"


def actions(root):
    return {step.stage: step.action for step in graph.plan(root)}


def test_read_resolves_dvc_yaml(finished):
    """Stages come in running order, with their parameters, outputs and upstream stages resolved."""
    nodes = {node.name: node for node in graph.read(finished)}
    assert list(nodes) == STAGES
    assert nodes["prepare@d"].params == {"datasets.d": {"subset": None, "share": 1e-4, "budgets": {}}}
    assert nodes["pretrain@a"].deps == ["data/datasets/d/pixels"]
    assert nodes["pretrain@a"].upstream == ["prepare@d"]
    assert nodes["pretrain@a"].meta == {"retries": 1}
    assert nodes["report"].upstream == ["pretrain@a", "pretrain@b"]
    assert nodes["report"].outs == {"data/report/page": False, "data/report/results.json": True}


def test_the_lock_is_that_of_the_code():
    """The results that this repository shows were made by the code that it shows."""
    deps = {(dep["path"], dep["md5"]) for entry in lock.read(REPOSITORY).values() for dep in entry.get("deps", [])}
    code = {(path, md5) for path, md5 in deps if path.startswith("stages/")}
    assert code
    edited = sorted({path for path, md5 in code if content(REPOSITORY / path) != md5})
    assert edited == [], "differ from what dvc.lock records: run `dvc repro` and commit dvc.lock"


def test_keys_are_those_of_dvc(finished):
    """The key of a stage, from the working copy and from dvc.lock, is the name of DVC's own run-cache entry."""
    kept = {folder.name for folder in finished.glob(".dvc/cache/runs/*/*")}
    computed = {name: graph.identity(name, finished)[0] for name in STAGES}
    assert set(computed.values()) == kept
    assert {entry.stage: entry.key for entry in graph.lock_entries(finished)} == computed


def test_a_running_stage_knows_its_key(tmp_path):
    """What a stage computes about itself while DVC runs it is the key under which DVC then keeps it."""
    root = make(tmp_path / "project")
    code = f"import sys; sys.path.insert(0, {str(REPOSITORY)!r}); from pipeline import graph; " + (
        "import os; open('data/encoders/a', 'w').write(graph.identity(os.environ['DVC_STAGE'])[0])"
    )
    (root / "self.py").write_text(code)
    edit(root, "dvc.yaml", 'grep "  ${key}:" params.yaml > data/encoders/${key}', f"{sys.executable} self.py")
    run(*repro.dvc("repro", "pretrain@a"), cwd=root)
    key = (root / "data/encoders/a").read_text()
    assert (root / ".dvc/cache/runs" / key[:2] / key).is_dir()


def test_hashes_name_every_dependency(finished):
    """Each dependency has the md5 that dvc.lock records."""
    recorded = {dep["path"]: dep["md5"] for dep in lock.read(finished)["report"]["deps"]}
    assert graph.identity("report", finished)[1] == recorded


def test_producer_says_what_brings_a_path_back(finished):
    """A path inside an output comes from its stage, a source file from git."""
    assert graph.producer("data/datasets/d/pixels", finished) == "dvc repro prepare@d"
    assert graph.producer("code/pixels", finished) == "git checkout -- code/pixels"


@pytest.mark.parametrize("name", ["size", "nfiles"])
def test_parameters_that_dvc_does_not_see_are_refused(tmp_path, name):
    """DVC's run-cache ignores these names wherever they stand; a change would bring back outputs of another value."""
    root = make(tmp_path / "project")
    edit(root, "params.yaml", "{rate: 0.1,", f"{{input: [{{{name}: 3}}],")
    with pytest.raises(StageError, match=rf"runs\.a\.input\.{name}: .* give it another name"):
        graph.read(root)


def test_a_broken_dvc_yaml_is_a_sentence(tmp_path):
    """What DVC says of a bad dvc.yaml reaches the user as one error."""
    root = make(tmp_path / "project")
    edit(root, "dvc.yaml", "foreach: ${runs}", "foreach: ${trainings}")
    with pytest.raises(StageError, match="trainings"):
        graph.read(root)


def test_lock_entries_carry_the_recorded_metrics(project):
    """Numbers come from the metric file as long as it is the one that dvc.lock records."""
    assert graph.lock_entries(project)[-1].metrics == {"knn.top1.test": 0.5, "knn.top1.test.std": 0.1}
    (project / "data/report/results.json").unlink()  # it may be a link into the cache
    (project / "data/report/results.json").write_text(SCORES.replace("0.5", "0.9"))
    assert graph.lock_entries(project)[-1].metrics == {}


def test_flat_keeps_numbers_only():
    """A mean goes by the name of its group; lists, words and truth values are no metrics."""
    assert lock.flat({"a": {"mean": 1, "std": 2, "ok": True}, "mean": 3, "b": [4], "c": "five"}) == {
        "a": 1,
        "a.std": 2,
        "mean": 3,
    }


def test_status_is_dvcs_word(project):
    """An edited parameter is named; stages without changes have no status."""
    edit(project, "params.yaml", "rate: 0.1", "rate: 0.3")
    assert graph.status(project) == {"pretrain@a": ["runs.a modified"]}


def test_plan_of_a_finished_project_is_empty(finished):
    """Nothing is to do, and every key is known."""
    assert [(step.action, step.key) for step in graph.plan(finished)] == [
        ("nothing", graph.identity(name, finished)[0]) for name in STAGES
    ]


def test_status_of_what_never_ran(project):
    """Not a list of all that is new to it."""
    (project / "dvc.lock").unlink()
    assert graph.status(project) == {stage: ["has not run yet"] for stage in STAGES}


def test_plan_says_what_runs_and_why(project):
    """An edit makes its stage run, with the old and the new value; what follows may, or has to for its own edit."""
    edit(project, "params.yaml", "rate: 0.1", "rate: 0.3")
    steps = {step.stage: step for step in graph.plan(project)}
    assert steps["pretrain@a"].action == "run"
    assert steps["pretrain@a"].reasons == ["runs.a.rate: 0.1 → 0.3"]
    assert (steps["report"].action, steps["report"].reasons) == ("run", ["if pretrain@a comes out differently"])
    assert (steps["report"].key, steps["report"].certain) == (None, False)
    edit(project, "params.yaml", "study: toy", "study: other")
    [*_, report] = graph.plan(project)
    assert (report.reasons, report.certain) == (["study: toy → other"], True)
    assert steps["pretrain@b"].action == "nothing"


def test_plan_foresees_what_the_cache_restores(project):
    """Without outputs and lock the whole chain comes from the cache, as `dvc repro` then shows."""
    run("rm", "-rf", "data", "dvc.lock", cwd=project)
    assert set(actions(project).values()) == {"restore"}
    assert repro_all(project).count("is cached - skipping run") == len(STAGES)


@pytest.mark.parametrize("gone", [["data", "dvc.lock"], ["data"], ["data/encoders/a", "data/datasets"], []])
def test_plan_foresees_a_folder_of_outputs(tmp_path, gone):
    """A dependency on the folder in which several stages write: what is there, and what comes from the cache."""
    root = make(tmp_path / "project")
    edit(root, "dvc.yaml", "deps: [data/encoders/a, data/encoders/b]", "deps: [data/encoders, data/datasets]")
    edit(root, "dvc.yaml", "data/encoders/* >", "data/encoders/[ab] >")
    (root / "data/encoders").mkdir(parents=True)
    (root / "data/encoders/notes").write_text("of a person")
    repro_all(root)
    run("rm", "-rf", *gone, cwd=root)
    (root / "data/encoders").mkdir(parents=True, exist_ok=True)
    (root / "data/encoders/notes").write_text("of a person")
    planned = actions(root)
    said = repro_all(root)
    assert "run" not in planned.values()
    assert said.count("Running stage") == 0
    assert list(planned.values()).count("nothing") == said.count("didn't change, skipping")


def test_plan_runs_what_the_cache_has_lost(project):
    """A run-cache entry whose output is gone cannot be restored."""
    [encoder] = lock.read(project)["pretrain@a"]["outs"]
    (project / ".dvc/cache/files/md5" / encoder["md5"][:2] / encoder["md5"][2:]).unlink()
    (project / "data/encoders/a").unlink()
    assert actions(project) == {"prepare@d": "nothing", "pretrain@a": "run", "pretrain@b": "nothing", "report": "run"}


def test_checkout_restores_outputs_and_metrics(project):
    """Every file comes back, a metric as a file of its own: what git keeps must not be a link into the cache."""
    before = {path: path.read_bytes() for path in project.glob("data/**/*") if path.is_file()}
    run("rm", "-rf", "data", cwd=project)
    assert graph.checkout(project) == []
    assert {path: path.read_bytes() for path in project.glob("data/**/*") if path.is_file()} == before
    assert (project / "data/report/results.json").stat().st_nlink == 1
    assert json.loads(run(*repro.dvc("status", "--json"), cwd=project)) == {}


def test_checkout_names_what_it_cannot_restore(project):
    """A stage that dvc.lock does not have is left to be run."""
    edit(project, "params.yaml", "  b: {", "  c: {rate: 0.3}\n  b: {")
    assert graph.checkout(project) == ["pretrain@c"]


def test_select_takes_what_is_upstream(finished):
    """A command means all its stages, a stage brings what it depends on; an unknown name gets a suggestion."""
    nodes = graph.read(finished)
    assert [node.name for node in graph.select(nodes, ["pretrain"])] == STAGES[:3]
    assert [node.name for node in graph.select(nodes, [])] == STAGES
    assert graph.named(nodes, ["pretrain"]) == ["pretrain@a", "pretrain@b"]
    with pytest.raises(StageError, match="'pretrian@a'; did you mean 'pretrain@a'"):
        graph.select(nodes, ["pretrian@a"])


def test_a_lock_that_is_being_rewritten_is_read_again(tmp_path):
    """Another stage's DVC truncates dvc.lock before it writes it: a look in between waits for the whole file."""
    root = make(tmp_path / "project")
    whole = "schema: '2.0'\nstages: {}\n"
    (root / "dvc.lock").write_text("schema: '2.0'\nstages:\n  a: {cmd: 'x")
    timer = threading.Timer(0.3, lambda: (root / "dvc.lock").write_text(whole))
    timer.start()
    try:
        assert graph.read(root)
    finally:
        timer.join()
