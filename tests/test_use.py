"""`contrail use folder --path`: a folder of images becomes a study.

1. What a folder holds is found as it is: labels, groups, splits, sizes, what is no image.
2. What no study can be made of is refused in a sentence.
3. Sizes, budgets and gates fit what was found, and every draft is a params.yaml that is right.
4. Filling in a template changes nothing but what is asked for.
5. The study becomes the current one, the folder a link, and nothing is lost or left behind.
"""

import json
import os
import subprocess
import sys
from collections import Counter

import folder_cases as cases
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from folder_cases import picture, table
from ruamel.yaml import YAML
from toy_project import REPOSITORY, commit, run

from pipeline import params, recipes, repro
from pipeline.drafting import draft, findings, survey
from pipeline.drafting.adopt import adopt
from pipeline.drafting.survey import FolderError
from pipeline.drafting.template import filled, scalar
from pipeline.errors import Refusal
from stages.datasets import _split

TEMPLATE = (REPOSITORY / "recipes" / "folder" / "params.yaml").read_text()
CPU, GPU = draft.Machine(gpu=False, cores=2), draft.Machine(gpu=True, cores=16)
CALM = {"labels": {}, "parts": {}, "groups": 0, "files": 1000, "size": (32, 32)}


def look(folder, labels=None, group=None):
    return survey.survey(folder, labels and folder / labels, group)


def made_up(**changes):
    """A survey of images of one size, as if it had been made."""
    facts = CALM | changes
    facts.setdefault("loose", facts["labels"])
    size = facts.pop("size")
    counts = {"kinds": Counter(PNG=99), "treatments": Counter(), "unusable": facts.pop("unusable", Counter())}
    source = facts.pop("source", {"labels": None, "group": None, "split": None})
    return survey.Survey(source=source, sizes=[size] * 99, mean=(0.5,) * 3, std=(0.2,) * 3, **facts, **counts)


def parsed(text):
    return json.loads(json.dumps(YAML(typ="safe").load(text)))


def drafted(found, machine=CPU):
    """The params.yaml of a survey, as values."""
    return parsed(draft.draft(TEMPLATE, found, draft.plan(found, machine), "birds", "data/raw/birds"))


# 1. what is there


def test_class_folders_are_labels(tmp_path):
    """Every image has the label of its folder; sizes and colors are those of the files."""
    found = look(cases.class_folders(tmp_path))
    assert found.source == {"labels": None, "group": None, "split": None}
    assert found.labels == dict.fromkeys(cases.CLASSES, 20)
    assert (found.files, found.sampled, set(found.sizes)) == (60, 60, {(20, 24)})
    np.testing.assert_allclose(found.mean, 0.5, atol=0.01)  # of evenly spread pixels
    np.testing.assert_allclose(found.std, 1 / 12**0.5, atol=0.01)
    assert found.kinds == {"PNG": 60}


def test_a_table_is_found_and_read(tmp_path):
    """The one table of labels is taken without being named; it is no image, and it need not know every image."""
    found = look(cases.flat_with_table(tmp_path))
    assert found.source == {"labels": "labels.csv", "group": None, "split": None}
    assert (found.files, found.labels) == (60, dict.fromkeys(cases.CLASSES, 15))


def test_a_parquet_table_is_one_too(tmp_path):
    """The names of its columns are in its schema."""
    cases.unlabeled(tmp_path)
    names = [f"{n}.png" for n in range(40)]
    pq.write_table(pa.table({"file": names, "label": ["a", "b"] * 20}), tmp_path / "known.parquet")
    found = look(tmp_path)
    assert (found.source["labels"], found.labels) == ("known.parquet", {"a": 20, "b": 20})


def test_images_without_labels_are_images(tmp_path):
    """Neither folders nor a table: no classes."""
    found = look(cases.unlabeled(tmp_path))
    assert (found.files, found.labels, found.source["labels"]) == (40, {}, None)


