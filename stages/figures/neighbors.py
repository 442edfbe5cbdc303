"""Nearest neighbors: test images and what lies beside them in feature space, before and after learning."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from stages.datasets._storage import Stored
from stages.figures import _images, _numbers
from stages.figures._page import Section
from stages.figures._rows import Row
from stages.figures._study import Study

QUERIES = 8
NEIGHBORS = 8
ERRORS = 3  # of the queries, at most, are images that kNN misreads


@dataclass(frozen=True)
class Strip:
    """The neighbors of one query in one row's features: pixel rows and cosines, nearest first."""

    row: Row
    rows: np.ndarray
    cosines: np.ndarray


def section(study: Study) -> Section | None:
    """None in a study without kNN scores or with private images."""
    if study.main is None or study.private:
        return None
    data = study.prepared(study.main.dataset)
    rows, labels, read = study.predictions(study.main, "knn", [study.seed(study.main)])
    chosen = choose(labels, labels != read)
    gallery = data.labeled("train")
    strips: list[list[Strip]] = [[] for _ in chosen]
    for row in study.compared:
        features = study.features(row)
        places, cosines = nearest(features[rows[chosen]], features[gallery])
        for strip, place, cosine in zip(strips, places, cosines, strict=True):
            strip.append(Strip(row, gallery[place], cosine))
    queries = [(int(rows[c]), int(read[c]), strip) for c, strip in zip(chosen, strips, strict=True)]
    wrong = int((labels[chosen] != read[chosen]).sum())
    near = min(NEIGHBORS, len(gallery))
    caption = (
        f"{_numbers.many(len(chosen), 'test image')}, each with the {near} of {_numbers.count(len(gallery))} training "
        f"images most similar to it (cosine, first seed), nearest first; framed and crossed where it is another class. "
    )
    caption += "They are the first images of their classes"
    caption += f", but for {wrong} that kNN misreads, picked on purpose." if wrong else "."
    return Section("neighbors", "Nearest neighbors", caption, draw(queries, data.images, data.labels, data.classes))


def choose(labels: np.ndarray, wrong: np.ndarray) -> list[int]:
    """Which of n test images are asked about: one per class, then again, always the same ones.

    Classes are taken at even steps when there are more than QUERIES. The first image of a class stands for it, or, for
    up to ERRORS classes, the first that kNN got wrong. labels (n,) int, wrong (n,) bool.
    """
    classes = np.unique(labels)
    classes = classes[np.linspace(0, len(classes) - 1, min(QUERIES, len(classes))).round().astype(int)]
    counts = np.array([wrong[labels == label].sum() for label in classes])
    hard = set(classes[np.argsort(-counts, kind="stable")[:ERRORS]][np.sort(-counts, kind="stable")[:ERRORS] < 0])
    picked: list[int] = []
    for turn in range(QUERIES):
        for label in classes:
            pool = np.flatnonzero((labels == label) & (wrong if label in hard and turn == 0 else ~wrong))
            pool = pool[~np.isin(pool, picked)]
            if len(pool) and len(picked) < QUERIES:
                picked.append(int(pool[0]))
    return sorted(picked, key=lambda index: (int(labels[index]), index))


def nearest(queries: np.ndarray, gallery: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The NEIGHBORS of each query (m, d) in the gallery (n, d): places (m, k) and cosines (m, k), nearest first."""
    similar = _unit(queries) @ _unit(gallery).T
    order = np.argsort(-similar, axis=1, kind="stable")[:, :NEIGHBORS]
    return order, np.take_along_axis(similar, order, axis=1)


def _unit(features: np.ndarray) -> np.ndarray:
    features = features.astype(np.float64)
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)


def draw(
    queries: Sequence[tuple[int, int, Sequence[Strip]]], images: Stored, labels: np.ndarray, classes: Sequence[str]
) -> str:
    """`queries` are (pixel row, kNN's reading, strips); images and labels (n,) are those of the data set."""
    blocks = "".join(_query(row, read, strips, images, labels, classes) for row, read, strips in queries)
    return f'<div class="queries">{blocks}</div>'


def _query(
    row: int, read: int, strips: Sequence[Strip], images: Stored, labels: np.ndarray, classes: Sequence[str]
) -> str:
    name = classes[labels[row]]
    wrong = f' <span class="misread">read as {escape(classes[read])}</span>' if read != labels[row] else ""
    body = "".join(_strip(strip, int(labels[row]), images, labels, classes) for strip in strips)
    image = _images.tag(images.image(row), f"test image, {name}")
    return (
        f'<div class="query"><figure>{image}<figcaption>{escape(name)}{wrong}</figcaption></figure>'
        f"<div>{body}</div></div>"
    )


def _strip(strip: Strip, label: int, images: Stored, labels: np.ndarray, classes: Sequence[str]) -> str:
    cells = ""
    for row, cosine in zip(strip.rows, strip.cosines, strict=True):
        image = _images.tag(images.image(row), f"{classes[labels[row]]}, cosine {cosine:.3f}")
        cells += f'<span class="{"tile" if labels[row] == label else "tile off"}">{image}</span>'
    same = int((labels[strip.rows] == label).sum())
    name = f'<i class="swatch"></i>{escape(strip.row.name)} <small>{same} of {len(strip.rows)}</small>'
    return f'<p class="{strip.row.style}">{name}</p><div class="strip">{cells}</div>'
