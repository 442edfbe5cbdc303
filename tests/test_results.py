"""docs/results.md is what the recipes' results.json, their params.yaml and the benchmarks give; nothing is typed there.

    python tests/test_results.py      writes docs/results.md

What others publish is a table in this file, each line with its source.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import methods
from benchmarks._results import ABOUT, RESULTS, shown
from pipeline import params

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "results.md"
DEFAULT = "digits"  # its table is in README.md
RATES = RESULTS / "methods.json"
MEASURED = methods.RECIPE.parent.name  # the study whose runs benchmarks/methods.py trains
COLUMNS = {  # heading → score
    "kNN": "knn.top1",
    "linear": "linear.top1",
    "linear, 1 %": "linear_1pct.top1",
    "linear, 10 %": "linear_10pct.top1",
    "fine-tuned, 1 %": "finetune.1pct.top1",
    "fine-tuned, 10 %": "finetune.10pct.top1",
}
PUBLISHED = {  # method → solo-learn linear at 1,000 epochs; lightly kNN at 200 and at 800 epochs, batch 512
    "simclr": (90.74, 84.8, 87.9),
    "moco": (92.94, 84.7, 89.9),
    "moco_v3": (93.10, None, None),
    "nnclr": (91.88, 81.5, 89.2),
    "byol": (92.58, 86.8, 91.0),
    "simsiam": (90.51, 76.4, 90.4),
    "barlow_twins": (92.10, 81.9, 85.9),
    "vicreg": (92.07, None, None),
    "swav": (89.17, 84.2, 88.4),
    "deepcluster_v2": (88.85, None, None),
    "dino": (89.52, 81.3, 84.8),
}
REWRITE = "run `python tests/test_results.py` to write the page"

TOP = """# Results

Every study in recipes/ that has run. `python tests/test_results.py` writes this page from recipes/*/results.json,
the params.yaml beside it, and benchmarks/results/; the default study is in [README.md](../README.md).
Test top-1 in %, mean ± std; what was chosen was chosen on validation images. A line is a row of the study's report.
"""
OTHERS = """## What others publish for CIFAR-10

All of CIFAR-10 at 32×32, ResNet-18 with the CIFAR stem, a GPU: other data, another network, other probes and many times
the epochs. These numbers cannot be compared with those above; they show what a long training of a method reaches.

- solo-learn (its README.md): 1,000 epochs, batch 256; *online* linear probe, trained beside the encoder; no spread.
- lightly (the benchmarks of its documentation): batch 512; kNN with k 200 and T 0.1; the *best epoch on the test
  images*; one run.
- Of the other methods here neither has a number, and neither publishes 1 % or 10 % of the labels.
"""


def page() -> str:
    """The whole of docs/results.md."""
    parts = [study(path.parent) for path in sorted((ROOT / "recipes").glob("*/results.json"))]
    return "\n".join([TOP, *parts, OTHERS, published()])


def study(folder: Path) -> str:
    """One study: its table, and under it how its numbers were obtained."""
    if folder.name == DEFAULT:
        return ""
    scores = json.loads((folder / "results.json").read_text())
    values = params.read(folder / "params.yaml")
    rates = speeds() if folder.name == MEASURED else {}
    return "\n".join([f"## {folder.name}\n", table(scores, values, rates), "", *ways(scores), *machine(rates), ""])


def table(scores: dict[str, Any], values: dict[str, Any], rates: dict[str, float]) -> str:
    """A line for every row of a results.json; columns that no row has are left out."""
    columns = {head: score for head, score in COLUMNS.items() if any(score in has for has in scores.values())}
    lines = [["", *columns, "epochs", *(["images/s", "minutes"] if rates else [])]]
    lines.append(["---", *["---:"] * (len(lines[0]) - 1)])
    for row, has in scores.items():
        epochs = values["runs"][values["evaluations"][row]["run"]]["training"]["epochs"]
        cells = [cell(has.get(score)) for score in columns.values()]
        lines.append([f"`{row}`", *cells, str(epochs or "–"), *(timed(row, has, epochs, rates) if rates else [])])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(score: dict[str, Any] | None) -> str:
    """Mean ± std, without a spread where there is one value."""
    if score is None:
        return "–"
    test = score["test"]
    spread = f" ± {100 * test['std']:.1f}" if test["n"] > 1 else ""
    return f"{100 * test['mean']:.1f}{spread}"


