"""The params.yaml that `contrail use folder` writes.

1. Sizes, budgets and gates fit what was found, and every draft is a params.yaml that is right.
2. Filling in a template changes nothing but what is asked for.
"""

from collections import Counter

import folder_cases as cases
import numpy as np
import pyarrow as pa
import pytest
from drafts import CPU, GPU, drafted, look, parsed
from folder_cases import picture

from pipeline import params
from pipeline.drafting import draft, findings, survey
from pipeline.drafting.template import filled, scalar
from stages.datasets import _split

CALM = {"labels": {}, "parts": {}, "groups": 0, "files": 1000, "size": (32, 32)}


def made_up(**changes):
    """A survey of images of one size, as if it had been made."""
    facts = CALM | changes
    facts.setdefault("loose", facts["labels"])
    size = facts.pop("size")
    counts = {"kinds": Counter(PNG=99), "treatments": Counter(), "unusable": facts.pop("unusable", Counter())}
    source = facts.pop("source", {"labels": None, "group": None, "split": None})
    return survey.Survey(source=source, sizes=[size] * 99, mean=(0.5,) * 3, std=(0.2,) * 3, **facts, **counts)


# 1. a study that fits


@pytest.mark.parametrize("kind", cases.KINDS)
@pytest.mark.parametrize("machine", [CPU, GPU], ids=["cpu", "gpu"])
def test_a_draft_is_a_study_that_is_right(tmp_path, kind, machine):
    """Every kind of folder gives a params.yaml that `contrail check` accepts; labels decide whether it is judged."""
    found = look(cases.KINDS[kind](tmp_path))
    study = drafted(found, machine)
    params.check(study)
    assert list(study["datasets"]) == [study["study"]] == ["birds"]
    assert {block["dataset"] for block in study["runs"].values()} == {"birds"}
    judged = kind != "unlabeled"
    assert bool(study["finetunes"]) == bool(study["datasets"]["birds"]["budgets"]) == judged
    assert set(study["evaluations"]["random"]["probes"]) == ({"knn", "linear", "geometry"} if judged else {"geometry"})
    assert study["datasets"]["birds"]["source"]["group"] == ("patient_id" if "groups" in kind else None)
    assert study["runs"]["simclr"]["encoder"]["name"] == ("resnet" if machine.gpu else "small_resnet")


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        ({"gull": 60}, "all labels are 'gull', which leaves nothing to tell apart"),
        ({"gull": 60, "wren": 2}, "the class 'wren' has 2 labels: 16% of all splits by chance would leave one of 2"),
        (
            dict.fromkeys("abcdefghij", 3),
            "the class 'a' has 3 labels: 49% of all splits by chance would leave one of 10",
        ),
        ({}, "no image has a label"),
    ],
)
def test_labels_that_judge_nothing_give_a_study_without_judging(labels, says):
    """Pretraining and the shape of the features are left, and the reason is said."""
    found = made_up(labels=labels)
    study = drafted(found)
    params.check(study)
    assert study["finetunes"] == {}
    assert study["runs"]["simclr"]["training"]["monitor_epochs"] == 0
    assert says in "\n".join(findings.decided(found, draft.plan(found, CPU)))


@pytest.mark.parametrize(("classes", "labels", "groups"), [(2, 3, 0), (10, 3, 0), (10, 6, 0), (50, 5, 0), (6, 40, 4)])
def test_a_study_judges_where_chance_lets_it(tmp_path, classes, labels, groups):
    """Its share of splits that cannot be judged is that of the hashes; a group is drawn as one, however many it has."""
    facts = {"labels": {f"c{n}": labels for n in range(classes)}, "groups": groups}
    found = made_up(files=classes * labels, loose={f"c{n}": groups or labels for n in range(classes)}, **facts)
    numbers = np.repeat(np.arange(classes), labels)
    keys = [f"c{n}/{m % (groups or labels)}" for n in range(classes) for m in range(labels)]
    refused = [
        _split.unjudged(
            numbers,
            _split.assign(pa.array(keys), None, validation=0.2, test=0.2, seed=seed),
            list(found.labels),
        )
        is not None
        for seed in range(500)
    ]
    assert draft._risk(found, None) == pytest.approx(np.mean(refused), abs=0.07)
    assert bool(draft.plan(found, CPU).budgets) == (draft._risk(found, None) < draft.RISK)


def test_own_test_images_do_not_lend_their_labels_to_train(tmp_path):
    """Three images of a class, two of them in its own test split, leave one that may fall into validation."""
    for number in range(60):
        part = "test" if number % 3 else "train"
        picture(tmp_path / part / ("rare" if number < 3 else "often") / f"{number}.png", number)
    found = look(tmp_path)
    assert found.loose == {"often": 19, "rare": 1}
    assert "the class 'rare' has 3 labels: 2" in draft.plan(found, CPU).unjudged