def test_a_column_that_looks_like_groups_is_taken(tmp_path):
    """A patient's images belong together; rows may then have a group and no label."""
    found = look(cases.nested_with_groups(tmp_path))
    assert found.source == {"labels": "tiles.csv", "group": "patient_id", "split": None}
    assert (found.groups, found.labeled, found.notes) == (18, 60, [])


def test_the_widest_group_wins(tmp_path):
    """Of subject and slide the subject; a column that has one value per image, or one for all, is no group."""
    names = [f"{n}.png" for n in range(40)]
    cases.unlabeled(tmp_path)
    rows = [(name, "ab"[n % 2], f"s{n % 10}", f"p{n % 5}", "c0", f"v{n}") for n, name in enumerate(names)]
    table(tmp_path / "t.csv", ("file", "label", "Slide", "subject", "case", "video"), *rows)
    assert look(tmp_path).source["group"] == "subject"
    table(tmp_path / "t.csv", ("file", "label", "case", "video"), *((*row[:2], *row[4:]) for row in rows))
    assert look(tmp_path).source["group"] is None
    assert look(tmp_path, group="case").source["group"] == "case"  # who asks for it gets it


def test_a_group_that_is_not_known_of_every_image_is_noted(tmp_path):
    """It is not taken silently, nor left out silently."""
    cases.flat_with_table(tmp_path)
    rows = [(f"{n}.png", "ab"[n % 2], f"p{n % 5}") for n in range(45)]
    table(tmp_path / "labels.csv", ("file", "label", "patient"), *rows)
    found = look(tmp_path)
    assert found.source["group"] is None
    assert "the column patient is not used as a group: 15 of 60 images lack" in found.notes[0]
    with pytest.raises(Refusal, match="15 of 60 images lack"):
        look(tmp_path, group="patient")


def test_a_level_of_folders_can_be_the_group(tmp_path):
    """--group 2: the second folder."""
    for number in range(40):
        picture(tmp_path / "ab"[number % 2] / f"s{number % 8}" / f"{number}.png", number)
    found = look(tmp_path, group="2")
    assert (found.source["group"], found.groups, found.labels) == (2, 8, {"a": 20, "b": 20})


def test_train_and_test_folders_are_a_split(tmp_path):
    """They are no classes: those are one level below."""
    for number in range(40):
        part = "test" if number % 4 == 0 else "train"
        picture(tmp_path / part / cases.CLASSES[number % 3] / f"{number}.png", number)
    found = look(tmp_path)
    assert found.source["split"] == "folders"
    assert found.parts == {"train": 30, "test": 10}
    assert set(found.labels) == set(cases.CLASSES)
    split = drafted(found)["datasets"]["birds"]["split"]
    assert (split["validation"], split["test"]) == (0.1, "own")


def test_a_split_column_is_a_split(tmp_path):
    """The column `split` of the table."""
    cases.unlabeled(tmp_path)
    rows = [(f"{n}.png", "ab"[n % 2], ("train", "val", "test")[n % 3]) for n in range(40)]
    table(tmp_path / "labels.csv", ("file", "label", "split"), *rows)
    found = look(tmp_path)
    assert (found.source["split"], found.parts) == ("column", {"train": 14, "validation": 13, "test": 13})
    split = drafted(found)["datasets"]["birds"]["split"]
    assert (split["validation"], split["test"]) == ("own", "own")


def test_what_is_no_image_is_counted(tmp_path):
    """Files that prepare would leave out are told by their kind, and the gate lets that many pass."""
    cases.class_folders(tmp_path)
    (tmp_path / "gull" / "Thumbs.db").write_bytes(b"x" * 99)
    (tmp_path / "gull" / "empty.png").touch()
    found = look(tmp_path)
    assert found.unusable == {"not_image": 1, "empty": 1}
    assert found.sampled == 62
    assert 2 / 62 <= draft.plan(found, CPU).bad < 0.1
    assert "2 of these are no images (1 not_image, 1 empty)" in "\n".join(findings.seen(found))


