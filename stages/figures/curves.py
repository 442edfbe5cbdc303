"""Learning curves: the training loss of each run, one thin line per seed."""

from collections.abc import Mapping, Sequence
from html import escape

from stages.figures import _numbers as n
from stages.figures import _svg as svg
from stages.figures._page import Section
from stages.figures._rows import Row
from stages.figures._study import Curve, Study

WIDTH, HEIGHT = 250.0, 186.0
LEFT, RIGHT, TOP, BOTTOM = 32.0, 244.0, 34.0, 158.0


def section(study: Study) -> Section | None:
    """None where nothing trains."""
    body = draw(study.rows, study.curves)
    idle = [row.name for row in study.rows if not row.trained]
    caption = "Training loss by epoch, one line per seed. Each method has its own loss, so each panel has its own axis."
    caption += f" Nothing to train: {escape(', '.join(idle))}." if idle else ""
    return (
        Section("curves", "Learning curves", caption, f'<div class="curves">{body}</div>', half=True) if body else None
    )


def draw(rows: Sequence[Row], curves: Mapping[str, Mapping[int, Curve]]) -> str:
    """Small panels, one per trained run in row order, each with its own loss axis: losses of methods do not compare.

    `curves` is {run: {seed: [(epoch, loss)]}}.
    """
    looks = {row.run: row for row in reversed(rows)}
    runs = [run for run in dict.fromkeys(row.run for row in rows) if any(curves.get(run, {}).values())]
    return "".join(_panel(run, looks[run], curves[run]) for run in runs)


def _panel(run: str, row: Row, seeds: Mapping[int, Curve]) -> str:
    points = [point for curve in seeds.values() for point in curve]
    epochs = [epoch for epoch, _ in points]
    losses = [loss for _, loss in points]
    margin = 0.06 * (max(losses) - min(losses)) or 0.5
    x = svg.linear(min(epochs), max(*epochs, min(epochs) + 1), LEFT, RIGHT)
    y = svg.linear(min(losses) - margin, max(losses) + margin, BOTTOM, TOP)
    body = svg.text(run, LEFT, TOP - 16, class_="name")
    last = [curve[-1][1] for curve in seeds.values() if curve]
    body += svg.text(f"ends at {n.plain(sum(last) / len(last))}", RIGHT, TOP - 16, class_="tick end")
    for tick in svg.ticks(min(losses) - margin, max(losses) + margin, 4):
        body += svg.path([(LEFT, y(tick)), (RIGHT, y(tick))], class_="grid")
        body += svg.text(f"{tick:g}".replace("-", "\N{MINUS SIGN}"), LEFT - 7, y(tick) + 4, class_="tick end")
    for tick in svg.ticks(min(epochs), max(epochs), 4) if len(set(epochs)) > 1 else []:
        if tick == int(tick):
            body += svg.text(f"{tick:.0f}", x(tick), BOTTOM + 17, class_="tick middle")
    body += svg.path([(LEFT, BOTTOM), (RIGHT, BOTTOM)], class_="rule")
    for seed, curve in seeds.items():
        line = [(x(epoch), y(loss)) for epoch, loss in curve]
        title = svg.element("title", escape(f"{run}, seed {seed}"))
        body += svg.element("g", title + svg.path(line, class_="line thin"), class_=f"row {row.style}")
    return f'<figure class="small">{svg.drawing(body, WIDTH, HEIGHT, f"training loss of {run}")}</figure>'
