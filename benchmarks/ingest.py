"""Images a second from files into a data set, against a plain Pillow loop and against decoding alone.

CIFAR-10 is written out as PNG files in class folders. The plain loop is what one would write first, in one process:
list the files, open and convert each, save the array. Ours is what `prepare` does to the same end: files listed, read,
decoded by the rules for bad files, hashed, written, with the ledger of what need not be decoded again. The limit
decodes bytes that are in memory already, in as many processes.

    python -m benchmarks.ingest [--smoke]
    python -m benchmarks.ingest --cifar10   all 60,000 through `folder` and from `cifar10`: equal, label for label?
"""

import shutil
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from io import BytesIO
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks._networks import cifar, photographs
from benchmarks._paired import Record, compared, cores, rounds, side
from benchmarks._results import command, keep
from stages.datasets import _writing, folder
from stages.datasets._fitting import OneShape
from stages.datasets._images import Images
from stages.datasets._storage import stored

COMMAND = f"python -m {__spec__.name}"
SIZES = {False: (60_000, 4), True: (600, 1)}  # images and rounds, and those of a smoke test
PART = 64  # files that a process decodes in one go


def written_out(images: Images, root: Path) -> list[str]:
    """Write each image as a PNG file into the folder of its class, below `root`; their names."""
    names = [f"{images.classes[label]}/{row:05d}.png" for row, label in enumerate(images.labels)]
    for name in images.classes:
        (root / name).mkdir(parents=True)
    for row, name in enumerate(names):
        Image.fromarray(images.record(row).pixels).save(root / name)
    return names


def ingested(root: Path, shape: tuple[int, int], out: Path) -> Images:
    """Every file below `root`, packed into `out` by all cores, from nothing; the images that `folder` gives."""
    images = folder.load(path=str(root), store=OneShape(shape=shape, fit="crop"), labels=None, group=None, split=None)
    shutil.rmtree(out, ignore_errors=True)
    (out / "images").mkdir(parents=True)
    written = _writing.write(out / "images", images, out / "ledger", near=False, workers=cores(), check=lambda: None)
    assert not written.bad
    return images


def unequal(images: Images, folder: Path) -> int:
    """How many images, written out and ingested through `folder`, differ in pixels or in the name of their class."""
    names = written_out(images, folder / "png")
    shape = images.record(0).pixels.shape
    found = ingested(folder / "png", (shape[0], shape[1]), folder / "out")
    there, rows = stored(folder / "out" / "images"), {name: row for row, name in enumerate(names)}
    count = abs(len(found) - len(images))
    for place, (name, label) in enumerate(zip(found.ids, found.labels, strict=True)):
        row = rows[name]
        same = np.array_equal(there.image(place), images.record(row).pixels)
        count += not (same and found.classes[label] == images.classes[images.labels[row]])
    return count


def plain(root: Path, out: Path) -> None:
    """The loop that one would write first."""
    pixels = []
    for file in sorted(root.rglob("*.png")):
        with Image.open(file) as image:
            pixels.append(np.asarray(image.convert("RGB")))
    np.save(out, np.stack(pixels))


def decoded(contents: list[bytes]) -> None:
    """Pillow's part of the work."""
    for content in contents:
        with Image.open(BytesIO(content)) as image:
            image.convert("RGB")


def measure(smoke: bool) -> dict[str, Record]:
    """The two claims."""
    count, repeats = SIZES[smoke]
    some = photographs(count)
    images = Images(some.pixels, [str(row) for row in range(count)], some.labels, list("abcdefghij"), None)
    with tempfile.TemporaryDirectory() as place, ProcessPoolExecutor(cores(), get_context("spawn")) as pool:
        root, out = Path(place) / "png", Path(place) / "out"
        names = written_out(images, root)
        contents = [(root / name).read_bytes() for name in names]
        parts = [contents[start : start + PART] for start in range(0, count, PART)]
        sides = {
            "ours": side(count, lambda: ingested(root, (32, 32), out)),
            "plain": side(count, lambda: plain(root, Path(place) / "plain.npy")),
            "limit": side(count, lambda: list(pool.map(decoded, parts))),
        }
        rates = rounds(sides, repeats)
    what = f"images/s of {count:,} PNG files of 32×32, {some.kind}, {cores()} process(es), over"
    return {
        "ingest_vs_pillow": compared(
            rates["ours"],
            rates["plain"],
            what=f"{what} a loop of Pillow in one",
            unit="images/s",
            target="≥ 1.6",
            command=COMMAND,
        ),
        "ingest_vs_decoding": compared(
            rates["ours"],
            rates["limit"],
            what=f"{what} decoding alone in as many",
            unit="images/s",
            target="",
            command=COMMAND,
        ),
    }


def compare_cifar10() -> None:
    """The real 60,000 images by both ways."""
    images = cifar()
    with tempfile.TemporaryDirectory() as place:
        count = unequal(images, Path(place))
    said = f"{len(images):,} images of CIFAR-10 as PNG class folders through `folder`, and from `cifar10`: "
    said += "equal pixel for pixel and label for label" if not count else f"**{count:,} differ**"
    print(said)
    keep({"cifar10_png_folders": {"said": said, "command": f"{COMMAND} --cifar10"}}, "ingest.json")
    sys.exit(bool(count))


if __name__ == "__main__":
    compare_cifar10() if "--cifar10" in sys.argv[1:] else command(measure)
