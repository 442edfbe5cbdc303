"""Studies that came out odd but are legal: each has a report, and the report says what is odd."""

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_study import Stage, write_json, write_study

from stages.report import report

WEIGHTS = "data/encoders/supervised/seed-0/encoder.safetensors"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A study of a few digits."""
    root = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        return SimpleNamespace(root=root, params=write_study(150))


@pytest.fixture
def study(made: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A copy that a test may spoil, as current directory; private, as most of these have nothing to do with images."""
    shutil.copytree(made.root / "data", tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    params = json.loads(json.dumps(made.params)) | {"private": True}
    return SimpleNamespace(params=params, data=tmp_path / "data", out=tmp_path / "out")


def reported(study: SimpleNamespace) -> tuple[str, dict[str, dict]]:
    """The page and the results."""
    report(Stage(study.out), **study.params)
    return (study.out / "index.html").read_text(), json.loads((study.out / "results.json").read_text())


def change_features(study: SimpleNamespace, row: str, change: object) -> None:
    for path in (study.data / "features" / row).glob("seed-*.npy"):
        np.save(path, change(np.load(path)).astype(np.float32))  # type: ignore[operator]


def keep_labels(study: SimpleNamespace, split: str, most: int) -> None:
    """Leave so many images of a split a label, and of test ones their predictions."""
    folder = study.data / "datasets" / "digits"
    splits = pq.read_table(folder / "splits.parquet", filters=[("split", "=", split)])
    dropped = splits["id"].to_pylist()[most:]
    kept = pq.read_table(folder / "labels.parquet", filters=[("id", "not in", dropped)])
    pq.write_table(kept, folder / "labels.parquet")
    for path in (study.data / "predictions").iterdir():
        pq.write_table(pq.read_table(path, filters=[("id", "not in", dropped)]), path)


def test_perfect_accuracies_have_a_report(study: SimpleNamespace) -> None:
    """Nothing divides by the distance from the worst to the best."""
    for path in (*study.data.glob("scores/*.json"), *study.data.glob("finetunes/*.json")):
        scores = json.loads(path.read_text())
        for name, score in scores.items():
            if not name.startswith("geometry"):
                score["test"] |= {"mean": 1.0, "std": 0.0}
        write_json(path, scores)
    page, _ = reported(study)
    assert '<section id="labels"' in page


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (np.ones_like, "its features are the same for every image"),
        (lambda features: features[:, :1], "its features have one dimension"),
    ],
)
def test_a_collapsed_row_is_named_instead_of_mapped(study: SimpleNamespace, change: object, says: str) -> None:
    """The other row keeps its map; where none is left, the sentences are."""
    change_features(study, "simclr", change)
    page, _ = reported(study)
    assert f"No map of simclr: {says}." in page
    assert "two-dimensional map of the features of pixels" in page
    change_features(study, "pixels", change)
    page, _ = reported(study)
    assert f"No map of pixels: {says}." in page
    assert "two-dimensional map" not in page


@pytest.mark.parametrize(("images", "says"), [(1, "1 labeled test image,"), (2, "2 labeled test images,")])
def test_a_map_has_three_images(study: SimpleNamespace, images: int, says: str) -> None:
    """Fewer with a label, and three neighbors to find, have a page without a map, and with it pictures."""
    study.params["private"] = False
    keep_labels(study, "test", images)
    keep_labels(study, "train", 3)
    page, _ = reported(study)
    assert f"No map of simclr: {says} at least 3 make a map." in page
    assert "each with the 3 of 3 training images" in page


