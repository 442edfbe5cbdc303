"""What many images cost: seconds and memory of an ingest and of an epoch of the data path, from 10,000 to a million.

Small random PNG files, one in a hundred with a label, lie in tar files of webdataset's layout. A copy of the working
tree prepares them as the stage does, in a process of its own without DVC around it; then another process reads every
training image once, in the order of a training, and makes two views of each (SimCLR's, batch 256). Memory is what the
process and all it has started hold at most, pages of files that are mapped included (PSS of Linux, ten times a second).

    python -m benchmarks.growth --images 10000 [--smoke]
"""

import argparse
import io
import json
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks._results import keep
from benchmarks.interruptions import ROOT, Copy, members
from pipeline import params, paths, quick

SIDE, BATCH = 16, 256
SHARD = 10_000  # images of a tar file
LABELED = 100  # one image of so many
LOOK_EVERY = 0.1  # seconds
DATASET = "digits"  # of the default study, of which another source takes the place


def make(folder: Path, count: int) -> None:
    """Tar files with `count` PNG images: colored noise, each image another one."""
    draws = np.random.default_rng(0)
    for start in range(0, count, SHARD):
        with tarfile.open(folder / f"{start // SHARD:05d}.tar", "w") as tar:
            for row in range(start, min(start + SHARD, count)):
                stream = io.BytesIO()
                image = Image.fromarray(draws.integers(0, 256, (4, 4, 3), dtype=np.uint8))
                image.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(stream, "PNG", compress_level=1)
                _add(tar, f"{row:07d}.png", stream.getvalue())
                if row % LABELED == 0:
                    _add(tar, f"{row:07d}.cls", str(row // LABELED % 10).encode())


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def study() -> dict[str, Any]:
    """The default study with these tar files as its data set."""
    values = params.read(ROOT / "params.yaml")
    source = {"name": "shards", "path": "data/raw/tiny", "store": {"shape": [SIDE, SIDE], "fit": "crop"}}
    values["datasets"][DATASET]["source"] = source | {"labels": None, "group": None, "split": None}
    return values


def watched(copy: Copy, *command: str) -> tuple[float, float]:
    """Seconds that a command takes in the copy, and MiB that it holds at most."""
    began, most = time.monotonic(), 0
    with (copy.folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *command], cwd=copy.folder, env=copy.environment, stdout=log, stderr=log
        )
        while process.poll() is None:
            most = max(most, sum(map(_held, members(process.pid))))
            time.sleep(LOOK_EVERY)
    if process.returncode:
        sys.exit((copy.folder / "log").read_text())
    return time.monotonic() - began, most / 1024


def _held(pid: int) -> int:
    """KiB of a process, its share of what it has in common with others; 0 where it is gone."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


def epoch() -> None:
    """Every training image once, two views of each: Feed and views alone."""
    import torch

    from pipeline.hardware import set_up
    from pipeline.plugins import specify
    from stages.datasets._prepared import Prepared
    from stages.training.feed import Feed, placed
    from stages.training.randomness import shuffled
    from stages.views._draws import Source
    from stages.views.simclr import make_views

    values = params.read()
    set_up(params.Hardware(**values["hardware"]))
    policy = specify("views", values["runs"]["simclr"]["views"], "runs.simclr.views").arguments
    prepared = Prepared(paths.dataset(DATASET))
    rows = shuffled(torch.from_numpy(prepared.pretrain), seed=0, epoch=0)
    device, parts = torch.device("cpu"), rows.split(BATCH)
    with Feed(placed(prepared.images, device), lambda step: parts[step], device) as feed:
        for step, part in enumerate(parts):
            make_views(feed.take(step), Source(0, 0, part), SIDE, **policy)


def measure(folder: Path, count: int) -> dict[str, Any]:
    """Seconds, images a second and MiB of both."""
    copy = Copy(folder / "copy")
    quick._copy(ROOT, copy.folder)
    (copy.folder / "params.yaml").write_text(json.dumps(study()))
    raw = copy.folder / paths.RAW
    raw.unlink(missing_ok=True)  # the link to the raw data of this working tree
    (raw / "tiny").mkdir(parents=True)
    make(raw / "tiny", count)
    ingest, most = watched(copy, "stages.prepare", DATASET)
    walk, held = watched(copy, "benchmarks.growth", "--epoch")
    seen = len(_rows(copy))
    return {
        "said": f"{count:,} PNG images of {SIDE}×{SIDE} in tar files: prepared in {ingest:.0f} s "
        f"({count / ingest:,.0f} images/s), {most:,.0f} MiB at most; {seen:,} of them once through feed and views in "
        f"{walk:.0f} s ({seen / walk:,.0f} images/s), {held:,.0f} MiB",
        "images": count,
        "prepare": {"seconds": round(ingest, 1), "MiB": round(most)},
        "epoch": {"images": seen, "seconds": round(walk, 1), "MiB": round(held)},
        "command": f"python -m {__spec__.name} --images {count}",
    }


def _rows(copy: Copy) -> np.ndarray:
    from stages.datasets._prepared import Prepared

    return Prepared(copy.folder / paths.dataset(DATASET)).pretrain


def main() -> None:
    """Read the options, make the images, prepare them, go over them, keep what was measured."""
    parser = argparse.ArgumentParser(prog=f"python -m {__spec__.name}")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--smoke", action="store_true", help="a thousand images; nothing is kept")
    parser.add_argument("--epoch", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.epoch:
        epoch()
        return
    with tempfile.TemporaryDirectory() as folder:
        record = measure(Path(folder), 1_000 if asked.smoke else asked.images)
    print(json.dumps(record, indent=1, ensure_ascii=False))
    if not asked.smoke:
        keep({f"images_{asked.images:07d}": record}, "ingest.json")


if __name__ == "__main__":
    main()
