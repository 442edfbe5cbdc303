"""What a figure knows of a row of the results table, and how the row looks in every figure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.lineage import saw_labels
from stages.figures import _svg as svg

HUES = 8  # colors of the style sheet for trained rows
GRAYS = 3  # and for untrained ones
SHAPES = ("circle", "square", "triangle", "diamond", "down")


@dataclass(frozen=True)
class Row:
    """One row: a run judged on a data set.

    `style` is the CSS class that sets its color, `shape` its mark, `trained` is false for floors such as random
    weights, `start` names the file of weights that it started from, None for fresh ones, `sees` is "labels" where the
    run or one that its weights come from saw some, else "images", `scores` is
    {score name: {"test", "val", "protocol", "labels_used"}}.
    """

    name: str
    run: str
    dataset: str
    sees: str
    trained: bool
    start: str | None
    style: str
    shape: str
    scores: Mapping[str, Any]

    @property
    def learned(self) -> bool:
        """Here or elsewhere: not a floor."""
        return self.trained or self.start is not None


def make(
    results: Mapping[str, Any], uses: Mapping[str, Mapping[str, Any]], runs: Mapping[str, Any], trained: set[str]
) -> list[Row]:
    """Rows in the order of `results`; `uses` says the run and data set of a row, `trained` names runs with a curve."""
    rows: list[Row] = []
    for place, (name, scores) in enumerate(results.items()):
        run = uses[name]["run"]
        init = runs[run]["init"]
        start = None if init.endswith(".py") else init
        learned = run in trained or start is not None
        rank = sum(row.learned == learned for row in rows)
        style = f"hue-{rank % HUES}" if learned else f"gray-{rank % GRAYS}"
        shape = SHAPES[place % len(SHAPES)]
        sees = "labels" if saw_labels(runs, run) else "images"
        rows.append(Row(name, run, uses[name]["dataset"], sees, run in trained, start, style, shape, scores))
    return rows


def best(rows: list[Row], score: str) -> Row | None:
    """The row with the highest validation mean of `score`; the first of equals; None where no row has the score."""
    able = [row for row in rows if score in row.scores]
    return max(able, key=lambda row: row.scores[score]["val"]["mean"], default=None)


def main(rows: list[Row]) -> Row | None:
    """The row whose features the figures show: highest validation kNN of those that learned without labels,

    among all rows where none did.
    """
    return best([row for row in rows if row.trained and row.sees == "images"], "knn.top1") or best(rows, "knn.top1")


def floor(rows: list[Row]) -> Row | None:
    """The strongest untrained row, which the main row is compared with."""
    return best([row for row in rows if not row.learned], "knn.top1")


def beside(row: Row, x: float, y: float, right: float, place: float) -> str:
    """The row's name at height `place` right of a plot, with a thin leader from its last point."""
    body = svg.path([(x + 10, y), (x + 18, y), (right + 6, place), (right + 12, place)], class_="leader")
    body += svg.mark(row.shape, right + 18, place, 3.6, class_="dot")
    body += svg.text(row.name, right + 27, place + 4, class_="name")
    return svg.element("g", body, class_=f"row {row.style}")