# 2. refusals


def test_a_wrong_path_is_refused(tmp_path):
    """Nothing there, a file, an empty folder, a handful of images: each a sentence with the place."""
    with pytest.raises(FolderError, match="nowhere is not there: --path names a folder of images"):
        look(tmp_path / "nowhere")
    with pytest.raises(FolderError, match=r"0\.png is a file"):
        look(picture(tmp_path / "0.png", 0))
    (tmp_path / "empty").mkdir()
    with pytest.raises(Refusal, match="empty has no files"):
        look(tmp_path / "empty")
    with pytest.raises(FolderError, match="holds 5 files, and a study takes 20 images or more"):
        look(cases.unlabeled(tmp_path / "few", 5))


def test_files_that_are_no_images_are_no_study(tmp_path):
    """Where most files are something else, the folder is the wrong one."""
    for number in range(30):
        (tmp_path / f"{number}.txt").write_text("words, words")
    with pytest.raises(FolderError, match=r"30 of 30 files of .* looked at are no images: 30 not_image"):
        look(tmp_path)


def test_other_names_of_columns_are_refused_with_what_they_should_be(tmp_path):
    """The sentence has the columns that were found, those that are expected, and what to rename."""
    cases.unlabeled(tmp_path)
    table(tmp_path / "meta.csv", ("filename", "class", "age"), ("0.png", "a", "3"))
    with pytest.raises(FolderError) as refusal:
        look(tmp_path)
    assert "meta.csv has the columns filename, class, age, and a table of labels has file and label" in str(
        refusal.value
    )
    assert "rename 'filename' to 'file' and 'class' to 'label'" in str(refusal.value)


def test_a_table_beside_class_folders_is_noted_only(tmp_path):
    """The folders are the labels; the table is named as what it will be taken for."""
    cases.class_folders(tmp_path)
    table(tmp_path / "meta.csv", ("age", "sex"), ("3", "f"))
    found = look(tmp_path)
    assert found.labeled == 60
    assert found.notes[0].startswith("meta.csv is not used, and as a file that is no image it counts as a bad one")
    with pytest.raises(FolderError, match="has the columns age, sex"):
        look(tmp_path, labels="meta.csv")


def test_two_tables_have_to_be_told_apart(tmp_path):
    """--labels says which; it has to lie in the folder."""
    cases.flat_with_table(tmp_path / "images")
    (tmp_path / "images" / "old.csv").write_bytes((tmp_path / "images" / "labels.csv").read_bytes())
    with pytest.raises(FolderError, match=r"holds 2 tables of labels, labels\.csv, old\.csv: say which by --labels"):
        look(tmp_path / "images")
    assert look(tmp_path / "images", labels="old.csv").source["labels"] == "old.csv"
    outside = table(tmp_path / "labels.csv", ("file", "label"))
    with pytest.raises(FolderError, match=r"is not in .*images, which is all that is watched"):
        survey.survey(tmp_path / "images", outside, None)
    with pytest.raises(FolderError, match=r"there is no .*none\.csv: --labels names a CSV or parquet file"):
        look(tmp_path / "images", labels="none.csv")


def test_a_folder_around_the_folder_is_told(tmp_path):
    """Where everything lies in one folder that holds the classes, that one is meant."""
    cases.class_folders(tmp_path / "birds" / "images")
    with pytest.raises(FolderError, match=r"is it --path .*birds/images"):
        look(tmp_path / "birds")


def test_a_group_that_is_not_there_is_refused(tmp_path):
    """With the columns that there are."""
    cases.nested_with_groups(tmp_path)
    with pytest.raises(
        FolderError, match=r"--group patient is neither a column .* there are file, label, patient_id\)"
    ):
        look(tmp_path, group="patient")


# 3. a study that fits


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


# 4. the template

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


# 5. the current study


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
