"""The recipes: each is a study that is right, stays small enough to be seen as a whole, and says what it aims at."""

import re

import pytest
import torch
from ruamel.yaml import YAML
from toy_project import REPOSITORY

from pipeline import params, plugins
from stages.views._draws import Source
from stages.views._operations import Pixels

FOLDERS = sorted((REPOSITORY / "recipes").glob("*/params.yaml"))
PUBLISHED = {  # recipe → a number that it aims at, and whose it is
    "cifar10": ("84.8 %", "lightly"),
    "cifar100": ("65.78 %", "solo-learn"),
    "stl10": ("74.45 %", "sthalles/SimCLR"),
    "eurosat": ("98.57 %", "Helber"),
    "imagenet": ("64.5 %", "google-research/simclr"),
    "histology": ("86.41 %", "Kawai"),
}
STAGES = 150  # of a study, at most
ELSEWHERE = re.compile(r"(?<![\w.])(?:/(?:home|mnt|tmp|work|root|data|scratch|Users)\b|~/|\.\./|[A-Z]:\\)")

every_recipe = pytest.mark.parametrize("path", FOLDERS, ids=lambda path: path.parent.name)


def head(path):
    """The first comment of a recipe, as one line."""
    lines = path.read_text().partition("\nstudy:")[0].splitlines()
    return " ".join(line.removeprefix("# ") for line in lines)


def leaves(tree, place=()):
    """Every value with its place."""
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        if isinstance(value, dict | list):
            yield from leaves(value, (*place, key))
        else:
            yield (*place, key), value


def test_the_recipes_that_are_promised_are_there():
    """Those with a published number, the one for folders, and the small ones."""
    assert {*PUBLISHED, "folder", "cifar10-quick"} <= {path.parent.name for path in FOLDERS}


@every_recipe
def test_a_recipe_is_a_study_that_is_right(path):
    """Params.yaml is accepted as a whole, and its study is called as its folder is."""
    study = params.read(path)
    params.check(study)
    assert study["study"] == path.parent.name


@every_recipe
def test_a_recipe_has_few_stages(path):
    """Counted by the `foreach` of dvc.yaml, a study has at most 150."""
    study = params.read(path)
    stages = YAML(typ="safe").load(REPOSITORY / "dvc.yaml")["stages"].values()
    sections = [stage["foreach"][2:-1] for stage in stages if "foreach" in stage]
    assert {"datasets", "runs", "evaluations", "finetunes"} <= set(sections)
    count = sum(len(study[section]) for section in sections) + len(stages) - len(sections)
    assert 4 < count <= STAGES


@every_recipe
def test_a_recipe_knows_no_machine(path):
    """No absolute path, none outside of the repository, neither in a value nor in a comment; data is in data/raw."""
    assert not ELSEWHERE.findall(path.read_text())
    study = params.read(path)
    for place, value in leaves(study):
        assert not str(value).startswith(("/", "~")), place
    for block in study["datasets"].values():
        assert block["source"]["path"].startswith(("data/raw/", "stages/datasets/"))


@pytest.mark.parametrize(("name", "number", "source"), [(name, *aim) for name, aim in PUBLISHED.items()])
def test_a_recipe_says_what_it_aims_at(name, number, source):
    """The first comment has the published number, whose it is, and where the files come from."""
    path = REPOSITORY / "recipes" / name / "params.yaml"
    words = head(path)
    assert number in words
    assert source in words
    assert "The files: " in words
    for dataset, block in params.read(path)["datasets"].items():
        module = (REPOSITORY / "stages" / "datasets" / f"{block['source']['name']}.py").read_text()
        assert ("\ndef fetch(" in module) == (f"contrail fetch {dataset}`" in words)


@every_recipe
def test_the_views_of_a_recipe_can_be_made(path):
    """At the side of its run, every view policy makes its views: a kernel that is too wide would be refused here."""
    study = params.read(path)
    runs = [(run["views"], run["input"]["side"]) for run in study["runs"].values()]
    runs += [(block["views"], study["runs"][block["run"]]["input"]["side"]) for block in study["finetunes"].values()]
    images, source = Pixels(torch.zeros(2, 64, 64, 3, dtype=torch.uint8), None), Source(0, 0, torch.arange(2))
    for views, side in {str(run): run for run in runs}.values():
        made = plugins.partial_of(plugins.specify("views", views, "views"))(images, source, side)
        assert made[0].shape[-1] == side


def test_tissue_is_never_gray():
    """The recipe for histology takes its own views, which know no grayscale, and keeps patients whole and private."""
    study = params.read(REPOSITORY / "recipes" / "histology" / "params.yaml")
    views = study["runs"]["simclr"]["views"]
    assert (views["name"], views["quarter_turns"], views["vertical_flip"]) == ("histology", True, 0.5)
    assert "grayscale" not in views
    [tiles] = study["datasets"].values()
    assert tiles["source"]["group"] == "patient_id"
    assert study["private"] is True
