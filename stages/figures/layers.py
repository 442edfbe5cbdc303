"""Accuracy against depth: the linear probe on every layer, from the stem to the end of the projector."""

import math
from collections.abc import Sequence
from html import escape

from stages.figures import _numbers as n
from stages.figures import _svg as svg
from stages.figures._page import Section
from stages.figures._rows import Row, beside
from stages.figures._study import Study

WIDTH, LEFT, TOP, PLOT, BELOW = 460.0, 38.0, 24.0, 246.0, 50.0  # PLOT: height of the frame, more for many names
NAME = 16.0  # from one name to the next

Depths = dict[int, tuple[str, float, float]]  # steps from pool → layer, validation and test top-1
Lines = Sequence[tuple[Row, Depths]]


def section(study: Study) -> Section | None:
    lines = [(row, depths(row, study.taps(row))) for row in study.rows if "layers.pool.top1" in row.scores]
    if not lines:
        return None
    caption = (
        "Test top-1 of a linear probe on what every layer gives, averaged over the image. pool is the encoder's "
        "output, which all other numbers are about; after it comes the projector, which is thrown away. "
    )
    caption += " ".join(_cut(row.name, depth) for row, depth in lines if row == study.main)
    return Section("layers", "Accuracy against depth", caption, draw(lines), half=True)


def depths(row: Row, taps: Sequence[str]) -> Depths:
    """The accuracies of a row at its layers; `taps`: their names, from the first to the last."""
    pool = taps.index("pool")
    scores = {tap: row.scores[f"layers.{tap}.top1"] for tap in taps}
    return {
        place - pool: (tap, scores[tap]["val"]["mean"], scores[tap]["test"]["mean"]) for place, tap in enumerate(taps)
    }


def _cut(name: str, depth: Depths) -> str:
    """Where a row is best by validation, and what is lost from there to its last layer."""
    best, _, there = max(depth.values(), key=lambda at: at[1])
    last, _, end = depth[max(depth)]
    lost = f", {n.plain(100 * (there - end))} points above {escape(last)}" if last != best else ""
    return f"By validation {escape(name)} is best at {escape(best)}{lost}."


def draw(lines: Lines) -> str:
    """A panel for each data set: layer by layer, aligned at pool, a line for each row."""
    panels = []
    for dataset in dict.fromkeys(row.dataset for row, _ in lines):
        inside = [(row, depth) for row, depth in lines if row.dataset == dataset]
        panels.append(f"<figure>{_panel(inside, dataset)}</figure>")
    return "".join(panels)


def _panel(lines: Lines, dataset: str) -> str:
    bottom = TOP + max(PLOT, NAME * len(lines))
    steps = [step for _, depth in lines for step in depth]
    top1 = [top1 for _, depth in lines for _, _, top1 in depth.values()]
    low, high = min(0.9, math.floor(10 * min(top1)) / 10), min(1.0, math.floor(10 * max(top1) + 1) / 10)
    right = WIDTH - 30 - 7.5 * min(24, max(len(row.name) for row, _ in lines))
    x = svg.linear(min(steps), max(steps), LEFT + 22, right - 22)
    y = svg.linear(low, high, bottom, TOP)
    body = _grid(svg.ticks(low, high, 5), y, right) + _layers(lines, x, right, bottom)
    ends = [y(depth[max(depth)][2]) for _, depth in lines]
    places = svg.spread(ends, NAME, TOP, bottom)
    for (row, depth), end, place in zip(lines, ends, places, strict=True):
        body += _line(row, depth, x, y) + beside(row, x(max(depth)), end, right, place)
    return svg.drawing(body, WIDTH, bottom + BELOW, f"accuracy against depth on {dataset}")


def _grid(ticks: list[float], y: svg.Scale, right: float) -> str:
    body = svg.text("test top-1, %", LEFT - 34, TOP - 10, class_="axis")
    for tick in ticks:
        body += svg.path([(LEFT, y(tick)), (right, y(tick))], class_="grid")
        body += svg.text(f"{100 * tick:.0f}", LEFT - 8, y(tick) + 4, class_="tick end")
    return body


def _layers(lines: Lines, x: svg.Scale, right: float, bottom: float) -> str:
    body = svg.path([(LEFT, bottom), (right, bottom)], class_="rule")
    for step in sorted({step for _, depth in lines for step in depth}):
        names = {depth[step][0] for _, depth in lines if step in depth}
        words = names.pop() if len(names) == 1 else f"{step:+d}"  # encoders of different layers
        body += svg.text(words.replace("projector.", "proj. "), x(step), bottom + 20, class_="tick middle")
        body += svg.path([(x(step), bottom), (x(step), bottom + 5)], class_="rule")
    return body + svg.text("layer", (LEFT + right) / 2, bottom + 42, class_="axis middle")


def _line(row: Row, depth: Depths, x: svg.Scale, y: svg.Scale) -> str:
    points = [(x(step), y(depth[step][2])) for step in sorted(depth)]
    body = svg.path(points, class_="line") if len(points) > 1 else ""
    for step, (tap, _, top1) in depth.items():
        words = f"{row.name}, {tap}: {n.percent(top1)} %"
        body += svg.mark(row.shape, x(step), y(top1), 4.2, words, class_="dot")
    return svg.element("g", body, class_=f"row {row.style}")
