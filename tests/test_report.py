"""The report joins what other stages left, refuses what is not of the study, and is one page that needs no other."""

import csv
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import jsonschema
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_study import ROWS, Stage, write_json, write_study

from pipeline.errors import MissingInput, Refusal
from stages.report import FIGURES, report

OUTS = ("results.json", "index.html", "curves.csv", "accuracy.csv", "confusion.csv")


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


def test_results_follow_their_schema(made):
    """results.json is what tests/scores.schema.json promises to whoever reads it."""
    schema = json.loads((Path(__file__).parent / "scores.schema.json").read_text())
    schema["anyOf"] = [{"$ref": "#/$defs/results"}]
    jsonschema.validate(json.loads((made.out / "results.json").read_text()), schema)


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
    """Each of the ten figures has its section, and each row its line in the results table."""
    keys = re.findall(r'<section id="(\w+)"', made.page)
    figures = ["results", "labels", "layers", "curves", "map", "neighbors", "confusion", "views", "data", "receipts"]
    assert keys == figures
    assert len(keys) == len(FIGURES)
    table = made.page.partition('<table class="results">')[2].partition("</table>")[0]
    assert re.findall(r'<i class="swatch"></i>(\w+)', table) == list(ROWS)
    for stage in ("prepare@digits", "pretrain@simclr", "embed@pixels", "evaluate@random", "finetune@supervised"):
        assert f"<code>{stage}</code>" in made.page


def test_page_names_protocol_and_labels(made):
    """A number's protocol sentence, the labels it used and what was chosen for it stand on the page."""
    assert "Cosine, weighted, k 20, temperature 0.07; every labeled training image." in made.page
    assert (
        "Budgets of digits: 1\N{THIN SPACE}% is 10 labels, 3 draws; 10\N{THIN SPACE}% is 110 labels, 3 draws."
        in made.page
    )


def test_a_narrow_interval_is_said_to_be_one(made, study):
    """Where few patients were judged, the page says that their interval is too narrow, and nowhere else."""
    words = " independent test images or groups is too narrow."
    assert words not in made.page
    path = study.data / "datasets" / "digits" / "splits.parquet"
    table = pq.read_table(path)
    patients = pa.array([f"patient {row % 8}" for row in range(len(table))])
    pq.write_table(table.set_column(table.column_names.index("group"), "group", patients), path)
    report(Stage(study.out), **study.params)
    assert f"An interval over 8{words}" in (study.out / "index.html").read_text()


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
    assert list(curves[0]) == ["run", "seed", "epoch", "loss"]
    assert len(curves) == 2 * 3 * 60
    assert {line["run"] for line in curves} == {"simclr", "supervised"}
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
    """DVC's .gitignore files are at home in data/."""
    (study.data / "encoders" / ".gitignore").touch()
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
    assert keys == ["results", "labels", "layers", "map", "neighbors", "confusion", "data", "receipts"]
    assert read_csv(study.out / "curves.csv") == []
