"""What `prepare` says about the files of a source: which were left out and why, how the others are."""

import csv
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stages.datasets._decoding import FORMATS, misnamed
from stages.datasets._images import DataError, Files, Images
from stages.datasets._reading import TREATMENTS
from stages.datasets._storage import Stored
from stages.datasets._writing import Written, hexadecimal

NAMED = 10  # files that a message lists
SHAPES = 10  # most frequent shapes that are kept
COLORS = 2_000  # images at most whose colors are looked at, evenly spaced
LIGHTS = 16  # steps of brightness


def quarantine(path: Path, images: Images, written: Written) -> None:
    """Write the files that were left out: file, kind, reason; in the order of the source."""
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("file", "kind", "reason"))
        table.writerows((images.ids[row], bad.kind, bad.words) for row, bad in written.bad.items())


def counted(written: Written) -> str:
    """How many files of each kind were left out, the most frequent first."""
    return ", ".join(f"{n} {kind}" for kind, n in Counter(bad.kind for bad in written.bad.values()).most_common())


def require_usable(images: Images, written: Written, most: float, dataset: str, whole: Path) -> None:
    """DataError that lists files if more than the share `most` was left out, or all; `whole` has the whole list."""
    bad = written.bad
    if not bad or (len(bad) <= most * len(images) and len(written.rows)):
        return
    kinds = counted(written)
    first = [f"  {images.ids[row]}: {each.kind}, {each.words}" for row, each in list(bad.items())[:NAMED]]
    allowed = f"more than the share of {most:g} that datasets.{dataset}.quality.bad allows"
    raise DataError(
        f"{len(bad):,} of {len(images):,} files cannot be used ({kinds}), {allowed if len(written.rows) else 'all'}. "
        f"Repair or remove them, or allow more; {whole} lists every one, the first are\n" + "\n".join(first)
    )


def manifest(images: Images, written: Written) -> pa.Table:
    """Every file of the source, left out or not: id, bytes and md5 of its content, null where there is none to read."""
    size, md5 = np.zeros(len(images), np.int64), np.zeros(len(images), "V16")
    there = np.full(len(images), isinstance(images.pixels, Files))
    size[written.rows], md5[written.rows] = written.kept["size"], written.kept["md5"]
    for row, bad in written.bad.items():
        there[row] = bad.md5 is not None
        if bad.md5 is not None and bad.size is not None:
            size[row], md5[row] = bad.size, np.void(bad.md5)
    known = pa.array(there)
    columns = {"bytes": pa.array(size), "md5": hexadecimal(md5)}
    known_only = {name: pc.if_else(known, column, None) for name, column in columns.items()}
    return pa.table({"id": pa.array(images.ids, pa.string()), **known_only})


def summary(images: Images, written: Written, there: Stored) -> dict[str, Any]:
    """Counts, sizes and colors of the images, which lie `there`."""
    kept = written.kept
    shapes, counts = np.unique(np.stack([kept["height"], kept["width"]], axis=1), axis=0, return_counts=True)
    common = np.argsort(-counts, kind="stable")[:SHAPES]
    treated = {name: int((kept["treatments"] >> bit & 1).sum()) for bit, name in enumerate(TREATMENTS)}
    treated["suffix"] = sum(
        misnamed(images.ids[row], FORMATS[form - 1])
        for row, form in zip(written.rows.tolist(), kept["format"].tolist(), strict=True)
        if form
    )
    return {
        "files": len(images),
        "images": len(kept),
        "quarantined": dict(sorted(Counter(bad.kind for bad in written.bad.values()).items())),
        "treatments": {name: count for name, count in treated.items() if count},
        "bytes": {"files": int(kept["size"].sum()), "images": int(kept["bytes"].sum())},
        "heights": _spread(kept["height"]),
        "widths": _spread(kept["width"]),
        "shapes": [
            {"height": int(height), "width": int(width), "images": int(count)}
            for (height, width), count in zip(shapes[common], counts[common], strict=True)
        ],
        "colors": _colors(there),
    }


def _colors(there: Stored) -> dict[str, Any]:
    """Mean and standard deviation of red, green and blue, levels of 0…255, and how many images are how bright.

    Every pixel of up to COLORS images counts; brightness is the mean of an image, in LIGHTS equal steps of 0…256.
    """
    rows = np.unique(np.linspace(0, len(there) - 1, min(COLORS, len(there))).round().astype(np.int64))
    sums, squares, pixels = np.zeros(3), np.zeros(3), 0
    means: list[float] = []
    for row in rows:
        image = there.image(int(row)).reshape(-1, 3).astype(np.float64)
        sums += image.sum(0)
        squares += np.square(image).sum(0)
        pixels += len(image)
        means.append(float(image.mean()))
    mean = sums / pixels
    return {
        "images": len(rows),
        "mean": mean.round(3).tolist(),
        "std": np.sqrt(np.maximum(squares / pixels - mean**2, 0)).round(3).tolist(),
        "brightness": np.histogram(means, bins=LIGHTS, range=(0, 256))[0].tolist(),
    }


def _spread(values: np.ndarray) -> dict[str, int]:
    return {"least": int(values.min()), "median": int(np.median(values)), "most": int(values.max())}
