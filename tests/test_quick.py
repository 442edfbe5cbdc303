"""`contrail run --quick`: a sliver of a study on which every stage can be tried.

1. Whatever the source: each of its classes has a train image, validation and test have labels.
2. Budgets, weights and studies that a sliver of other images would leave in the lurch.
"""

import copy
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from params_study import STUDY, written
from toy_project import commit, edit, make

from pipeline import quick, sliver
from stages.datasets import _split
from stages.datasets._images import Images


def source(labels, split=None, groups=None):
    """Images of one pixel with these labels, and with a split and groups of their own."""
    count = len(labels)
    names = [f"c{number}" for number in range(max(labels) + 1)]
    pixels = np.zeros((count, 1, 1, 3), np.uint8)
    return Images(pixels, [f"{row}.png" for row in range(count)], np.array(labels), names, split, groups)


def unlabeled_tail(classes, known, count):
    return [row % classes if row < known else -1 for row in range(count)]


SOURCES = {
    "a hundred classes of 12": source([row % 100 for row in range(1200)]),
    "a thousand classes": source([row % 1000 for row in range(50_000)]),
    "an own test split": source([row % 100 for row in range(6000)], split=np.repeat(["train", "test"], [5000, 1000])),
    "few labels": source(unlabeled_tail(10, 400, 20_000)),
    "own split, few labels": source(
        unlabeled_tail(10, 1300, 20_000), split=np.tile(np.repeat(["train", "test"], 10), 1000)
    ),
    "patients": source(
        [row // 40 % 5 for row in range(4000)], groups=np.array([f"p{row // 40}" for row in range(4000)])
    ),
    "one rare class": source([row % 500 // 499 for row in range(10_000)]),
    "ten images": source([0, 1] * 5),
}


@pytest.mark.parametrize("name", [name for name in SOURCES if name != "ten images"])
def test_a_sliver_can_be_judged(name):
    """With nearly every seed of the split, and with two labels of each class that train images could grant."""
    whole = SOURCES[name]
    found = _split.occurring(whole.take(sliver.rows(whole, quick.IMAGES)))
    assert 100 <= len(found) <= quick.IMAGES
    assert 2 <= len(found.classes) <= sliver.CLASSES
    keys = pa.array(found.ids if found.groups is None else found.groups)
    test = 0.2 if whole.split is None else "own"
    bad = 0
    for seed in range(200):
        splits = _split.assign(keys, found.split, validation=0.2, test=test, seed=seed)
        train = np.bincount(found.labels[(splits == "train") & (found.labels >= 0)], minlength=len(found.classes))
        bad += bool(_split.unjudged(found.labels, splits, found.classes)) or train.min() < quick.CHOSEN
    assert bad <= 2


def test_a_sliver_keeps_what_there_is():
    """A small source is taken whole; images without a label stay in, and the same ones are taken each time."""
    few = SOURCES["ten images"]
    assert sliver.rows(few, quick.IMAGES) == list(range(10))
    assert (SOURCES["few labels"].labels[sliver.rows(SOURCES["few labels"], 200)] < 0).sum() == 50
    assert sliver.rows(SOURCES["patients"], 99) == sliver.rows(SOURCES["patients"], 99)
    none = source([0, 0])
    assert len(sliver.rows(SimpleNamespace(labels=none.labels - 1, split=None, groups=None), 1)) == 1


def test_the_copy_takes_a_sliver_of_each_source(tmp_path):
    """The source is what it was, inside another one that only the copy has; the study is right with it there."""
    study = written(tmp_path, STUDY)
    small = quick._slivers(quick.shrink(study), tmp_path / "copy")
    assert (tmp_path / "copy/stages/datasets/sliver.py").read_text().startswith('"""A few images of another source')
    for name, block in small["datasets"].items():
        before = study["datasets"][name]["source"]
        assert block["source"] == {"name": "sliver", "path": before["path"], "of": before, "images": block["subset"]}


def test_a_budget_that_a_probe_chooses_in_has_labels_to_choose_by(tmp_path):
    """One label of each class, all that a percent of a sliver gives, would be refused by few_labels."""
    study = copy.deepcopy(written(tmp_path, STUDY))
    [row, *_] = study["evaluations"].values()
    budgets = study["datasets"][row["dataset"]]["budgets"]
    for name in ("chosen_in", "other"):
        budgets[name] = {"select": {"name": "balanced", "share": 0.01}, "seeds": [0]}
    row["probes"]["few"] = {"name": "few_labels", "budget": "chosen_in"}
    small = quick.shrink(study)["datasets"][row["dataset"]]["budgets"]
    assert small["chosen_in"]["select"] == {"name": "per_class", "images": 2}
    assert small["other"]["select"] == {"name": "balanced", "share": 0.01}


def test_weights_that_git_ignores_are_in_the_copy(tmp_path):
    """What a stage reads and none makes is linked, wherever it lies."""
    root = make(tmp_path / "project", git=True)
    edit(root, "dvc.yaml", "deps: [data/datasets/d/pixels]", "deps: [data/datasets/d/pixels, weights/start.pt]")
    edit(root, "dvc.yaml", "mkdir -p data/encoders &&", "mkdir -p data/encoders && cat weights/start.pt &&")
    (root / ".gitignore").write_text((root / ".gitignore").read_text() + "weights\n")
    (root / "weights").mkdir()
    (root / "weights/start.pt").write_text("1")
    commit(root)
    said = []
    assert quick.quick(root, said.append), said
