"""Data: what the images of a data set are, which were left out, and which are there more than once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from stages.datasets._prepared import Prepared
from stages.figures import _images, _levels
from stages.figures import _numbers as n
from stages.figures._page import Section
from stages.figures._study import Study

SPLITS = {"train": "hue-0", "validation": "hue-1", "test": "hue-2", "excluded": "gray-1"}
STRIP = 8  # images of a class
ROWS = 12  # classes up to which each has images beside its name
UNFOLDED = 60  # classes up to which all bars are seen at once
SHEET = 60  # images where they have not
NAMES = 3  # files that are named of each kind
PAIRS = 8  # examples of copies
TREATED = {
    "alpha": "see-through, laid on white",
    "bilevel": "1 bit per pixel, made black and white",
    "color": "CMYK, YCCK, YCbCr or Lab, converted without a profile",
    "deep": "16 bits, of which the upper 8 were taken",
    "first_frame": "of many pictures, of which the first was taken",
    "gray": "gray, made three equal channels",
    "palette": "of a palette, given its colors",
    "profile": "with an ICC profile, which was not applied",
    "rotated": "turned upright, as EXIF or XMP asks",
    "suffix": "named like another format",
}

Tile = tuple[np.ndarray, str]  # uint8 (h, w, 3), and what it shows


@dataclass(frozen=True)
class Pair:
    """Two images that are equal, or `distance` bits apart, and their splits."""

    tiles: Sequence[Tile]
    splits: Sequence[str]
    distance: int | None


@dataclass(frozen=True)
class Looked:
    """One data set, as it is drawn.

    counts: int64 (classes + 1, 4), images by class and by SPLITS; the last line is without a label.
    summary: summary.json. samples: class name → images. bad: kind → names and reasons of files.
    """

    name: str
    classes: Sequence[str]
    counts: np.ndarray
    summary: Mapping[str, Any]
    samples: Sequence[tuple[str, Sequence[Tile]]]
    leaks: Sequence[Pair]
    twice: Sequence[Pair]
    bad: Mapping[str, Sequence[tuple[str, str]]]


def section(study: Study) -> Section:
    """A block per data set; of private images only numbers."""
    caption = (
        "Every file was decoded: what was kept, by split and class, and what it looks like; what is there more than "
        "once; what was left out."
    )
    several = len(study.datasets) > 1
    blocks = (f"{f'<h3>{escape(name)}</h3>' if several else ''}{draw(look(study, name))}" for name in study.datasets)
    return Section("data", "Data", caption, "".join(blocks))


def look(study: Study, name: str) -> Looked:
    """What `prepare` left of a data set, and some of its images."""
    data, summary = study.prepared(name), study.summary(name)
    counts = np.zeros((len(data.classes) + 1, len(SPLITS)), np.int64)
    for column, split in enumerate(SPLITS):
        np.add.at(counts[:, column], data.labels[data.rows(split)], 1)  # -1, without a label, is the last line
    leaks, twice = (summary[key]["examples"] for key in ("leaks", "duplicates"))
    if study.private:
        return Looked(name, data.classes, counts, summary, [], [], [], {})
    bad: dict[str, list[tuple[str, str]]] = {}
    for line in study.quarantine(name):
        bad.setdefault(line["kind"], []).append((line["file"], line["reason"]))
    return Looked(name, data.classes, counts, summary, samples(data), pairs(data, leaks), pairs(data, twice), bad)


def samples(data: Prepared) -> list[tuple[str, list[Tile]]]:
    """Class name → some of its images, evenly spaced in the order of the rows; at most SHEET classes of many."""
    labels, many = data.labels, len(data.classes) > ROWS
    each = max(1, SHEET // len(data.classes)) if many else STRIP
    shown = spaced(np.arange(len(data.classes)), SHEET).tolist()
    named = [(data.classes[label], np.flatnonzero(labels == label)) for label in shown]
    named.append(("no label", np.flatnonzero(labels < 0)))
    return [
        (name, [(data.images.image(int(row)), name) for row in spaced(rows, each)]) for name, rows in named if len(rows)
    ]


def spaced(rows: np.ndarray, most: int) -> np.ndarray:
    """At most that many of the rows (k,), evenly spaced."""
    return rows[np.linspace(0, len(rows) - 1, min(most, len(rows))).round().astype(int)]


def pairs(data: Prepared, examples: Sequence[Mapping[str, Any]]) -> list[Pair]:
    """At most PAIRS of the examples of summary.json, of all distances, with their images."""
    chosen = [examples[at] for at in spaced(np.arange(len(examples)), PAIRS)] if examples else []
    places = {identity: row for row, identity in enumerate(data.ids.tolist())} if chosen else {}
    return [
        Pair(
            [(data.images.image(places[identity]), identity) for identity in example["ids"]],
            example["splits"],
            example["distance"],
        )
        for example in chosen
    ]


def draw(looked: Looked) -> str:
    """One data set."""
    parts = [
        f'<div class="panels">{_splits(looked)}{_levels.draw(looked.summary["colors"])}</div>',
        _classes(looked),
        _told("In test and in training", _leaks(looked.summary["leaks"], int(looked.counts[:, 3].sum())), looked.leaks),
        _told("More than once", _duplicates(looked.summary["duplicates"]), looked.twice),
        f'<div class="panels">{_left_out(looked)}{_treated(looked.summary["treatments"])}</div>',
    ]
    return f'<div class="inventory">{"".join(parts)}</div>'


def _splits(looked: Looked) -> str:
    """Images and labels by split, and their sizes."""
    lines = ""
    for (split, style), column in zip(SPLITS.items(), looked.counts.T, strict=True):
        if column.sum() or split != "excluded":
            known = int(column[:-1].sum())
            cells = "".join(f"<td>{n.count(value)}</td>" for value in (int(column.sum()), known, int(column[-1])))
            lines += f'<tr class="{style}"><th scope="row"><i class="swatch"></i>{split}</th>{cells}</tr>'
    head = "".join(f'<th scope="col">{words}</th>' for words in ("", "images", "with label", "without"))
    table = f'<table class="pairs"><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>'
    return f"<figure>{table}<figcaption>{_sizes(looked.summary)}</figcaption></figure>"


def _sizes(summary: Mapping[str, Any]) -> str:
    height, width = summary["heights"], summary["widths"]
    if height["least"] == height["most"] and width["least"] == width["most"]:
        text = f"All images are kept at {height['least']} × {width['least']}"
    else:
        spans = (f"{side['least']} to {side['most']}, {side['median']} in the middle" for side in (height, width))
        text = "Heights are {}; widths {}".format(*spans)
    files, images = (_bytes(summary["bytes"][key]) for key in ("files", "images"))
    return f"{text}, in {images}{f' of {files} of files' if summary['bytes']['files'] else ''}."


def _bytes(count: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{n.plain(count / size)} {unit}"
    return f"{count} bytes"


def _classes(looked: Looked) -> str:
    """A line per class with a bar of its splits and some images; of many classes the bars, and a sheet."""
    sums = looked.counts.sum(1)
    scales = [
        *[int(sums[:-1].max(initial=0))] * len(looked.classes),
        int(sums[-1]),
    ]  # many without a label dwarf nobody
    every = zip([*looked.classes, "no label"], looked.counts, scales, strict=True)
    lines = [line for line, count in zip(every, sums, strict=True) if count]
    if len(looked.classes) <= ROWS:
        strips = [_strip(tiles) for _, tiles in looked.samples]
        strips = strips or [""] * len(lines)
        drawn = (_class(*line, strip) for line, strip in zip(lines, strips, strict=True))
        return f'<div class="{"classes" if looked.samples else "classes bare"}">{"".join(drawn)}</div>'
    bars = f'<div class="classes bare">{"".join(_class(*line, "") for line in lines)}</div>'
    if len(looked.classes) > UNFOLDED:
        bars = f"<details><summary>{n.count(len(looked.classes))} classes</summary>{bars}</details>"
    return f"{bars}{_sheet(looked.samples)}"


def _class(name: str, counts: np.ndarray, most: int, strip: str) -> str:
    bar = f"{_bar(counts, most)}<small>{n.count(int(counts.sum()))}</small>"
    return f'<div class="class"><b>{escape(name)}</b><span>{bar}</span>{strip}</div>'


def _bar(counts: np.ndarray, most: int) -> str:
    """Images of a class by split, (4,); the longest bar has `most`."""
    parts = ""
    for (split, style), count in zip(SPLITS.items(), counts.tolist(), strict=True):
        if count:
            parts += f'<i class="{style}" style="width:{100 * count / most:.2f}%" title="{split} {n.count(count)}"></i>'
    return f'<span class="bar">{parts}</span>'


def _strip(tiles: Sequence[Tile]) -> str:
    return f'<div class="strip">{"".join(f"<span class=tile>{_images.tag(*tile)}</span>" for tile in tiles)}</div>'


def _sheet(samples: Sequence[tuple[str, Sequence[Tile]]]) -> str:
    figures = (
        f"<figure>{_images.tag(*tile)}<figcaption>{escape(name)}</figcaption></figure>"
        for name, tiles in samples
        for tile in tiles
    )
    return f'<div class="gallery wide">{"".join(figures)}</div>'


def _leaks(leaks: Mapping[str, Any], excluded: int) -> str:
    if not leaks["test"]:
        return ""
    near = leaks["test"] - leaks["equal"]
    how = [f"{n.count(leaks['equal'])} pixel for pixel"] if leaks["equal"] else []
    how += [f"{n.count(near)} nearly"] if near else []
    done = "Excluded" if excluded else "Not excluded"
    return (
        f"{n.many(leaks['test'], 'test image')} {'are' if leaks['test'] > 1 else 'is'} once more in train or "
        f"validation, {' and '.join(how)}. {done} there: {n.many(leaks['others'], 'image')}."
    )


def _duplicates(twice: Mapping[str, Any]) -> str:
    texts = []
    for key, words in (("equal", "equal, pixel for pixel"), ("near", "nearly equal")):
        if twice[key] and twice[key]["groups"]:
            groups = n.many(twice[key]["groups"], "group")
            texts.append(
                f"{groups} of images that are {words}: {n.count(twice[key]['images'])} images, at most "
                f"{n.count(twice[key]['largest'])} in one."
            )
    if twice["contradictions"]:
        texts.append(f"{n.many(twice['contradictions'], 'image')} with another label than one that equals it.")
    return " ".join(texts)


def _told(title: str, text: str, pairs: Sequence[Pair]) -> str:
    if not text:
        return ""
    figures = "".join(map(_pair, pairs))
    return f'<div><h4>{title}</h4><p class="note">{text}</p><div class="twins">{figures}</div></div>'


def _pair(pair: Pair) -> str:
    images = "".join(_images.tag(*tile) for tile in pair.tiles)
    apart = "equal" if pair.distance is None else f"{n.many(pair.distance, 'bit')} apart"
    where = " · ".join(dict.fromkeys(pair.splits))
    return f'<figure class="pair"><div>{images}</div><figcaption>{where}<br>{apart}</figcaption></figure>'


def _left_out(looked: Looked) -> str:
    """Kinds of files that were left out, with the first of each."""
    kinds = sorted(looked.summary["quarantined"].items(), key=lambda item: -item[1])
    lines = ""
    for kind, count in kinds:
        files = looked.bad.get(kind, [])
        named = "".join(f"<small>{escape(file)}: {escape(reason)}</small>" for file, reason in files[:NAMES])
        lines += f"<tr><th scope='row'>{escape(kind.replace('_', ' '))}{named}</th><td>{n.count(count)}</td></tr>"
    total = sum(looked.summary["quarantined"].values())
    text = (
        f"{n.many(total, 'file')} of {n.count(looked.summary['files'])} left out" if total else "No file was left out"
    )
    table = f'<table class="pairs files"><tbody>{lines}</tbody></table>' if lines else ""
    return f"<figure><h4>{text}</h4>{table}</figure>"


def _treated(treatments: Mapping[str, int]) -> str:
    """What was done to files that were not plain RGB."""
    lines = "".join(
        f"<tr><th scope='row'>{escape(TREATED[name])}</th><td>{n.count(count)}</td></tr>"
        for name, count in sorted(treatments.items(), key=lambda item: -item[1])
    )
    table = f'<table class="pairs"><tbody>{lines}</tbody></table>' if lines else ""
    return f"<figure><h4>{'Converted' if lines else 'No file was converted'}</h4>{table}</figure>"