def timed(row: str, has: dict[str, Any], epochs: int, rates: dict[str, float]) -> list[str]:
    """Images/s of a run that trains, and the minutes that its epochs over the training images take at this rate."""
    if row not in rates:
        return ["–", "–"]
    images = has["linear.top1"]["labels_used"]  # every training image has a label
    return [shown(rates[row]), f"{epochs * images / rates[row] / 60:.1f}"]


def ways(scores: dict[str, Any]) -> list[str]:
    """The protocol of every column, once."""
    lines = []
    for head, score in COLUMNS.items():
        found = [has[score] for has in scores.values() if score in has]
        if found:
            counts = sorted({entry["test"]["n"] for entry in found})
            repeats = f"{' or '.join(map(str, counts))} value{'s' if counts != [1] else ''} a row"
            lines.append(f"- *{head}* ({repeats}): {found[0]['protocol']}.")
    return lines


def speeds() -> dict[str, float]:
    """Run → images/s, as benchmarks/methods.py measured it; none before it has run."""
    if not RATES.exists():
        return {}
    records = json.loads(RATES.read_text())
    return {name.removeprefix("method_"): record["ours"] for name, record in records.items() if name not in ABOUT}


def machine(rates: dict[str, float]) -> list[str]:
    """What the rates were measured on."""
    if not rates:
        return []
    about = json.loads(RATES.read_text())["machine"]
    return [
        f"- images/s, minutes: training alone, one thread of {about['cpu']} ({about['instruction_set']}); "
        f"`{methods.COMMAND}`."
    ]


def published() -> str:
    """The table of what others publish."""
    lines = [["", "solo-learn, linear, 1,000 epochs", "lightly, kNN, 200 epochs", "lightly, kNN, 800 epochs"]]
    lines.append(["---", "---:", "---:", "---:"])
    for name, (linear, *knn) in PUBLISHED.items():
        lines.append([f"`{name}`", f"{linear:.2f}", *("–" if value is None else f"{value:.1f}" for value in knn)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def test_the_page_is_what_the_results_give() -> None:
    """docs/results.md has no number that is not in a results.json, a params.yaml or a benchmark."""
    assert PAGE.read_text() == page(), REWRITE


def entry(mean: float, std: float, n: int) -> dict[str, Any]:
    return {"labels_used": 7000, "protocol": "some way", "test": {"mean": mean, "std": std, "n": n}}


@pytest.fixture
def values() -> dict[str, Any]:
    runs = {"a": {"training": {"epochs": 30}}, "none": {"training": {"epochs": 0}}}
    return {"runs": runs, "evaluations": {"a": {"run": "a"}, "floor": {"run": "none"}}}


def test_a_row_shows_what_it_has(values: dict[str, Any]) -> None:
    """A spread where there are several values, a dash for what is missing, no column that no row has."""
    scores = {
        "a": {"knn.top1": entry(0.4512, 0.0123, 3), "linear.top1": entry(0.5, 0.0, 1)},
        "floor": {"knn.top1": entry(0.3, 0.0, 1)},
    }
    assert table(scores, values, {}).splitlines() == [
        "|  | kNN | linear | epochs |",
        "| --- | ---: | ---: | ---: |",
        "| `a` | 45.1 ± 1.2 | 50.0 | 30 |",
        "| `floor` | 30.0 | – | – |",
    ]


def test_minutes_follow_from_the_rate(values: dict[str, Any]) -> None:
    """30 epochs of 7,000 images at 1,750 a second are 2 minutes; what does not train has no rate."""
    scores = {"a": {"linear.top1": entry(0.5, 0.0, 1)}, "floor": {"linear.top1": entry(0.3, 0.0, 1)}}
    lines = table(scores, values, {"a": 1750.0}).splitlines()
    assert lines[2] == "| `a` | 50.0 | 30 | 1,750 | 2.0 |"
    assert lines[3] == "| `floor` | 30.0 | – | – | – |"


def test_every_way_is_told_once() -> None:
    """Each column that is there has its protocol, and how many values stand behind a mean."""
    scores = {"a": {"knn.top1": entry(0.4, 0.1, 3)}, "b": {"knn.top1": entry(0.4, 0.0, 1)}}
    assert ways(scores) == ["- *kNN* (1 or 3 values a row): some way."]


def test_published_numbers_are_of_methods_that_are_here() -> None:
    """Every method in the table of others is a run of the recipe that compares methods."""
    assert set(PUBLISHED) <= set(params.read(methods.RECIPE)["runs"])


if __name__ == "__main__":
    PAGE.write_text(page())
