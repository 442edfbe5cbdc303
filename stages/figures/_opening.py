"""The top of the page: what came out, in a few sentences, and what it came from."""

from html import escape

from stages.datasets._storage import Encoded
from stages.figures import _numbers as n
from stages.figures._rows import Row
from stages.figures._study import Study


def sentences(study: Study) -> str:
    """What the main row reaches, and what it is compared with."""
    row = study.main
    if row is None:
        return f"{n.many(len(study.rows), 'row')} of results."
    tested = n.count(len(study.prepared(row.dataset).labeled("test")))
    learned = ""
    if row.trained:
        seen = n.count(len(study.prepared(study.runs[row.run]["dataset"]).pretrain))
        learned = (
            f" learned from {seen} images without a label and" if row.sees == "images" else " learned with labels and"
        )
        learned = f", starting from {escape(row.start)},{learned}" if row.start else learned
    text = f"<b>{escape(row.name)}</b>{learned} reads {_share(row, 'knn.top1')} of {tested} test images right by kNN"
    if "linear.top1" in row.scores:
        text += f" and {_share(row, 'linear.top1')} by a linear probe"
    tuned = [budget for budget in study.budgets if f"finetune.{budget}.top1" in row.scores]
    if tuned:
        parts = [_tuned(row, f"finetune.{budget}.top1") for budget in tuned]
        text += f"; fine-tuned, it reaches {' and '.join([', '.join(parts[:-1]), parts[-1]] if parts[1:] else parts)}"
    return text + "." + "".join(_floor(other) for other in study.compared[1:])


def facts(study: Study) -> list[list[tuple[str, str]]]:
    """(name, value) pairs, a list per data set."""
    found = []
    for dataset in dict.fromkeys(row.dataset for row in study.rows):
        data = study.prepared(dataset)
        height, width = data.images.canvas
        most = "up to " if isinstance(data.images, Encoded) else ""
        splits = " / ".join(n.count(len(data.rows(split))) for split in ("train", "validation", "test"))
        rows = [row for row in study.rows if row.dataset == dataset]
        seeds = [len(study.runs[row.run]["seeds"]) for row in rows]
        found.append(
            [
                (f"images of {dataset}, {most}{height} × {width}", n.count(len(data.images))),
                ("train / validation / test", splits),
                ("classes", n.count(len(data.classes))),
                ("pretraining sees", " + ".join(study.datasets[dataset]["pretrain_on"])),
                ("rows compared", n.count(len(rows))),
                ("seeds a row", " to ".join(map(str, sorted({min(seeds), max(seeds)})))),
            ]
        )
    return found


def _share(row: Row, score: str) -> str:
    return f"<b>{n.percent(row.scores[score]['test']['mean'])}{n.THIN}%</b>"


def _tuned(row: Row, score: str) -> str:
    return f"{_share(row, score)} with {n.many(row.scores[score]['labels_used'], 'label')}"


def _floor(row: Row) -> str:
    reached = n.percent(row.scores["knn.top1"]["test"]["mean"])
    return f" Untrained, {escape(row.name)} reaches {reached}{n.THIN}% by kNN."
