"""`contrail use`: a study becomes the current one, a folder of images a link, and nothing is lost or left behind."""

import os
import subprocess
import sys

import folder_cases as cases
import pytest
from folder_cases import table
from toy_project import commit, run

from pipeline import params, recipes, repro
from pipeline.drafting.adopt import adopt
from pipeline.drafting.survey import FolderError
from pipeline.errors import Refusal


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """A project whose default study has not run."""
    return cases.project(tmp_path_factory.mktemp("clean") / "project")


@pytest.fixture
def project(clean, tmp_path):
    run("cp", "-r", "--preserve=timestamps", str(clean), str(tmp_path / "project"), cwd=tmp_path)
    return tmp_path / "project"


def start(folder, root, **options):
    return adopt(folder, root=root, **{"name": None, "labels": None, "group": None} | options)


def status(root):
    return run("git", "status", "--porcelain", cwd=root).splitlines()


def test_a_folder_becomes_the_current_study(project, tmp_path):
    """The folder is a link, the study it leaves is a recipe, the words say what to do; going back loses nothing."""
    images = cases.class_folders(tmp_path / "My Birds")
    before = (project / "params.yaml").read_text()
    lines = start(images, project)
    assert (project / "data/raw/my-birds").readlink() == images
    study = params.read(project / "params.yaml")
    params.check(study)
    assert study["study"] == "my-birds"
    assert study["datasets"]["my-birds"]["source"]["path"] == "data/raw/my-birds"
    assert (project / "recipes/digits/params.yaml").read_text() == before
    assert any("contrail run --quick" in line for line in lines)
    assert str(tmp_path) not in (project / "params.yaml").read_text()
    (project / "params.yaml").write_text((project / "params.yaml").read_text().replace("epochs: 200", "epochs: 7"))
    with pytest.raises(recipes.RecipeError, match=r"uncommitted changes in .*params\.yaml"):
        start(images, project)
    commit(project)
    recipes.use("digits", project)
    assert (project / "params.yaml").read_text() == before
    assert "epochs: 7" in (project / "recipes/my-birds/params.yaml").read_text()


@pytest.mark.parametrize(("folder", "name"), [("2024", "images-2024"), ("null", "images-null"), ("a: b #2", "a-b-2")])
def test_a_folder_may_be_called_anything(project, tmp_path, folder, name):
    """What YAML would read as a number, a word of its own or a comment, becomes a study that can be left again."""
    start(cases.unlabeled(tmp_path / folder), project)
    study = params.read(project / "params.yaml")
    params.check(study)
    assert [study["study"], *study["datasets"]] == [name, name]
    commit(project)
    recipes.use("digits", project)
    with pytest.raises(FolderError, match="--name 1e5: a name begins with a-z"):
        start(tmp_path / folder, project, name="1e5")


def test_images_below_a_folder_with_an_odd_name_are_found(project, tmp_path):
    """Its path is quoted where YAML would read another one."""
    cases.unlabeled(project / "data/raw/birds #2")
    start(project / "data/raw/birds #2", project, name="birds")
    assert params.read(project / "params.yaml")["datasets"]["birds"]["source"]["path"] == "data/raw/birds #2"


def test_looking_again_drafts_again(project, tmp_path):
    """With a table that came later the same study gets its labels; another folder does not take its name."""
    images = cases.unlabeled(tmp_path / "birds")
    start(images, project)
    assert params.read(project / "params.yaml")["finetunes"] == {}
    table(images / "labels.csv", ("file", "label"), *((f"{n}.png", "ab"[n % 2]) for n in range(40)))
    start(images, project)
    assert params.read(project / "params.yaml")["finetunes"] != {}
    with pytest.raises(FolderError, match=r"data/raw/birds is a link to .*birds: give another --name"):
        start(cases.unlabeled(tmp_path / "other"), project, name="birds")


def test_what_is_refused_leaves_nothing_behind(project, tmp_path):
    """A name that is taken or wrong, a folder that holds the repository, a folder that is none."""
    images = cases.unlabeled(tmp_path / "images")
    for folder, options, says in [
        (tmp_path / "nowhere", {}, "is not there"),
        (images, {"name": "My Birds"}, "a name begins with a-z, holds only"),
        (images, {"name": "folder"}, "another study called folder"),
        (images, {"name": "digits"}, "another study called digits"),
        (tmp_path, {}, "holds this repository"),
        (images, {"group": "patient"}, "neither a column"),
    ]:
        with pytest.raises(FolderError, match=says):
            start(folder, project, **options)
    assert status(project) == []
    assert not (project / "data" / "raw").exists()