def test_nothing_trained_or_judged_has_a_report(study: SimpleNamespace) -> None:
    """A study that only prepares a data set."""
    for section in ("runs", "evaluations", "finetunes"):
        study.params[section] = {}
    for path in (*study.data.glob("receipts/*"), *(p for p in study.data.glob("*/*") if p.parent.name != "datasets")):
        if path.exists() and not path.name.startswith("prepare"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    page, results = reported(study)
    assert re.findall(r'<section id="(\w+)"', page) == ["data", "receipts"]
    assert results == {}


# ---- what pretraining saw


def add_dataset(study: SimpleNamespace, shared: int) -> int:
    """A second data set, `other`, of the same images, of whose pretraining images so many are test images of digits."""
    old, new = study.data / "datasets" / "digits", study.data / "datasets" / "other"
    shutil.copytree(old, new)
    splits = np.array(pq.read_table(old / "splits.parquet")["split"].to_pylist())
    train, test = (np.flatnonzero(splits == split) for split in ("train", "test"))
    rows = np.sort(np.concatenate([train, test[:shared]]))
    ids = np.array([f"digit-{row:04}" for row in rows])
    labels = np.array(pq.read_table(old / "labels.parquet")["label"])[rows]
    pq.write_table(pa.table({"id": ids, "row": rows}), new / "pretrain" / "images.parquet")
    pq.write_table(pa.table({"id": ids, "row": rows, "label": labels}), new / "pretrain" / "labels.parquet")
    shutil.copy(study.data / "receipts" / "prepare-digits.json", study.data / "receipts" / "prepare-other.json")
    study.params["datasets"]["other"] = study.params["datasets"]["digits"]
    return len(test)


def test_test_images_that_another_data_set_trains_on_are_counted(
    study: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    """By their pixels, in every protocol of the row, above the table and on the screen; of the finetune, too."""
    tested = add_dataset(study, 7)
    study.params["runs"]["supervised"]["dataset"] = "other"
    words = f"pretraining on other saw 7 of {tested} test images, with labels"
    page, results = reported(study)
    assert {score["protocol"].endswith(f", {words}") for score in results["supervised"].values()} == {True}
    assert not [row for row, scores in results.items() if "saw" in str(scores) and row != "supervised"]
    printed = capsys.readouterr().out
    for stage in ("evaluate@supervised", "finetune@supervised"):
        assert f"<b>Warning: {stage}: {words}.</b>" in page
        assert f"warning: {stage}: {words}\n" in printed


def test_what_weights_saw_before_is_counted(study: SimpleNamespace) -> None:
    """A run that starts from such weights, and a finetune that a finetune of them teaches; not what never trained."""
    tested = add_dataset(study, 5)
    study.params["runs"]["supervised"]["dataset"] = "other"
    study.params["runs"]["random"]["dataset"] = "other"
    study.params["runs"]["pixels"]["init"] = WEIGHTS
    study.params["finetunes"]["simclr"]["teacher"] = "data/classifiers/supervised"
    _, results = reported(study)
    words = f", pretraining on other saw 5 of {tested} test images, with labels"
    told = {f"{row} {score}" for row in results for score, entry in results[row].items() if words in entry["protocol"]}
    assert {name.partition(".")[0] for name in told} >= {"pixels knn", "supervised knn", "simclr finetune"}
    assert not [name for name in told if name.startswith(("random", "simclr knn"))]


def test_other_images_are_no_leak(study: SimpleNamespace) -> None:
    """A run of another data set that shares no image with test is transfer, and nothing is said."""
    add_dataset(study, 0)
    study.params["runs"]["supervised"]["dataset"] = "other"
    page, results = reported(study)
    assert "Warning" not in page
    assert "pretraining on" not in str(results)


def test_a_few_labels_on_top_of_all_are_said_to_be_that(study: SimpleNamespace) -> None:
    """The probe few_labels on an encoder that saw labels; the same probe on others says nothing more."""
    probes = {"knn": {}, "linear": {"name": "few_labels"}, "geometry": {}, "layers": {}}
    for block in study.params["evaluations"].values():
        block["probes"] = probes
    study.params["runs"]["random"]["init"] = WEIGHTS
    _, results = reported(study)
    words = ", of an encoder that saw labels in pretraining"
    assert [row for row in results if results[row]["linear.top1"]["protocol"].endswith(words)] == [
        "supervised",
        "random",
    ]
    assert words not in results["supervised"]["knn.top1"]["protocol"]
