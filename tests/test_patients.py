"""A collection as people have it: 4,000 images of 20 patients, 90 labels of 9 classes, through `folder` to a report.

Claims:
- no patient is in two splits, pretraining sees none of test, and intervals are by patient;
- `contrail select` lists images to label, `contrail label` merges what was filled in and nothing else, and selecting
  again repeats no image and trains no encoder.
"""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from ruamel.yaml import YAML
from study_copy import Study

from pipeline import params, quick
from stages.datasets._prepared import Prepared

CLASSES, PATIENTS, IMAGES, LABELS = 9, 20, 4000, 90
TABLE = "data/raw/tissue/labels.csv"


def draw(folder: Path) -> None:
    """The images, in a color of their class with a tint of their patient, and the table that lists them all."""
    random = np.random.default_rng(0)
    colors, tints = random.integers(40, 200, (CLASSES, 3)), random.integers(-30, 30, (PATIENTS, 3))
    lines = ["file,label,patient_id"]
    folder.mkdir(parents=True)
    for row in range(IMAGES):
        kind, patient = row % CLASSES, row % PATIENTS
        pixels = colors[kind] + tints[patient] + random.normal(0, 20, (8, 8, 3))
        name = f"{row:04d}.png"
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name)
        lines.append(f"{name},{f'tissue {kind}' if row < LABELS else ''},patient {patient:02d}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")


def make(values: dict) -> dict:
    """The shipped study with these images in place of the digits, and one row."""
    values = quick.shrink(values)
    store = {"shape": [8, 8], "fit": "crop"}
    source = {"name": "folder", "path": "data/raw/tissue", "store": store, "labels": "labels.csv"}
    budgets = {
        "half": {"select": {"name": "groups", "share": 0.5}, "seeds": [0]},
        "all": {"select": {"name": "balanced", "share": 1.0}, "seeds": [0]},
    }
    block = values["datasets"].pop("digits")
    block |= {"source": source | {"group": "patient_id", "split": None}, "subset": None, "budgets": budgets}
    values["datasets"]["tissue"] = block
    for section in ("runs", "evaluations", "finetunes"):
        values[section] = {"simclr": values[section]["simclr"] | {"dataset": "tissue"}}
    values["runs"]["simclr"]["training"] |= {"batch_size": 200, "monitor_epochs": 0}
    values["evaluations"]["simclr"]["probes"] = {"knn": {"k": 5, "temperature": 0.07}}
    values["finetunes"]["simclr"]["budgets"] = ["half", "all"]
    return values


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Study:
    """The small study, run by `dvc repro`; what `prepare` printed is in `first`."""
    folder = tmp_path_factory.mktemp("patients") / "project"
    quick._copy(root, folder)
    (folder / "data" / "raw").unlink(missing_ok=True)
    draw(folder / "data/raw/tissue")
    yaml = YAML(typ="safe")
    yaml.default_flow_style = False
    yaml.dump(make(params.read(root / "params.yaml")), folder / "params.yaml")
    study = Study(folder)
    study.environment["CONTRAIL_LOCKS"] = str(folder)  # waits for nobody
    study.first = study.repro()
    return study


@pytest.fixture
def tissue(study: Study) -> Prepared:
    return Prepared(study.folder / "data/datasets/tissue")


def patient(name: str) -> int:
    return int(Path(name).stem) % PATIENTS


def test_no_patient_straddles_splits(study: Study, tissue: Prepared) -> None:
    """Each of the 20 patients is in one split, all three have some, and how many is printed."""
    where = {name: {patient(tissue.ids[row]) for row in tissue.rows(name)} for name in ("train", "validation", "test")}
    assert sum(map(len, where.values())) == len(set().union(*where.values())) == PATIENTS
    assert all(where.values())
    assert f"test {len(tissue.rows('test'))} of {len(where['test'])} groups" in study.first


