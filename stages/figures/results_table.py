"""The results: one line per row, test numbers, best in bold by validation, and the validation twin on demand."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from stages.datasets._prepared import Prepared
from stages.figures import _numbers as n
from stages.figures._page import Section
from stages.figures._rows import Row, best
from stages.figures._study import Study

FEW = 30  # groups below which the bootstrap's interval is plainly too narrow
HEADLINE = ("knn.top1", "linear.top1")
GEOMETRY = ("geometry.alignment", "geometry.uniformity", "geometry.rankme")
TITLES = {
    "knn": "kNN",
    "linear": "linear",
    "geometry": "geometry",
    "top1": "top-1",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "rankme": "RankMe",
    "feature_std": "feature std",
    "map": "mAP",
    "r_precision": "R-precision",
    "finetune": "fine-tuned",
}


def section(study: Study) -> Section | None:
    """None in a study without results."""
    if not study.rows:
        return None
    judged = {name: _judged(study.prepared(name)) for name in dict.fromkeys(row.dataset for row in study.rows)}
    tested = " and ".join(
        n.count(images) + (f" ({escape(name)})" if len(judged) > 1 else "") for name, (images, _) in judged.items()
    )
    if not any(images for images, _ in judged.values()):
        caption = (
            "No test image has a label, so nothing is judged by classes. Geometry describes features, ranks nothing."
        )
        return Section("results", "Results", caption, draw(study.rows, study.budgets))
    caption = (
        f"Mean ± standard deviation on {tested} test images, over {_repeats(study.rows)}; below it the 95 % interval. "
        "Bold is the best of a column by validation mean: choices were made there, the test images were read once. "
        "Geometry describes features and ranks nothing."
    )
    if few := [groups for _, groups in judged.values() if groups < FEW]:
        caption += (
            f" An interval over {' and '.join(map(n.count, few))} independent test images or groups is too narrow."
        )
    caption += "".join(f" <b>Warning: {stage}: {escape(words)}.</b>" for stage, words in study.leaks.items())
    return Section("results", "Results", caption, draw(study.rows, study.budgets))


def _judged(prepared: Prepared) -> tuple[int, int]:
    """How many test images have a label, and of how many groups they are."""
    rows = prepared.labeled("test")
    return len(rows), len(set(prepared.groups[rows]))


def draw(rows: Sequence[Row], budgets: Sequence[str]) -> str:
    """The table of test numbers, then two folded ones: its validation twin, and every score with its protocol.

    `budgets` are the label budgets in the order of params.yaml; columns that no row has are left out.
    """
    scores = [*HEADLINE, *(f"finetune.{budget}.top1" for budget in budgets), *GEOMETRY]
    scores = [score for score in scores if any(score in row.scores for row in rows)]
    twin = "<p class='note'>The same columns on validation images: what was chosen was chosen by these.</p>"
    return (
        _table(rows, scores, "test")
        + _fold("Validation twin", twin + _table(rows, scores, "val"))
        + _fold("Every score and its protocol", _all_scores(rows))
    )


def _repeats(rows: Sequence[Row]) -> str:
    """How many values stand behind a mean of the table: "1 to 3 seeds (fine-tuning: 9 label draws × seeds)"."""

    def span(tuned: bool) -> str:
        found = {
            entry["test"]["n"]
            for row in rows
            for score, entry in row.scores.items()
            if (score.startswith("finetune.") if tuned else score in (*HEADLINE, *GEOMETRY))
        }
        return " to ".join(map(str, sorted({min(found), max(found)}))) if found else ""

    seeds, draws = span(False), span(True)
    tuning = f" (fine-tuning: {draws} label draws × seeds)" if draws else ""
    return f"{seeds} seed{'' if seeds == '1' else 's'}{tuning}" if seeds else f"{draws} label draws × seeds"


def title(score: str) -> str:
    """finetune.1pct.macro_f1 -> fine-tuned 1 % macro F1."""
    return " ".join(TITLES.get(word, n.budget(word)) for word in score.split("."))


def _table(rows: Sequence[Row], scores: Sequence[str], split: str) -> str:
    accuracies = [score for score in scores if score not in GEOMETRY]
    datasets = list(dict.fromkeys(row.dataset for row in rows))
    head = "".join(_heading(score, rows, len(datasets) == 1) for score in scores)
    groups = _group("top-1 accuracy, %", len(accuracies)) + _group("geometry", len(scores) - len(accuracies))
    body = ""
    for dataset in datasets:
        inside = [row for row in rows if row.dataset == dataset]
        if len(datasets) > 1:
            used = "".join(f"<td><small>{_labels(inside, score)}</small></td>" for score in scores)
            body += f'<tr class="part"><th scope="row">{escape(dataset)}</th>{used}</tr>'
        winners = {score: best(inside, score) for score in accuracies}
        for row in inside:
            cells = "".join(_cell(row, score, split, winners.get(score) is row) for score in scores)
            body += f'<tr class="{row.style}"><th scope="row">{_name(row)}</th>{cells}</tr>'
    return (
        f'<div class="scroll"><table class="results"><thead><tr><td></td>{groups}</tr>'
        f"<tr><td></td>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _group(words: str, columns: int) -> str:
    return f'<th colspan="{columns}" class="group" scope="colgroup"><span>{words}</span></th>' if columns else ""


def _heading(score: str, rows: Sequence[Row], one: bool) -> str:
    """The column's name and, with `one` data set, the labels it used."""
    name = title(score.removesuffix(".top1")).removeprefix("geometry ").removeprefix("fine-tuned ")
    protocol = next(row.scores[score]["protocol"] for row in rows if score in row.scores)
    labels = f"<small>{_labels(rows, score)}</small>" if one else ""
    return f'<th scope="col" title="{escape(protocol)}">{escape(name)}{labels}</th>'