def test_images_inside_the_data_folder_stay_where_they_are(project):
    """Nothing is linked, and the path is theirs."""
    cases.class_folders(project / "data" / "raw" / "birds-2024")
    start(project / "data" / "raw" / "birds-2024", project, name="birds")
    study = params.read(project / "params.yaml")
    assert study["datasets"]["birds"]["source"]["path"] == "data/raw/birds-2024"
    assert sorted(path.name for path in (project / "data" / "raw").iterdir()) == ["birds-2024"]


def test_images_among_the_outputs_are_refused(project):
    """The rest of data/ belongs to the stages, and `contrail check` would advise to remove what else is there."""
    cases.class_folders(project / "data" / "birds")
    with pytest.raises(FolderError, match=r"birds is among what the stages make: move it to data/raw/birds, or out of"):
        start(project / "data" / "birds", project)


def contrail(*arguments, cwd, root):
    environment = repro.environment(PYTHONPATH=str(root), OMP_NUM_THREADS="1")
    command = [sys.executable, "-m", "pipeline", *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def test_a_path_is_seen_from_where_the_command_is_given(project, tmp_path):
    """Relative paths of folder and table start in the directory of the shell, not at the root of the repository."""
    cases.flat_with_table(tmp_path / "birds")
    inside = project / "recipes"
    answer = contrail("use", "folder", "--path", "../../birds", "--labels", "labels.csv", cwd=inside, root=project)
    assert answer.returncode == 0, answer.stderr
    assert "45 labels of 3 classes in labels.csv" in answer.stdout
    assert os.readlink(project / "data/raw/birds") == str(tmp_path / "birds")  # noqa: PTH115  # as it is written


def test_options_belong_to_the_recipe_folder(project):
    """Another recipe takes none of them, and says so."""
    answer = contrail("use", "other", "--path", "x", cwd=project, root=project)
    assert answer.returncode == 1
    assert "error: --path belongs to `contrail use folder --path DIR`" in answer.stderr


def test_what_a_recipe_lacks_is_said_at_once(project):
    """Its images may not be there yet."""
    answer = contrail("use", "folder", cwd=project, root=project)
    assert answer.returncode == 0, answer.stderr
    assert "folder is the current study." in answer.stdout
    assert "inputs: not there: data/raw/images for prepare@images" in answer.stdout


def test_a_broken_recipe_is_refused_before_anything_is_copied(project):
    """What is wrong with it is said, and the current study stays."""
    text = (project / "recipes/folder/params.yaml").read_text()
    (project / "recipes/bad").mkdir()
    (project / "recipes/bad/params.yaml").write_text(text.replace("temperature: 0.5", "temprature: 0.5"))
    commit(project)
    before = status(project), (project / "params.yaml").read_text()
    answer = contrail("use", "bad", cwd=project, root=project)
    assert answer.returncode == 1
    assert "error: recipes/bad is broken, so nothing was changed: params.yaml: runs.simclr.method: " in answer.stderr
    assert "temprature" in answer.stderr
    assert (status(project), (project / "params.yaml").read_text()) == before


@pytest.mark.parametrize(
    ("old", "new"),
    [("study: digits", "study: digits: a"), ("study: digits", "stduy: digits"), ("datasets:\n", "sets:\n")],
    ids=["no YAML", "no study", "no stages"],
)
def test_a_broken_study_is_refused_with_the_way_back(project, tmp_path, old, new):
    """Whose stages cannot be told cannot be left, to another recipe or a folder; nothing is half done."""
    right = (project / "params.yaml").read_text()
    assert old in right
    (project / "params.yaml").write_text(right.replace(old, new, 1))
    commit(project)  # or the uncommitted changes were refused
    before = status(project), (project / "params.yaml").read_text()
    folder = cases.unlabeled(tmp_path / "birds")
    for leave in (lambda: recipes.use("folder", project), lambda: start(folder, project)):
        with pytest.raises(Refusal, match=r"the current study cannot be left: correct its params\.yaml, or `git"):
            leave()
    assert ([line for line in status(project) if ".dvc/" not in line], (project / "params.yaml").read_text()) == before
    assert not (project / "data/raw").exists()


@pytest.mark.service
@pytest.mark.parametrize("kind", ["nested_with_groups", "unlabeled", "many_classes"])  # two are parts of the first
def test_a_drafted_study_runs(project, tmp_path, kind):
    """From the folder to the report: every stage of the draft runs on a sliver."""
    cases.KINDS[kind](tmp_path / "birds")
    for verb in (["use", "folder", "--path", str(tmp_path / "birds")], ["check"], ["run", "--quick"]):
        answer = contrail(*verb, cwd=project, root=project)
        assert answer.returncode == 0, answer.stdout + answer.stderr
