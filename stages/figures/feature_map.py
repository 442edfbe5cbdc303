"""A map of the features: t-SNE of test images, the main row beside the strongest untrained one.

One SVG per panel; a point's color is its class and the class name stands at the class's middle, so color is never
alone. Hovering over a point shows the image: the page's script cuts it out of one sheet of tiles.
"""

import json
from collections.abc import Iterable, Sequence
from html import escape

import numpy as np

from stages.figures import _images
from stages.figures import _numbers as n
from stages.figures import _svg as svg
from stages.figures._page import Section
from stages.figures._rows import Row
from stages.figures._study import Study

LARGEST = 2000  # points
FEWEST = 3  # two points are always as far apart as the frame is wide
SAME = 1e-6  # of unit vectors: what float32 rounds away
SIDE = 460.0
HUES = 10  # class colors of the style sheet; with more classes, hues are spread around the circle
NAMED = 20  # classes up to which names are written


def section(study: Study) -> Section | None:
    """None in a study without kNN scores."""
    if study.main is None:
        return None
    data = study.prepared(study.main.dataset)
    rows = data.labeled("test")
    shown = rows[np.unique(np.linspace(0, len(rows) - 1, min(LARGEST, len(rows))).round().astype(int))]
    panels, missing = [], ""
    for row in study.compared:
        features = study.features(row)[shown]
        if reason := unmappable(features):
            missing += f"<p class='note'>No map of {escape(row.name)}: {reason}.</p>"
            continue
        at, _, predicted = study.predictions(row, "knn", [study.seed(row)])
        panels.append((row, project(features), predicted[np.searchsorted(at, shown)]))
    if not panels:
        return Section("map", "Feature map", "Nothing can be mapped.", missing)
    near = f"{perplexity(len(shown)):.3g}"
    caption = (
        f"t-SNE of the features of {n.many(len(shown), 'test image')} (cosine, perplexity {near}, first seed): what is "
        "near is similar, distances between groups mean nothing. Color and name are the true class."
    )
    if study.private:
        return Section("map", "Feature map", caption, draw(panels, data.labels[shown], data.classes) + missing)
    caption += " Hover over a point to see its image."
    body = draw(panels, data.labels[shown], data.classes) + missing
    body += tiles(data.labels[shown], data.classes, map(data.images.image, shown.tolist()))
    return Section("map", "Feature map", caption, body)


def unmappable(features: np.ndarray) -> str:
    """Why t-SNE can make no map of features (n, d), in words; nothing where it can."""
    if len(features) < FEWEST:
        return f"{n.many(len(features), 'labeled test image')}, at least {FEWEST} make a map"
    if features.shape[1] < 2:
        return "its features have one dimension"
    if np.ptp(_unit(features), axis=0).max() <= SAME:
        return "its features are the same for every image"
    return ""


def perplexity(images: int) -> float:
    """About how many neighbors of an image t-SNE keeps near: fewer where there are few images."""
    return min(30.0, (images - 1) / 3)


def project(features: np.ndarray) -> np.ndarray:
    """Features (n, d) -> places (n, 2) in 0..1: t-SNE on unit vectors, started from PCA, always the same way."""
    from sklearn.manifold import TSNE

    tsne = TSNE(init="pca", learning_rate="auto", perplexity=perplexity(len(features)), random_state=0, n_jobs=1)
    places = tsne.fit_transform(_unit(features).astype(np.float64))
    low, high = places.min(0), places.max(0)
    return (places - (low + high) / 2) / (high - low).max() + 0.5


def _unit(features: np.ndarray) -> np.ndarray:
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)


def draw(panels: Sequence[tuple[Row, np.ndarray, np.ndarray]], labels: np.ndarray, classes: Sequence[str]) -> str:
    """`panels` are (row, places (n, 2), predicted (n,)); labels (n,) are shared."""
    drawn = "".join(_panel(row, places, predicted, labels, classes) for row, places, predicted in panels)
    return f'<div class="panels" id="points">{drawn}</div>'


def color(label: int, classes: int) -> str:
    """CSS of a class's color."""
    if classes <= HUES:
        return f"var(--class-{label})"
    return f"hsl({360 * label / classes:.0f} var(--class-saturation) var(--class-lightness))"


def _panel(row: Row, places: np.ndarray, predicted: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> str:
    at = 12 + places * (SIDE - 24)
    body = ""
    for label in np.unique(labels):
        dots = ""
        for index in np.flatnonzero(labels == label):
            x, y = at[index]
            wrong = ' class="wrong"' if predicted[index] != label else ""
            dots += f'<circle{wrong} data-i="{index}" cx="{x:.1f}" cy="{y:.1f}" r="3.4"/>'
        body += svg.element("g", dots, style=f"color:{color(int(label), len(classes))}", class_="points")
    name = "class" if max(map(len, classes)) < 4 else "class long"
    if len(classes) <= NAMED:
        for label in np.unique(labels):
            x, y = np.median(at[labels == label], axis=0)
            half = 4.2 * len(classes[label])
            body += svg.text(classes[label], min(max(x, half), SIDE - half), y + 5, class_=name)
    errors = int((predicted != labels).sum())
    misread = f"kNN misreads {n.count(errors)} of {n.count(len(labels))} (hollow)"
    caption = f"<i class='swatch'></i><b>{escape(row.name)}</b>: {misread}"
    figure = svg.drawing(body, SIDE, SIDE, f"two-dimensional map of the features of {row.name}")
    return f"<figure class='{row.style}'>{figure}<figcaption>{caption}</figcaption></figure>"


def tiles(labels: np.ndarray, classes: Sequence[str], images: Iterable[np.ndarray]) -> str:
    """What the hover needs: the sheet of n images uint8 (h, w, 3) and the class of each."""
    sheet, columns = _images.sheet(images)
    side = sheet.shape[1] // columns
    facts = {
        "columns": columns,
        "width": side,
        "height": sheet.shape[0] // -(-len(labels) // columns),
        "sheet": [sheet.shape[1], sheet.shape[0]],
        "labels": labels.tolist(),
        "classes": list(classes),
    }
    text = json.dumps(facts, sort_keys=True).replace("<", "\\u003c")
    return (
        f'<script type="application/json" id="map-facts">{text}</script>'
        f'<div id="peek" hidden style="--sheet:url({_images.data_uri(sheet)})"><i></i><span></span></div>'
    )
