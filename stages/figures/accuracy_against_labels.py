"""Accuracy against labels: what a label buys each row, from a budget of a few to all of them."""

from collections.abc import Sequence
from html import escape

from stages.figures import _numbers as n
from stages.figures import _svg as svg
from stages.figures._page import Section
from stages.figures._rows import Row, beside
from stages.figures._study import Study

WIDTH, HEIGHT = 460.0, 330.0
LEFT, TOP, BOTTOM = 38.0, 24.0, 284.0  # the plot's frame; row names stand right of it

Point = tuple[int, float, float, str]  # labels, mean, std (fractions), what


def section(study: Study) -> Section | None:
    body = draw(study.rows, study.budgets)
    caption = (
        "Test top-1 over the labels used. Filled marks: the whole encoder fine-tuned on a label budget; open marks: a "
        "linear probe on frozen features with every training label. Whiskers: ± one standard deviation over label "
        "draws and seeds. An untrained row fine-tuned is training from scratch. "
    )
    caption += " ".join(_grant(study, dataset) for dataset in dict.fromkeys(row.dataset for row in study.rows))
    return Section("labels", "Accuracy against labels", caption, body, half=True) if body else None


def _grant(study: Study, dataset: str) -> str:
    """What each budget of a data set grants, and where a class had fewer labels than asked."""
    parts = []
    summary = study.prepared(dataset).budget_summary
    for budget in study.budgets:
        if seeds := summary.get(budget):
            used = {grant["labels_used"] for grant in seeds.values()}
            short = sorted({name for grant in seeds.values() for name in grant["shortfall"]})
            lacking = f" (fewer than asked in class {', '.join(map(escape, short))})" if short else ""
            labels = " or ".join(map(n.count, sorted(used)))
            parts.append(f"{n.budget(budget)} is {labels} labels, {n.many(len(seeds), 'draw')}{lacking}")
    return f"Budgets of {escape(dataset)}: {'; '.join(parts)}." if parts else ""


def draw(rows: Sequence[Row], budgets: Sequence[str]) -> str:
    """Test top-1 over the number of labels, one panel per data set: fine-tuned (lines), linear probe (open marks)."""
    panels = []
    for dataset in dict.fromkeys(row.dataset for row in rows):
        inside = [row for row in rows if row.dataset == dataset]
        lines = {row.name: _tuned(row, budgets) for row in inside}
        probes = {row.name: _probe(row) for row in inside}
        if any(lines.values()) or any(probes.values()):
            panels.append((_panel(inside, lines, probes, dataset), dataset))
    if len(panels) == 1:
        return f"<figure>{panels[0][0]}</figure>"
    return "".join(f"<figure>{panel}<figcaption>{escape(name)}</figcaption></figure>" for panel, name in panels)


def _tuned(row: Row, budgets: Sequence[str]) -> list[Point]:
    entries = [(budget, row.scores.get(f"finetune.{budget}.top1")) for budget in budgets]
    points = [
        (entry["labels_used"], entry["test"]["mean"], entry["test"]["std"], f"fine-tuned on {n.budget(budget)}")
        for budget, entry in entries
        if entry
    ]
    return sorted(points)


def _probe(row: Row) -> list[Point]:
    entry = row.scores.get("linear.top1")
    return [(entry["labels_used"], entry["test"]["mean"], entry["test"]["std"], "linear probe")] if entry else []


def _panel(rows: Sequence[Row], lines: dict[str, list[Point]], probes: dict[str, list[Point]], dataset: str) -> str:
    points = [point for row in rows for point in lines[row.name] + probes[row.name]]
    labels = sorted({point[0] for point in points})
    low = min(mean - std for _, mean, std, _ in points)
    bottom = min(0.9, max(0.0, (low * 10 // 1) / 10))
    right = WIDTH - 30 - 7.5 * min(24, max(len(row.name) for row in rows))
    x = svg.logarithmic(labels[0], max(labels[-1], labels[0] * 2), LEFT + 22, right - 22)
    y = svg.linear(bottom, 1.0, BOTTOM, TOP)
    ends = [(lines[row.name] or probes[row.name])[-1:] for row in rows]
    ends = [probes[row.name][-1:] or end for row, end in zip(rows, ends, strict=True)]
    named = [(row, end[0]) for row, end in zip(rows, ends, strict=True) if end]
    places = svg.spread([y(point[1]) for _, point in named], 16, TOP, BOTTOM)
    body = _axes(x, y, right, bottom, labels)
    for rank, row in enumerate(rows):
        body += _series(row, lines[row.name], probes[row.name], x, y, 2.5 * (rank - (len(rows) - 1) / 2))
    for (row, point), place in zip(named, places, strict=True):
        body += beside(row, x(point[0]), y(point[1]), right, place)
    return svg.drawing(body, WIDTH, HEIGHT, f"accuracy against labels on {dataset}")


def _axes(x: svg.Scale, y: svg.Scale, right: float, bottom: float, labels: list[int]) -> str:
    body = svg.text("test top-1, %", LEFT - 34, TOP - 10, class_="axis")
    for tick in svg.ticks(bottom, 1.0, 5):
        body += svg.path([(LEFT, y(tick)), (right, y(tick))], class_="grid")
        body += svg.text(f"{100 * tick:.0f}", LEFT - 8, y(tick) + 4, class_="tick end")
    shown: list[float] = []
    for count in labels:
        if all(abs(x(count) - place) > 30 for place in shown):
            shown.append(x(count))
            body += svg.text(n.count(count), x(count), BOTTOM + 20, class_="tick middle")
        body += svg.path([(x(count), BOTTOM), (x(count), BOTTOM + 5)], class_="rule")
    body += svg.path([(LEFT, BOTTOM), (right, BOTTOM)], class_="rule")
    return body + svg.text("labels used (logarithmic)", (LEFT + right) / 2, BOTTOM + 42, class_="axis middle")


def _series(row: Row, line: list[Point], probe: list[Point], x: svg.Scale, y: svg.Scale, aside: float) -> str:
    """One row; `aside` moves its marks a little so that rows do not hide each other's spread."""
    at = [(x(labels) + aside, y(mean)) for labels, mean, _, _ in line]
    body = svg.path(at, class_="line") if len(at) > 1 else ""
    for labels, mean, std, what in [*line, *probe]:
        place = x(labels) + aside
        body += svg.path([(place, y(max(0.0, mean - std))), (place, y(min(1.0, mean + std)))], class_="whisker")
        words = f"{row.name}: {what}, {n.many(labels, 'label')}: {n.percent(mean)} ± {n.percent(std)} %"
        body += svg.mark(row.shape, place, y(mean), 4.2, words, class_="open" if what == "linear probe" else "dot")
    return svg.element("g", body, class_=f"row {row.style}")
