"""Confusion: which class is read as which, and the images themselves."""

from collections.abc import Sequence
from html import escape

import numpy as np

from stages.figures import _images, _numbers
from stages.figures import _svg as svg
from stages.figures._page import Section
from stages.figures._study import Study

LARGEST = 100  # classes; beyond, the pairs say it all
NUMBERED = 20  # classes up to which cells carry numbers
PAIRS = 8
SHOWN = 24  # misread images
SIDE = 460.0


def section(study: Study) -> Section | None:
    """None in a study without kNN scores."""
    if study.main is None:
        return None
    data = study.prepared(study.main.dataset)
    probe, seeds, rows, labels, predicted = judged(study)
    first = slice(len(rows) // len(seeds))
    misread = [
        (int(row), int(label), int(said))
        for row, label, said in zip(rows[first], labels[first], predicted[first], strict=True)
        if label != said
    ]
    caption = (
        f"{escape(study.main.name)}, {probe} probe, {_numbers.many(len(rows) // len(seeds), 'test image')} × "
        f"{_numbers.many(len(seeds), 'seed')}. Each line adds up to 100 %; errors are colored by their share."
    )
    if misread and not study.private:
        caption += f" Images: {min(SHOWN, len(misread))} of the {len(misread)} that are misread with the first seed."
    matrix = count(labels, predicted, len(data.classes))
    visible = [] if study.private else misread[:SHOWN]
    shown = [(data.images.image(row), label, said) for row, label, said in visible]
    return Section("confusion", "Confusion", caption, draw(matrix, data.classes, shown))


def judged(study: Study) -> tuple[str, list[int], np.ndarray, np.ndarray, np.ndarray]:
    """What is counted: the main row's probe (linear where it has one), seeds, pixel rows, labels, predictions."""
    assert study.main is not None
    probe = "linear" if "linear.top1" in study.main.scores else "knn"
    seeds = study.runs[study.main.run]["seeds"]
    return probe, seeds, *study.predictions(study.main, probe, seeds)


def count(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Labels and predictions (n,) -> counts int64 (classes, classes), actual by predicted."""
    matrix = np.zeros((classes, classes), np.int64)
    np.add.at(matrix, (labels, predicted), 1)
    return matrix


def draw(matrix: np.ndarray, classes: Sequence[str], misread: Sequence[tuple[np.ndarray, int, int]]) -> str:
    """`matrix` as from `count`; `misread` are (uint8 (h, w, 3), actual, predicted) of test images."""
    left = f"<figure>{_matrix(matrix, classes)}</figure>" if len(classes) <= LARGEST else ""
    return f'<div class="panels">{left}<div>{_pairs(matrix, classes)}{_misread(misread, classes)}</div></div>'


def _matrix(matrix: np.ndarray, classes: Sequence[str]) -> str:
    """Rows sum to 100 %; right on the diagonal in a quiet color, errors in a loud one."""
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    errors = shares * (1 - np.eye(len(classes)))
    worst = max(errors.max(), 1e-12)
    left = 30 + min(90, 7.2 * max(map(len, classes)))
    cell = (SIDE - left - 4) / len(classes)
    upright = 7.2 * max(map(len, classes)) > cell
    top = 48.0 + (left - 40 if upright else 0)
    body = svg.text("predicted", left, 14, class_="axis") + svg.text("actual", left - 8, top - 8, class_="axis end")
    for place, name in enumerate(classes):
        middle = (place + 0.5) * cell
        if cell >= 11:
            body += svg.text(name, left - 8, top + middle + 4, class_="tick end")
            body += _column(name, left + middle, top - 8, upright)
    body += svg.element("rect", x=left, y=top, width=cell * len(classes), height=cell * len(classes), class_="ground")
    for actual, predicted in np.argwhere(matrix > 0):
        share = shares[actual, predicted]
        right = actual == predicted
        words = f"{classes[actual]} read as {classes[predicted]}: {matrix[actual, predicted]} of {matrix[actual].sum()}"
        opacity = 0.1 + 0.3 * share if right else 0.12 + 0.58 * share / worst
        x, y = left + predicted * cell, top + actual * cell
        square = svg.element("rect", x=x + 0.5, y=y + 0.5, width=cell - 1, height=cell - 1, fill_opacity=opacity)
        label = ""
        if len(classes) <= NUMBERED and share >= 0.005:
            label = svg.text(f"{100 * share:.0f}", x + cell / 2, y + cell / 2 + 4, class_="cell middle")
        body += svg.element("g", f"<title>{escape(words)}</title>{square}{label}", class_="right" if right else "error")
    return svg.drawing(body, SIDE, top + cell * len(classes) + 6, "confusion matrix")


def _column(name: str, x: float, y: float, upright: bool) -> str:
    """A column's name, from bottom to top where names are wider than columns."""
    if not upright:
        return svg.text(name, x, y, class_="tick middle")
    return svg.text(name, x + 4, y, class_="tick", transform=f"rotate(-90 {svg.number(x + 4)} {svg.number(y)})")


def _pairs(matrix: np.ndarray, classes: Sequence[str]) -> str:
    """The most frequent errors as shares of their class, at most PAIRS."""
    errors = matrix * (1 - np.eye(len(classes), dtype=np.int64))
    order = np.argsort(-errors, axis=None, kind="stable")[:PAIRS]
    lines = ""
    for actual, predicted in zip(*np.unravel_index(order, errors.shape), strict=True):
        if times := errors[actual, predicted]:
            share = times / matrix[actual].sum()
            lines += (
                f"<tr><th scope='row'>{escape(classes[actual])} → {escape(classes[predicted])}</th>"
                f"<td>{times} of {matrix[actual].sum()}</td><td>{_numbers.percent(share)}</td></tr>"
            )
    if not lines:
        return "<p>Every test image is read as what it is.</p>"
    head = (
        "<thead><tr><th scope='col'>actual → read as</th><th scope='col'>times</th><th scope='col'>%</th></tr></thead>"
    )
    return f'<table class="pairs">{head}<tbody>{lines}</tbody></table>'


def _misread(misread: Sequence[tuple[np.ndarray, int, int]], classes: Sequence[str]) -> str:
    tiles = ""
    for pixels, actual, predicted in misread:
        words = f"{classes[actual]} → {classes[predicted]}"
        tiles += f"<figure>{_images.tag(pixels, words)}<figcaption>{escape(words)}</figcaption></figure>"
    wide = " wide" if max(map(len, classes)) > 3 else ""
    return f'<div class="gallery{wide}">{tiles}</div>' if tiles else ""
