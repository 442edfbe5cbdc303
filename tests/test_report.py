"""The report joins what other stages left, refuses what is not of the study, and is one page that needs nothing else.

`write_study` makes up a whole study in the formats of the real stages: handwritten digits, four rows.
"""

import csv
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import MissingInput, ParamsError, Refusal
from stages.figures import _images, _rows, _svg, confusion, feature_map, neighbors
from stages.report import FIGURES, report

CROP = {"scale": [0.4, 1.0], "ratio": [0.75, 1.333], "interpolation": "bilinear"}
JITTER = {"probability": 0.8, "brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}
SIMCLR_VIEWS = {
    "name": "simclr",
    "crop": CROP,
    "flip": 0.0,
    "rotation": 15.0,
    "jitter": JITTER,
    "grayscale": 0.0,
    "blur": {"probability": 0.0, "kernel": 3, "sigma": [0.1, 2.0]},
}
WEAK_VIEWS = {"name": "weak", "crop": {"padding": 1}, "flip": 0.0, "rotation": 0.0}
ROWS = ("simclr", "supervised", "random", "pixels")
OUTS = ("results.json", "index.html", "curves.csv", "accuracy.csv", "confusion.csv")


def make_params() -> dict:
    """The sections of params.yaml: rows in an order that no sorting gives."""
    run = {"dataset": "digits", "input": {"side": 8, "mean": [0.5] * 3, "std": [0.5] * 3}, "seeds": [0, 1, 2]}
    runs = {
        "simclr": {**run, "sees": "images", "method": {"name": "simclr"}, "views": SIMCLR_VIEWS},
        "supervised": {**run, "sees": "labels", "method": {"name": "supervised"}, "views": WEAK_VIEWS},
        "random": {**run, "sees": "images", "method": {"name": "random"}, "views": WEAK_VIEWS},
        "pixels": {**run, "sees": "images", "method": {"name": "random"}, "views": WEAK_VIEWS, "seeds": [0]},
    }
    budgets = {"1pct": {"seeds": [0, 1, 2]}, "10pct": {"seeds": [0, 1, 2]}}
    return {
        "datasets": {"digits": {"pretrain_on": ["train"], "budgets": budgets}},
        "runs": runs,
        "evaluations": {name: {"run": name, "dataset": "digits"} for name in ROWS},
        "finetunes": {name: {"run": name, "dataset": "digits"} for name in ROWS[:3]},
    }


def write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")


def write_table(path: Path, **columns: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


def write_dataset(folder: Path, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`count` digits prepared as `prepare` does; returns pixels, labels and splits."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    gray = np.repeat((digits.images[:count] * 15.9375).astype(np.uint8)[..., None], 3, axis=3)
    labels = digits.target[:count].astype(np.int64)
    splits = np.random.default_rng(0).choice(["train", "validation", "test"], count, p=[0.6, 0.2, 0.2])
    ids = np.array([f"digit-{index:04}" for index in range(count)])
    train = np.flatnonzero(splits == "train")
    (folder / "images").mkdir(parents=True)
    np.save(folder / "images" / "pixels.npy", gray)
    write_table(folder / "images" / "index.parquet", id=ids, sha256=ids)
    write_table(folder / "labels.parquet", id=ids, label=labels, name=labels.astype(str))
    write_table(folder / "splits.parquet", id=ids, split=splits)
    write_table(folder / "pretrain" / "images.parquet", id=ids[train], row=train)
    write_table(folder / "pretrain" / "labels.parquet", id=ids[train], row=train, label=labels[train])
    grant = {"labels_used": 10, "per_class": {}, "shortfall": {}}
    summary = {
        name: {str(s): grant | {"labels_used": n} for s in range(3)} for name, n in (("1pct", 10), ("10pct", 110))
    }
    write_json(folder / "budgets" / "summary.json", summary)
    return gray, labels, splits


def write_features(row: str, pixels: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Class centers and noise, less noise for rows that learned; the pixels themselves for `pixels`."""
    draws = np.random.default_rng(len(row))
    noise = {"simclr": 0.62, "supervised": 0.45, "random": 2.0, "pixels": 0.0}[row]
    raw = pixels[..., 0].reshape(len(pixels), -1) / 255
    centers = np.stack([raw[labels == label].mean(0) for label in range(10)])
    features = centers[labels] + noise * draws.normal(0, 0.5, raw.shape) if noise else raw
    folder = Path("data/features") / row
    folder.mkdir(parents=True)
    for seed in range(3):
        np.save(folder / f"seed-{seed}.npy", features.astype(np.float32))
    return features


def predict(features: np.ndarray, labels: np.ndarray, splits: np.ndarray, test: np.ndarray) -> np.ndarray:
    """The class of the nearest training image by cosine."""
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    train = np.flatnonzero(splits == "train")
    return labels[train][(unit[test] @ unit[train].T).argmax(1)]


def entry(mean: float, labels_used: int, protocol: str, n: int = 3) -> dict:
    """A score as evaluate and finetune write it; validation a little above test."""
    values = [round(mean + shift, 4) for shift in np.linspace(-0.004, 0.004, n)] if n > 1 else [mean]
    test = {"mean": mean, "std": 0.004 if n > 1 else 0.0, "n": n, "values": values}
    val = {**test, "mean": round(min(mean + 0.003, max(mean, 1.0)), 4)}
    interval = (
        {} if protocol.startswith("On") else {"interval": [round(mean - 0.02, 4), round(min(1, mean + 0.015), 4)]}
    )
    return {"test": test | interval, "val": val, "protocol": protocol, "labels_used": labels_used}


def write_scores(row: str, accuracy: float, place: int, seeds: int, labels: int) -> None:
    scores = {
        f"{probe}.{score}": entry(round(accuracy + bonus - loss, 4), labels, protocol, seeds)
        for probe, bonus, protocol in (
            ("knn", 0.0, "Cosine, weighted, k 20, temperature 0.07; every labelled training image."),
            ("linear", 0.011, "Logistic regression on frozen features, L2 chosen on validation."),
        )
        for score, loss in (("top1", 0.0), ("balanced_accuracy", 0.002), ("macro_f1", 0.003))
    }
    for score, value in (("alignment", 0.3 + place), ("uniformity", -2.6 + place / 4), ("rankme", 31.4 - 5 * place)):
        scores[f"geometry.{score}"] = entry(value, 0, "On unit features of validation or test images.", seeds)
    write_json(Path("data/scores") / f"{row}.json", scores)


def write_finetunes(row: str, few: float, more: float) -> None:
    protocol = "Whole encoder trained on the budget's labels, last epoch, 60 epochs."
    scores = {
        f"finetune.{budget}.{score}": entry(round(mean - loss, 4), used, protocol, 9)
        for budget, mean, used in (("1pct", few, 10), ("10pct", more, 110))
        for score, loss in (("top1", 0.0), ("balanced_accuracy", 0.001), ("macro_f1", 0.004))
    }
    write_json(Path("data/finetunes") / f"{row}.json", scores)


def write_curves(run: str, seeds: list[int]) -> None:
    """Falling losses for runs that train, only the header for the others."""
    for seed in seeds:
        path = Path("data/encoders") / run / f"seed-{seed}" / "curves.csv"
        path.parent.mkdir(parents=True)
        lines = ["epoch,learning_rate,loss"]
        if run in ("simclr", "supervised"):
            top, floor = {"simclr": (5.1, 3.3), "supervised": (2.3, 0.05)}[run]
            draws = np.random.default_rng(seed)
            losses = floor + (top - floor) * np.exp(-np.arange(60) / 12) + draws.normal(0, 0.02, 60)
            lines += [f"{epoch},0.001,{loss:.8g}" for epoch, loss in enumerate(losses)]
        path.write_text("\n".join(lines) + "\n")


def write_receipts(params: dict) -> None:
    commands = {"prepare": "datasets", "pretrain": "runs", "embed": "evaluations", "evaluate": "evaluations"}
    for command, section in (commands | {"finetune": "finetunes"}).items():
        for name, block in params[section].items():
            receipt = {
                "stage": f"{command}@{name}",
                "params": {f"{section}.{name}": block},
                "code": {f"stages/{command}.py": "0123456789abcdef" * 2},
                "data": {"data/datasets/digits/images": "fedcba9876543210" * 2 + ".dir"},
                "versions": {"python": "3.11.2", "torch": "2.14.1", "numpy": "2.4.6"},
                "hardware": {"device": "Some CPU", "instruction_set": "AVX2", "threads": 1, "precision": "fp32"},
            }
            write_json(Path("data/receipts") / f"{command}-{name}.json", receipt)


def write_study(count: int) -> dict:
    """All that the report reads, under ./data; returns the sections of params.yaml."""
    params = make_params()
    pixels, labels, splits = write_dataset(Path("data/datasets/digits"), count)
    test = np.flatnonzero(splits == "test")
    for place, row in enumerate(ROWS):
        seeds = params["runs"][row]["seeds"]
        features = write_features(row, pixels, labels)
        predicted = predict(features, labels, splits, test)
        accuracy = round(float((predicted == labels[test]).mean()), 4)
        table = [
            (probe, seed, at, said)
            for probe in ("knn", "linear")
            for seed in seeds
            for at, said in zip(test, predicted, strict=True)
        ]
        Path("data/predictions").mkdir(exist_ok=True)
        write_table(
            Path("data/predictions") / f"{row}.parquet",
            probe=[line[0] for line in table],
            seed=[line[1] for line in table],
            id=[f"digit-{line[2]:04}" for line in table],
            split=["test"] * len(table),
            label=[int(labels[line[2]]) for line in table],
            predicted=[int(line[3]) for line in table],
        )
        write_scores(row, accuracy, place, len(seeds), int((splits == "train").sum()))
        write_curves(row, seeds)
    for row, few, more in (("simclr", 0.871, 0.953), ("supervised", 0.902, 0.961), ("random", 0.518, 0.882)):
        write_finetunes(row, few, more)
    write_receipts(params)
    return params


class Stage:
    """As much of a running stage as the report asks for: outs go to `folder`."""

    study = "digits"

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def out(self, path: Path) -> Path:
        self.folder.mkdir(exist_ok=True)
        return self.folder / path.name

    def check(self) -> None: ...


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A study and its report: `.root`, `.params`, `.out`."""
    root = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        params = write_study(400)
        report(Stage(root / "out"), **params)
    return SimpleNamespace(root=root, params=params, out=root / "out", page=(root / "out" / "index.html").read_text())


@pytest.fixture
def study(made: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A copy of the study that a test may break, as current directory."""
    shutil.copytree(made.root / "data", tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    return SimpleNamespace(params=json.loads(json.dumps(made.params)), data=tmp_path / "data", out=tmp_path / "out")


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_results_join_scores_and_finetunes(made):
    """results.json holds every score of every row unchanged, rows in the order of params.yaml."""
    results = json.loads((made.out / "results.json").read_text())
    assert list(results) == list(ROWS)
    for row in ROWS:
        expected = json.loads((made.root / "data/scores" / f"{row}.json").read_text())
        if row != "pixels":
            expected |= json.loads((made.root / "data/finetunes" / f"{row}.json").read_text())
        assert results[row] == expected
        assert list(results[row]) == sorted(expected)


def test_second_run_gives_the_same_bytes(study, made):
    """Nothing in the outputs depends on when or where they were made."""
    report(Stage(study.out), **study.params)
    for name in OUTS:
        assert (study.out / name).read_bytes() == (made.out / name).read_bytes(), name


class Elements(HTMLParser):
    """Counts open elements and keeps what could load something."""

    VOID = frozenset({"meta", "img", "link", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.rows: list[str] = []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.loads += [value for name, value in attrs if name in ("src", "href", "srcset", "data", "xlink:href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list) -> None: ...

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_page_is_well_formed_and_needs_no_other_file(made):
    """Every element is closed in order, and nothing is loaded but the data URIs inside the page."""
    elements = Elements()
    elements.feed(made.page)
    assert elements.open == []
    assert elements.loads
    assert all(value.startswith(("data:image/", "#")) for value in elements.loads)
    assert "http:" not in made.page
    assert "https:" not in made.page
    assert not re.search(r"@import|url\((?!data:)", made.page)


def test_page_shows_every_row_and_figure(made):
    """Each of the eight figures has its section, and each row its line in the results table."""
    keys = re.findall(r'<section id="(\w+)"', made.page)
    assert keys == ["results", "labels", "curves", "map", "neighbors", "confusion", "views", "receipts"]
    assert len(keys) == len(FIGURES)
    table = made.page.partition('<table class="results">')[2].partition("</table>")[0]
    assert re.findall(r'<i class="swatch"></i>(\w+)', table) == list(ROWS)
    for stage in ("prepare@digits", "pretrain@simclr", "embed@pixels", "evaluate@random", "finetune@supervised"):
        assert f"<code>{stage}</code>" in made.page


def test_page_names_protocol_and_labels(made):
    """A number's protocol sentence and the labels it used stand on the page."""
    assert "Cosine, weighted, k 20, temperature 0.07; every labelled training image." in made.page
    assert (
        "Budgets of digits: 1\N{THIN SPACE}% is 10 labels, 3 draws; 10\N{THIN SPACE}% is 110 labels, 3 draws."
        in made.page
    )


def test_best_is_bold_by_validation(study):
    """The row with the best validation mean is bold although another is better on test."""
    for name in ROWS:
        test, val = (0.1, 0.9) if name == "random" else (0.99, 0.5)
        path = study.data / "scores" / f"{name}.json"
        scores = json.loads(path.read_text())
        scores["knn.top1"]["test"]["mean"], scores["knn.top1"]["val"]["mean"] = test, val
        write_json(path, scores)
    report(Stage(study.out), **study.params)
    table = (study.out / "index.html").read_text().partition('<table class="results">')[2]
    lines = {row: table.partition(f"</i>{row}<")[2].partition("</tr>")[0] for row in ("simclr", "random")}
    assert re.search(r"<td class=best><span [^>]+><b>10\.0</b>", lines["random"])
    assert re.search(r"<td><span [^>]+><b>99\.0</b>", lines["simclr"])


def test_tables_for_plots(made):
    """The three tables have the columns that dvc.yaml names, and a line for each epoch, budget and test prediction."""
    curves = read_csv(made.out / "curves.csv")
    assert list(curves[0]) == ["row", "seed", "epoch", "loss"]
    assert len(curves) == 2 * 3 * 60
    assert {line["row"] for line in curves} == {"simclr", "supervised"}
    accuracy = read_csv(made.out / "accuracy.csv")
    assert accuracy[0] == {"row": "simclr", "labels": "10", "budget": "1pct", "top1": "0.871000", "std": "0.004000"}
    assert len(accuracy) == 3 * 2
    table = pq.read_table(made.root / "data/predictions/simclr.parquet", filters=[("probe", "=", "linear")])
    pairs = sorted(zip(*(map(str, table[column].to_pylist()) for column in ("label", "predicted")), strict=True))
    lines = read_csv(made.out / "confusion.csv")
    assert sorted((line["actual"], line["predicted"]) for line in lines) == pairs


@pytest.mark.parametrize(
    "stranger",
    ["scores/byol.json", "receipts/pretrain-byol.json", "encoders/byol/model.py", "datasets/cats/labels.parquet"],
)
def test_strangers_are_refused(study, stranger):
    """A result that params.yaml does not name stops the report with its path and how to remove it."""
    path = study.data / stranger
    path.parent.mkdir(exist_ok=True)
    path.touch()
    top = "/".join(["data", *stranger.split("/")[:2]])
    with pytest.raises(Refusal, match=rf"does not name: {re.escape(top)}\..*git rm"):
        report(Stage(study.out), **study.params)
    assert not study.out.exists()


def test_files_of_git_are_no_strangers(study):
    """DVC's .gitignore files and a receipt of the report itself are at home in data/."""
    (study.data / "encoders" / ".gitignore").touch()
    (study.data / "receipts" / "report.json").touch()
    report(Stage(study.out), **study.params)


@pytest.mark.parametrize(
    ("path", "stage"),
    [
        ("scores/random.json", "evaluate@random"),
        ("finetunes/random.json", "finetune@random"),
        ("encoders/simclr/seed-1/curves.csv", "pretrain@simclr"),
        ("features/simclr/seed-0.npy", "embed@simclr"),
        ("predictions/simclr.parquet", "evaluate@simclr"),
        ("receipts/embed-pixels.json", "embed@pixels"),
    ],
)
def test_missing_input_names_its_stage(study, path, stage):
    """What is missing is said together with the command that makes it."""
    (study.data / path).unlink()
    with pytest.raises(MissingInput, match=f"{path} is missing: run `dvc repro {stage}`"):
        report(Stage(study.out), **study.params)


def test_a_row_cannot_join_two_runs(study):
    """An evaluation and a fine-tuning of the same name but different runs are not one row."""
    study.params["finetunes"]["simclr"]["run"] = "random"
    with pytest.raises(ParamsError, match=r"finetunes\.simclr are one row"):
        report(Stage(study.out), **study.params)


def test_main_row_learned_without_labels(study):
    """Neither a supervised row nor raw pixels become the main row, however good they are."""
    for name in ("supervised", "pixels"):
        path = study.data / "scores" / f"{name}.json"
        scores = json.loads(path.read_text())
        scores["knn.top1"]["val"]["mean"] = 1.0
        write_json(path, scores)
    report(Stage(study.out), **study.params)
    page = (study.out / "index.html").read_text()
    assert '<p class="opening"><b>simclr</b> learned from' in page
    assert "Untrained, pixels reaches" in page


def test_a_study_of_untrained_rows_has_a_report(study):
    """Without fine-tuning and training, the figures that need them are left out."""
    params = study.params
    for section in ("runs", "evaluations"):
        params[section] = {name: params[section][name] for name in ("random", "pixels")}
    params["finetunes"] = {}
    for folder in ("scores", "finetunes", "features", "encoders", "predictions", "receipts"):
        for path in (study.data / folder).iterdir():
            if re.search(r"simclr|supervised|finetune", str(path.relative_to(study.data))):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    report(Stage(study.out), **params)
    keys = re.findall(r'<section id="(\w+)"', (study.out / "index.html").read_text())
    assert keys == ["results", "labels", "map", "neighbors", "confusion", "receipts"]
    assert read_csv(study.out / "curves.csv") == []


def test_rows_keep_their_color():
    """Trained rows take colors, untrained ones grays, each in its own order, and marks differ."""
    runs = {name: {"sees": "images"} for name in "abcd"}
    uses = {name: {"run": name, "dataset": "d"} for name in "abcd"}
    rows = _rows.make({name: {} for name in "abcd"}, uses, runs, {"a", "c"})
    assert [row.style for row in rows] == ["hue-0", "gray-0", "hue-1", "gray-1"]
    assert len({row.shape for row in rows}) == 4


def test_names_are_escaped():
    """A class called <b> cannot become markup."""
    matrix = confusion.count(np.array([0, 1]), np.array([1, 1]), 2)
    tile = np.zeros((2, 2, 3), np.uint8)
    drawn = confusion.draw(matrix, ["<b>", "&"], [(tile, 0, 1)])
    assert "<b>" not in drawn
    assert "&lt;b&gt; read as &amp;: 1 of 1" in drawn


def test_confusion_counts():
    """An image of class 1 read as class 0 is counted in line 1, column 0."""
    matrix = confusion.count(np.array([0, 1, 1]), np.array([0, 0, 1]), 3)
    assert matrix.tolist() == [[1, 0, 0], [1, 1, 0], [0, 0, 0]]


def test_neighbors_are_the_most_similar_by_cosine():
    """Length does not matter, direction does; equals keep their order."""
    gallery = np.array([[0, 1], [5, 0], [1, 1], [2, 0]], np.float32)
    places, cosines = neighbors.nearest(np.array([[3.0, 0.0]]), gallery)
    assert places.tolist() == [[1, 3, 2, 0]]
    np.testing.assert_allclose(cosines, [[1, 1, 2**-0.5, 0]], atol=1e-6)


def test_queries_are_one_per_class_and_some_errors():
    """Ten classes give eight queries of eight classes, three of them misread; two classes are asked again."""
    labels = np.arange(100) % 10
    wrong = np.isin(np.arange(100), [13, 23, 9, 19, 0])
    chosen = neighbors.choose(labels, wrong)
    assert len(set(labels[chosen])) == 8
    assert wrong[chosen].sum() == 3
    assert len(set(neighbors.choose(labels % 2, wrong))) == 8


def test_map_lies_in_its_frame_and_never_changes():
    """Places are inside the unit square and the same in every call."""
    features = np.random.default_rng(0).normal(size=(30, 5)).astype(np.float32)
    places = feature_map.project(features)
    assert places.shape == (30, 2)
    assert places.min() >= -1e-6
    assert places.max() <= 1 + 1e-6
    assert np.array_equal(places, feature_map.project(features))


def test_image_survives_the_data_uri():
    """A small image comes back pixel for pixel; a large one is reduced."""
    import base64
    import io

    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (8, 6, 3), dtype=np.uint8)
    text = _images.data_uri(pixels)
    back = Image.open(io.BytesIO(base64.b64decode(text.partition(",")[2])))
    assert np.array_equal(np.asarray(back), pixels)
    assert _images.shrink(np.zeros((200, 100, 3), np.uint8)).shape == (64, 32, 3)


def test_sheet_holds_every_tile_in_reading_order():
    """Tile i of the sheet lies at column i % columns, line i // columns."""
    images = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    sheet, columns = _images.sheet(images)
    assert columns == 3
    assert sheet.shape == (4, 6, 3)
    assert [int(sheet[i // 3 * 2, i % 3 * 2, 0]) for i in range(5)] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (0.03, 5.1, [2, 4]), (-7, -1, [-6, -4, -2])],
)
def test_ticks_are_round_numbers(low, high, expected):
    """Axis marks are multiples of 1, 2 or 5 inside the axis."""
    np.testing.assert_allclose(_svg.ticks(low, high, 5), expected, atol=1e-12)


def test_labels_are_spread_inside_the_axis():
    """Names that would collide move apart, keep their order and stay inside."""
    moved = _svg.spread([50, 48, 99, 98], 10, 0, 100)
    assert sorted(range(4), key=lambda i: moved[i]) == [1, 0, 3, 2]
    assert min(np.diff(sorted(moved))) >= 10
    assert max(moved) <= 100