def test_folders_that_are_groups_are_no_classes():
    """With --group 1 and no table the folders name patients."""
    source = {"labels": None, "group": 1, "split": None}
    assert draft.plan(made_up(labels={"p1": 30, "p2": 30}, source=source), CPU).budgets == {}


@pytest.mark.parametrize(
    ("files", "labels", "budgets"),
    [
        (50_000, 5000, ["1pct", "10pct"]),  # 300 of each class in train
        (4000, 10, ["1each", "all"]),  # the 90 labels of 9 classes: 1 % of them would be less than a label
        (4000, 100, ["12each", "all"]),
    ],
)
def test_budgets_exist_for_that_many_labels(files, labels, budgets):
    """Shares only where 1 % is a label of each class; else a number of each class, and all there are."""
    found = made_up(files=files, labels={f"class-{n}": labels for n in range(9)})
    study = drafted(found, GPU)
    assert list(study["datasets"]["birds"]["budgets"]) == budgets
    assert study["finetunes"]["simclr"]["budgets"] == budgets


def test_small_images_are_packed_and_large_ones_kept_encoded():
    """Nothing is enlarged, and what the encoder sees fits the images and the machine."""
    small, large = made_up(size=(48, 40)), made_up(size=(768, 1024))
    assert drafted(small)["datasets"]["birds"]["source"]["store"] == {"shape": [48, 40], "fit": "crop"}
    assert drafted(large)["datasets"]["birds"]["source"]["store"] == {"short_side": 256, "quality": 95}
    sides = [
        drafted(found, machine)["runs"]["simclr"]["input"]["side"] for found in (small, large) for machine in (CPU, GPU)
    ]
    assert sides == [40, 40, 64, 224]
    assert drafted(small, GPU)["runs"]["simclr"]["encoder"]["stem"] == "cifar"
    assert drafted(large, GPU)["runs"]["simclr"]["encoder"]["stem"] == "imagenet"


def test_a_first_run_stays_within_reach():
    """Epochs shrink with the images; on a CPU a subset is taken where even few epochs would take long, and said."""
    plans = {n: draft.plan(made_up(files=n, size=(64, 64)), CPU) for n in (30, 3000, 30_000, 3_000_000)}
    assert [plan.epochs for plan in plans.values()] == [200, 54, 21, 20]
    assert [plan.side for plan in plans.values()] == [64, 64, 32, 32]
    assert [plan.subset is None for plan in plans.values()] == [True, True, True, False]
    for plan in plans.values():
        assert plan.batch <= plan.train
        assert plan.epochs * plan.train * plan.side**2 < draft.CPU_WORK * 1.01
    many = made_up(files=3_000_000)
    assert "`subset: null` takes all" in "\n".join(findings.decided(many, plans[3_000_000]))
    assert "the source `shards`" in "\n".join(findings.decided(many, plans[3_000_000]))
    assert draft.plan(many, GPU).subset is None


# 2. the template

TEXT = """\
a: 1 # one
b: &b { c: 2 } # two
d:
  e: 3
  # a line of its own
  f: # block
    g: 4

    h: 5
  i: 6

j: *b
"""


def test_filling_in_keeps_everything_else():
    """Keys, anchors, comments and empty lines stay; what stood below a replaced block goes."""
    values = {"a": "7", "b": "{ c: 8 } # eight", "d.f": "\n    k: 9", "d.i": "10 # ten"}
    lines = filled(TEXT, values).splitlines()
    assert lines == [
        "a: 7 # one",
        "b: &b { c: 8 } # eight",
        "d:",
        "  e: 3",
        "  # a line of its own",
        "  f: # block",
        "    k: 9",
        "",
        "  i: 10 # ten",
        "",
        "j: *b",
    ]
    assert filled(TEXT, {}) == TEXT


def test_a_place_that_the_template_lacks_is_a_bug():
    """An edit of the recipe that moves a value cannot pass unseen."""
    with pytest.raises(AssertionError, match=r"the template has no d\.z"):
        filled(TEXT, {"d.z": "1"})


@pytest.mark.parametrize("value", [None, 7, "a.csv", "true", "a b", "1", 'say "ä": # x', "null"])
def test_a_scalar_is_read_as_what_it_was(value):
    """Names of files and columns of any letters survive YAML."""
    assert parsed(f"a: {scalar(value)}\nb: 1") == {"a": value, "b": 1}
