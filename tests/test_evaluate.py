"""Stage `evaluate`: features and a prepared data set in, scores.json and predictions.parquet out.

Claims: the files are what tests/scores.schema.json says, byte for byte the same every time; every number follows from
the predictions beside it; labels of other splits move nothing; what is missing or broken is named.
"""

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import accuracy_score

from pipeline import paths
from pipeline.errors import MissingInput, ParamsError, Refusal
from pipeline.params import arguments
from stages.evaluate import evaluate, judge, read

SCHEMA = json.loads((Path(__file__).parent / "scores.schema.json").read_text())
PROBES = {
    "knn": {"k": 5, "temperature": 0.07},
    "knn_k200": {"name": "knn", "k": 200, "temperature": 0.1},
    "linear": {"penalties": {"low": 1.0e-4, "high": 1.0e-1, "steps": 3}},
    "geometry": {},
}
N, CLASSES, SEEDS = 120, ("cat", "dog", "eel"), (0, 7)
LABELS = np.arange(N) % 3
SPLIT = np.array(["train"] * 60 + ["validation"] * 30 + ["test"] * 30)
UNLABELED = (5, 65, 95)


class Stage:
    """A stand-in for the stage's frame: where to write, and what was logged."""

    item = "simclr"

    def __init__(self, out: Path) -> None:
        self.folder = out
        self.logged: dict[str, float] = {}

    def out(self, path: Path) -> Path:
        (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
        return self.folder / path

    def log(self, metrics: dict[str, float]) -> None:
        self.logged |= metrics


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of a stage: a prepared data set without its pixels, and the features of two seeds."""
    monkeypatch.chdir(tmp_path)
    dataset, features = paths.dataset("pets"), paths.features("simclr")
    dataset.mkdir(parents=True)
    features.mkdir(parents=True)
    ids = np.array([f"image-{row:03}" for row in range(N)])
    known = np.setdiff1d(np.arange(N), UNLABELED)
    splits = {"id": ids, "split": SPLIT, "group": [f"{row:064x}" for row in range(N)]}
    labels = {"id": ids[known], "label": LABELS[known], "name": [CLASSES[label] for label in LABELS[known]]}
    pq.write_table(pa.table(labels), dataset / "labels.parquet")
    pq.write_table(pa.table(splits), dataset / "splits.parquet")
    show({"train"})
    (dataset / "budgets").mkdir()
    (dataset / "budgets" / "summary.json").write_text("{}")
    random = np.random.default_rng(0)
    rows = np.flatnonzero(SPLIT != "train")
    np.save(features / "pairs.npy", rows)
    for seed in SEEDS:
        array = random.normal(size=(N, 6)) + 2.5 * np.eye(3, 6)[LABELS]
        np.save(features / f"seed-{seed}.npy", array.astype(np.float32))
        np.save(features / f"pairs-{seed}.npy", random.normal(size=(2, len(rows), 6)).astype(np.float32))
    return tmp_path


def show(splits: set[str]) -> None:
    """What `prepare` writes with `pretrain_on` these splits."""
    rows = np.flatnonzero(np.isin(SPLIT, sorted(splits)))
    file = paths.dataset("pets") / "pretrain" / "images.parquet"
    file.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table({"id": [f"image-{row:03}" for row in rows], "row": rows}), file)


def checked(probes: dict[str, Any]) -> dict[str, Any]:
    """The arguments of the stage, as its block in params.yaml gives them."""
    return arguments(evaluate, {"dataset": "pets", "probes": probes}, "evaluations.simclr")


def ran(repository: Path, name: str = "out") -> tuple[dict[str, Any], dict[str, list[Any]], Stage]:
    """Scores, columns of the predictions, and the stage after one run."""
    stage = Stage(repository / name)
    evaluate(stage, **checked(PROBES))  # type: ignore[arg-type]  # the stand-in
    scores = json.loads(stage.out(paths.scores("simclr")).read_text())
    return scores, pq.read_table(stage.out(paths.predictions("simclr"))).to_pydict(), stage


def relabel(splits: tuple[str, ...]) -> None:
    """Give every labeled image of some splits the next class."""
    file = paths.dataset("pets") / "labels.parquet"
    table = pq.read_table(file).to_pydict()
    split = dict(zip((f"image-{row:03}" for row in range(N)), SPLIT, strict=True))
    table["label"] = [
        (label + 1) % 3 if split[identity] in splits else label
        for identity, label in zip(table["id"], table["label"], strict=True)
    ]
    table["name"] = [CLASSES[label] for label in table["label"]]
    pq.write_table(pa.table(table), file)


# ---- what is written


def test_scores_follow_the_schema(repository: Path) -> None:
    """Every probe of the block gives its scores, under its key."""
    scores, _, stage = ran(repository)
    jsonschema.validate(scores, SCHEMA)
    jsonschema.validate(scores, {**SCHEMA, "$ref": "#/$defs/scores"})
    accuracies = {f"{key}.{m}" for key in list(PROBES)[:3] for m in ("top1", "balanced_accuracy", "macro_f1")}
    measures = {f"geometry.{m}" for m in ("alignment", "uniformity", "rankme", "feature_std")}
    assert set(scores) == accuracies | measures
    assert set(stage.logged) == {f"{name}.{split}" for name in scores for split in ("val", "test")}
    assert stage.logged["knn.top1.test"] == scores["knn.top1"]["test"]["mean"]


def test_a_number_says_how_it_was_obtained(repository: Path) -> None:
    """Protocol, labels used and what was chosen stand beside the number."""
    scores, _, _ = ran(repository)
    protocol = "weighted 5-NN, cosine, T 0.07, 59 labeled training images, encoder in eval mode, last epoch"
    assert scores["knn.top1"]["protocol"] == protocol
    assert scores["knn_k200.top1"]["protocol"].startswith("weighted 59-NN, cosine, T 0.1,")
    assert scores["linear.top1"]["labels_used"] == 59
    assert scores["geometry.rankme"]["labels_used"] == 0
    assert len(scores["linear.top1"]["chosen"]["penalty"]) == len(SEEDS)


def test_a_protocol_says_when_pretraining_may_see_more_than_train(repository: Path) -> None:
    """Of every score, whatever the probe; where it is train alone, nothing is added."""
    usual, _, _ = ran(repository)
    show({"train", "test"})
    told, _, _ = ran(repository, "told")
    for name, score in told.items():
        assert score["protocol"] == f"{usual[name]['protocol']}, pretraining may see train and test images"
        assert score["test"] == usual[name]["test"]


def test_numbers_follow_from_the_predictions(repository: Path) -> None:
    """For each probe, seed and split the accuracy is that of the rows of predictions.parquet."""
    scores, columns, _ = ran(repository)
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    assert len(rows) == 3 * len(SEEDS) * 2 * 29
    for key in ("knn", "knn_k200", "linear"):
        for split in ("val", "test"):
            values = [
                accuracy_score(
                    *zip(*((r["label"], r["predicted"]) for r in rows if same(r, key, seed, split)), strict=True)
                )
                for seed in SEEDS
            ]
            assert scores[f"{key}.top1"][split]["values"] == pytest.approx(values)
            assert scores[f"{key}.top1"][split]["mean"] == pytest.approx(np.mean(values))
            assert scores[f"{key}.top1"][split]["std"] == pytest.approx(np.std(values, ddof=1))
        test = scores[f"{key}.top1"]["test"]
        assert test["interval"][0] <= test["mean"] <= test["interval"][1]


def same(row: dict[str, Any], probe: str, seed: int, split: str) -> bool:
    return (row["probe"], row["seed"], row["split"]) == (probe, seed, split)


def test_predictions_are_of_labeled_images_of_their_split(repository: Path) -> None:
    """Ids belong to the split they are listed under, labels are theirs, and images without a label are left out."""
    _, columns, _ = ran(repository)
    row = np.array([int(identity.removeprefix("image-")) for identity in columns["id"]])
    names = {"validation": "val", "test": "test"}
    assert [names[split] for split in SPLIT[row]] == columns["split"]
    assert LABELS[row].tolist() == columns["label"]
    assert not set(row.tolist()) & set(UNLABELED)


def test_files_are_the_same_byte_for_byte(repository: Path) -> None:
    """Two runs write the same bytes, whose columns and types are those of the format."""
    *_, first = ran(repository, "first")
    *_, second = ran(repository, "second")
    for path in (paths.scores("simclr"), paths.predictions("simclr")):
        assert first.out(path).read_bytes() == second.out(path).read_bytes()
    schema = pq.read_schema(first.out(paths.predictions("simclr")))
    kinds = {
        "probe": "string",
        "seed": "int64",
        "id": "string",
        "split": "string",
        "label": "int64",
        "predicted": "int64",
    }
    assert {name: str(schema.field(name).type) for name in schema.names} == kinds


def test_judging_opens_no_file(repository: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: Any) -> None:
    """`judge` gives the same scores in an empty folder, from tables alone, whatever the order of the seeds."""
    scores, columns, _ = ran(repository)
    tables = read(paths.features("simclr"), paths.dataset("pets"))
    monkeypatch.chdir(tmp_path_factory.mktemp("empty"))
    probes = {key: spec.make for key, spec in checked(PROBES)["probes"].items()}
    again, predictions = judge(dict(reversed(tables.items())), probes)
    assert again == scores
    assert predictions.to_pydict() == columns


def test_a_study_may_ask_for_geometry_only(repository: Path) -> None:
    """Without a classifier there are no predictions, and the file still has its columns."""
    stage = Stage(repository / "out")
    evaluate(stage, **checked({"geometry": {}}))  # type: ignore[arg-type]
    table = pq.read_table(stage.out(paths.predictions("simclr")))
    assert (table.num_rows, table.num_columns) == (0, 6)


def test_one_seed_has_no_spread(repository: Path) -> None:
    """With a single seed the standard deviation is 0."""
    (paths.features("simclr") / "seed-7.npy").unlink()
    scores, _, _ = ran(repository)
    assert (scores["knn.top1"]["val"]["n"], scores["knn.top1"]["val"]["std"]) == (1, 0.0)


# ---- what may move a number


def test_test_labels_move_no_validation_score(repository: Path) -> None:
    """Other test labels change test accuracies only: nothing is fitted or chosen on them."""
    before, columns, _ = ran(repository, "before")
    relabel(("test",))
    after, others, _ = ran(repository, "after")
    assert others["predicted"] == columns["predicted"]
    for name, score in before.items():
        assert after[name]["val"] == score["val"]
        assert after[name].get("chosen") == score.get("chosen")
    assert after["knn.top1"]["test"]["mean"] < before["knn.top1"]["test"]["mean"]


def test_validation_labels_move_no_knn_test_score(repository: Path) -> None:
    """Nothing of kNN is chosen on validation: other labels there leave its test scores alone."""
    before, _, _ = ran(repository, "before")
    relabel(("validation",))
    after, _, _ = ran(repository, "after")
    assert after["knn.top1"]["test"] == before["knn.top1"]["test"]
    assert after["knn.top1"]["val"] != before["knn.top1"]["val"]


def test_a_group_is_one_draw_of_the_bootstrap(repository: Path) -> None:
    """Test images of three patients change the interval and leave the mean; the protocol counts the patients."""
    before, _, _ = ran(repository, "before")
    file = paths.dataset("pets") / "splits.parquet"
    table = pq.read_table(file).to_pydict()
    table["group"] = [f"patient {row // 10}" for row in range(N)]
    pq.write_table(pa.table(table), file)
    after, _, _ = ran(repository, "after")
    assert after["knn_k200.top1"]["test"]["mean"] == before["knn_k200.top1"]["test"]["mean"]
    assert after["knn_k200.top1"]["test"]["interval"] != before["knn_k200.top1"]["test"]["interval"]
    assert after["knn.top1"]["protocol"].endswith(", last epoch, interval over 3 groups of test images")
    assert "interval" not in before["knn.top1"]["protocol"]


# ---- what is refused


def test_labels_of_one_class_are_refused_by_what_needs_labels(repository: Path) -> None:
    """Neighbors cannot vote: there is nothing to tell apart; what needs no label is scored."""
    file = paths.dataset("pets") / "labels.parquet"
    table = pq.read_table(file).to_pydict()
    pq.write_table(pa.table(table | {"label": [0] * len(table["id"]), "name": ["cat"] * len(table["id"])}), file)
    with pytest.raises(Refusal, match=r"the labels are of 1 class\(es\), so there is nothing to tell apart"):
        ran(repository)
    stage = Stage(repository / "geometry")
    evaluate(stage, **checked({"geometry": {}}))  # type: ignore[arg-type]  # the stand-in
    assert set(stage.logged) >= {"geometry.rankme.test", "geometry.rankme.val"}


def test_missing_features_name_the_stage_to_run(repository: Path) -> None:
    """Without features the error says which stage makes them."""
    for file in paths.features("simclr").glob("seed-*.npy"):
        file.unlink()
    with pytest.raises(MissingInput, match="run `dvc repro embed@simclr`"):
        ran(repository)


def test_non_finite_features_name_the_seed_and_the_image(repository: Path) -> None:
    """A diverged encoder is not scored: seed, first image and what to do are said."""
    file = paths.features("simclr") / "seed-7.npy"
    array = np.load(file)
    array[[100, 110], 2] = np.nan, np.inf
    np.save(file, array)
    with pytest.raises(Refusal, match=r"seed 7 are not finite for 2 of 120 images \(the first: image-100\)"):
        ran(repository)


@pytest.mark.parametrize(
    ("probes", "sentence"),
    [
        ({"knn": {"k": 0, "temperature": 0.07}}, r"evaluations\.simclr\.probes\.knn\.k: .*not 0"),
        ({"knn": {"k": 5, "temperatur": 0.07}}, "unknown key 'temperatur'; did you mean 'temperature'"),
        ({"knn_k200": {"k": 5, "temperature": 0.07}}, r"probes\.knn_k200\.name: there is no .*did you mean 'knn'"),
        ({"knn": 5}, r"evaluations\.simclr\.probes\.knn: must be a mapping"),
        ([], r"evaluations\.simclr\.probes: "),
        ({"kNN": {"name": "knn", "k": 5, "temperature": 0.07}}, "'kNN'"),
    ],
)
def test_wrong_blocks_are_refused_before_anything_runs(probes: Any, sentence: str) -> None:
    """A probe's block is checked against its signature, and the error names its place in params.yaml."""
    with pytest.raises(ParamsError, match=sentence):
        checked(probes)


# ---- the schema itself

SCORE = {"mean": 0.5, "std": 0.0, "n": 1, "values": [0.5]}
ACCURACY = {
    "val": SCORE,
    "test": {**SCORE, "interval": [0.4, 0.6]},
    "protocol": "weighted 5-NN, cosine, T 0.07",
    "labels_used": 59,
}
MEASURE = {"val": SCORE, "test": SCORE, "protocol": "on the unit sphere, no labels", "labels_used": 0}
FILES = {
    "scores": {"knn.top1": ACCURACY, "geometry.rankme": MEASURE},
    "finetunes": {"finetune.1pct.top1": ACCURACY},
    "results": {"simclr": {"knn.top1": ACCURACY, "finetune.1pct.macro_f1": ACCURACY, "geometry.rankme": MEASURE}},
}


@pytest.mark.parametrize("kind", FILES)
def test_the_schema_accepts_its_three_files(kind: str) -> None:
    """Each kind of file is valid as what it is, and as nothing else."""
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    for other in FILES:
        valid = jsonschema.Draft202012Validator({**SCHEMA, "$ref": f"#/$defs/{other}"}).is_valid(FILES[kind])
        assert valid == (kind == other)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("knn.top1", "test", "mean"), 1.2),
        (("knn.top1", "test", "values"), []),
        (("knn.top1", "val", "interval"), [0.4, 0.6]),
        (("knn.top1", "test", "extra"), 1),
        (("knn.top1", "protocol"), ""),
        (("knn.top1", "labels_used"), 59.5),
        (("knn.top1", "run_id"), "4f2a"),
        (("geometry.rankme", "labels_used"), 59),
        (("knn.accuracy",), ACCURACY),
        (("geometry.rankme", "test"), ACCURACY["test"]),
    ],
)
def test_the_schema_is_tight(path: tuple[str, ...], value: Any) -> None:
    """A key too many, a value out of range or an unknown score is not valid."""
    changed = copy.deepcopy(FILES["scores"])
    place: Any = changed
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    assert not jsonschema.Draft202012Validator(SCHEMA).is_valid(changed)


@pytest.mark.parametrize("key", ["interval", "values"])
def test_the_schema_misses_what_is_left_out(key: str) -> None:
    """A test accuracy without its interval or its values is not valid."""
    changed = copy.deepcopy(FILES["scores"])
    del changed["knn.top1"]["test"][key]  # type: ignore[attr-defined]
    assert not jsonschema.Draft202012Validator(SCHEMA).is_valid(changed)