def _labels(rows: Sequence[Row], score: str) -> str:
    """How many labels a score used: "no labels", "10 labels", "9 to 10 labels"."""
    used = [row.scores[score]["labels_used"] for row in rows if score in row.scores]
    if not any(used):
        return "no labels" if used else ""
    return (
        n.many(used[0], "label") if min(used) == max(used) else f"{n.count(min(used))} to {n.many(max(used), 'label')}"
    )


def _name(row: Row) -> str:
    kind = "untrained" if not row.learned else "with labels" if row.sees == "labels" else "without labels"
    if row.start and row.trained:
        kind = f"{kind}, from {escape(row.start)}"
    elif row.start:
        kind = f"{'with labels, ' if row.sees == 'labels' else ''}imported from {escape(row.start)}"
    return f'<i class="swatch"></i>{escape(row.name)}<small>{kind}</small>'


def _cell(row: Row, score: str, split: str, wins: bool) -> str:
    if score not in row.scores:
        return '<td class="none">–<span class="pm"></span></td>'
    entry = row.scores[score]
    return f"<td{' class=best' if wins else ''}>{_spread(entry[split], score)}</td>"


def _spread(values: Mapping[str, Any], score: str) -> str:
    """Mean ± std, and the 95 % interval in small print below."""
    show = n.plain if score.startswith("geometry.") else n.percent
    deviation = f"±{n.THIN}{show(values['std'])}" if values["n"] > 1 else ""
    low, high = values.get("interval", (None, None))
    interval = "" if low is None else f'<small title="95 % interval">{show(low)}–{show(high)}</small>'
    each = "each: " + ", ".join(show(value) for value in values["values"])
    return f'<span title="{each}"><b>{show(values["mean"])}</b><span class="pm">{deviation}</span></span>{interval}'


def _all_scores(rows: Sequence[Row]) -> str:
    """Every score of every row, by score; a protocol is printed once per group of rows that share it."""
    parts = ""
    for score in sorted({score for row in rows for score in row.scores}, key=_order):
        able = [row for row in rows if score in row.scores]
        protocols = list(dict.fromkeys(row.scores[score]["protocol"] for row in able))
        notes = ""
        for place, protocol in enumerate(protocols, 1):
            which = f"<sup>{place}</sup> " if len(protocols) > 1 else ""
            notes += f"<p class='note'>{which}{escape(protocol[:1].upper() + protocol[1:])}</p>"
        name = f"{escape(title(score))} <code>{escape(score)}</code>"
        lines = "".join(_line(row, score, protocols) for row in able)
        parts += f'<tbody><tr class="part"><th colspan="5">{name}{notes}</th></tr>{lines}</tbody>'
    head = "".join(f'<th scope="col">{word}</th>' for word in ("test", "validation", "values", "labels"))
    return f'<div class="scroll"><table class="all"><thead><tr><td></td>{head}</tr></thead>{parts}</table></div>'


def _line(row: Row, score: str, protocols: list[str]) -> str:
    entry = row.scores[score]
    which = f"<sup>{protocols.index(entry['protocol']) + 1}</sup>" if len(protocols) > 1 else ""
    chosen = ", ".join(f"{key} {', '.join(map(str, values))}" for key, values in entry.get("chosen", {}).items())
    note = f"<small>chosen on validation: {escape(chosen)}</small>" if chosen else ""
    return (
        f'<tr class="{row.style}"><th scope="row"><i class="swatch"></i>{escape(row.name)}{which}{note}</th>'
        f"<td>{_spread(entry['test'], score)}</td><td>{_spread(entry['val'], score)}</td>"
        f"<td>{entry['test']['n']}</td><td>{n.count(entry['labels_used'])}</td></tr>"
    )


def _order(score: str) -> tuple[int, str, str, bool, str]:
    """Probes first, kNN and linear before the others, then fine-tuning, then geometry; a family's headline first."""
    family, *rest = score.split(".")
    place = {"knn": 0, "linear": 1, "finetune": 3, "geometry": 4}.get(family, 2)
    return place, family, ".".join(rest[:-1]).rjust(20), rest[-1] != "top1", rest[-1]


def _fold(summary: str, body: str) -> str:
    return f"<details><summary>{summary}</summary>{body}</details>"