def test_pretraining_sees_no_patient_of_test(tissue: Prepared) -> None:
    """The rows that pretraining may see are those of train patients, with and without a label."""
    seen, tested = ({patient(tissue.ids[row]) for row in rows} for rows in (tissue.pretrain, tissue.rows("test")))
    assert not seen & tested
    assert len(tissue.pretrain) > 10 * len(tissue.labeled("train")) > 0


def test_intervals_are_by_patient(study: Study, tissue: Prepared) -> None:
    """The report's numbers say over how many patients their intervals are; a few make a wide one."""
    results = json.loads((study.folder / "data/report/results.json").read_text())["simclr"]
    count = len({patient(tissue.ids[row]) for row in tissue.labeled("test")})
    assert 2 <= count < len(tissue.labeled("test"))
    for score in ("knn.top1", "finetune.half.top1", "finetune.all.macro_f1"):
        assert f"interval over {count} groups of test images" in results[score]["protocol"]
        low, high = results[score]["test"]["interval"]
        assert low <= results[score]["test"]["mean"] <= high
    assert (study.folder / "data/report/index.html").exists()


def test_a_budget_of_groups_labels_whole_patients(tissue: Prepared) -> None:
    """Half of the train patients, with all their labels."""
    train = {patient(tissue.ids[row]) for row in tissue.labeled("train")}
    granted = tissue.budget("half", 0)
    whose = {patient(tissue.ids[row]) for row in granted}
    assert len(whose) == round(len(train) / 2)
    assert set(granted) == {row for row in tissue.labeled("train") if patient(tissue.ids[row]) in whose}


# ---- what to label next


def contrail(study: Study, *arguments: str) -> subprocess.CompletedProcess[str]:
    return study.run(sys.executable, "-m", "pipeline", *arguments)


def rows(study: Study, name: str = "to_label.csv") -> dict[str, str]:
    """The rows of a list or of the table: file → label."""
    with (study.folder / name).open(newline="") as lines:
        return {row["file"]: row["label"] for row in csv.DictReader(lines)}


def fill(study: Study, labels: dict[str, str]) -> None:
    """Write labels into to_label.csv."""
    lines = [f"{file},{labels.get(file, label)}" for file, label in rows(study).items()]
    (study.folder / "to_label.csv").write_text("\n".join(["file,label", *lines]) + "\n")


def truth(file: str) -> str:
    return f"tissue {int(Path(file).stem) % CLASSES}"


def test_select_fill_label_and_select_again(study: Study, tissue: Prepared) -> None:
    """Lists are of unlabeled train images, none twice; rows that wait stand in the way; encoders stay."""
    done = contrail(study, "select", "--n", "12")
    assert done.returncode == 0, done.stderr
    first = rows(study)
    train = {tissue.ids[row] for row in tissue.rows("train")} - {tissue.ids[row] for row in tissue.labeled("train")}
    assert len(first) == 12
    assert set(first) <= train
    assert not any(first.values())
    page = (study.folder / "to_label.html").read_text()
    assert page.count("data:image/png;base64,") == 12
    assert "http" not in page
    kept = dict(list(first.items())[:4])
    fill(study, {file: truth(file) for file in first if file not in kept})
    before = rows(study, TABLE)
    done = contrail(study, "label", "to_label.csv")
    assert done.returncode == 0, done.stderr
    assert "8 labels are new" in done.stdout
    assert "stale now: prepare@tissue, then " in done.stdout
    assert all(f"{stage}@" in done.stdout for stage in ("evaluate", "finetune", "select"))
    assert "; and no encoder" in done.stdout
    assert rows(study) == kept
    assert rows(study, TABLE) == before | {file: truth(file) for file in first if file not in kept}
    refused = contrail(study, "select")
    assert refused.returncode == 1
    assert "has 4 images to label" in refused.stderr
    fill(study, {file: truth(file) for file in kept})
    assert contrail(study, "label", "to_label.csv").returncode == 0
    assert rows(study) == {}
    done = contrail(study, "select")
    assert done.returncode == 0, done.stderr
    second = rows(study)
    assert len(second) == 12
    assert not set(first) & set(second)
    assert set(second) <= train
    assert study.stale == {"evaluate@simclr", "finetune@simclr", "report"}
