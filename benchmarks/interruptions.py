"""A training that is killed at random instants ends in the same bytes; so does one without the monitor.

A copy of the working tree runs `python -m stages.pretrain simclr` of the default study, two seeds: once in one
piece, once with monitor_epochs 0, and once with SIGKILL after random times, started again and again. Compared is the
sha256 of all files of data/encoders/simclr. With `--ranks 2` a kill hits one of the ranks, and the others have to end
by themselves.

    python -m benchmarks.interruptions [--kills 20] [--ranks 1] [--seed 0] [--smoke]
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks._networks import ROOT
from benchmarks._results import keep
from pipeline import params, paths, quick, repro

LONGEST = 14.0  # seconds that an attempt lives: starting up takes 4, from then on a checkpoint falls due every 5
ENCODER = paths.encoder("simclr")


class Copy:
    """A working tree of its own, with the data set prepared."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = repro.environment(CONTRAIL_TRACKING="off", CONTRAIL_LOCKS=str(folder), PYTHONPATH=".")

    def run(self, *command: str) -> None:
        """A stage, to its end."""
        done = subprocess.run(
            [sys.executable, "-m", *command],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            sys.exit(done.stdout + done.stderr)

    def start(self) -> subprocess.Popen[bytes]:
        """The training, in a process group of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "stages.pretrain", "simclr"],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def hashes(self) -> dict[str, str]:
        """File → sha256 of what the training left."""
        files = sorted(path for path in (self.folder / ENCODER).rglob("*") if path.is_file())
        return {
            path.relative_to(self.folder / ENCODER).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in files
        }

    def kept(self) -> dict[str, int]:
        """Seed → the step of its newest checkpoint."""
        found = (self.folder / paths.SCRATCH / "pretrain@simclr").glob("*/state/seed-*/*.pt")
        newest: dict[str, int] = {}
        for path in found:
            newest[path.parent.name] = max(newest.get(path.parent.name, 0), int(path.stem))
        return newest


def study(ranks: int, epochs: int | None) -> dict[str, Any]:
    """The default study with two seeds of simclr."""
    values = params.read(ROOT / "params.yaml")
    values["hardware"] |= {"ranks": ranks, "device": "cpu"}
    run = values["runs"]["simclr"]
    run["seeds"] = [0, 1]
    if epochs:
        run["training"] |= {"epochs": epochs, "warmup_epochs": 0, "monitor_epochs": 1}
    return values


def copied(folder: Path, values: dict[str, Any]) -> Copy:
    """A fresh copy under this study, prepared."""
    quick._copy(ROOT, folder)
    (folder / "params.yaml").write_text(json.dumps(values))
    copy = Copy(folder)
    copy.run("stages.prepare", values["runs"]["simclr"]["dataset"])
    return copy


def members(pid: int) -> list[int]:
    """A process and all below it, from Linux."""
    below = Path(f"/proc/{pid}/task/{pid}/children")
    children = [int(child) for child in below.read_text().split()] if below.exists() else []
    return [pid, *(found for child in children for found in members(child))]


def interrupted(copy: Copy, kills: int, seed: int, longest: float) -> list[dict[str, Any]]:
    """Kill the training so many times, then let it end; when each attempt was killed and what it had kept."""
    draws = random.Random(seed)
    told: list[dict[str, Any]] = []
    while len(told) < kills:
        training, delay = copy.start(), draws.uniform(0, longest)
        try:
            training.wait(delay)
            break  # it has ended: there is nothing left to kill
        except subprocess.TimeoutExpired:
            processes = members(training.pid)
            os.kill(draws.choice(processes), signal.SIGKILL)
        training.wait()
        told.append({"seconds": round(delay, 2), "processes": len(processes), "kept": copy.kept()})
        while any(Path(f"/proc/{pid}").exists() for pid in processes[1:]):  # the other ranks leave by themselves
            time.sleep(0.05)
    copy.run("stages.pretrain", "simclr")
    return told


def measure(folder: Path, kills: int, ranks: int, seed: int, smoke: bool) -> dict[str, Any]:
    """What the three trainings left, and whether it is the same."""
    values = study(ranks, 2 if smoke else None)
    whole = copied(folder / "whole", values)
    shutil.copytree(whole.folder, folder / "interrupted", symlinks=True)
    shutil.copytree(whole.folder, folder / "unmonitored", symlinks=True)
    whole.run("stages.pretrain", "simclr")
    unmonitored = Copy(folder / "unmonitored")
    values["runs"]["simclr"]["training"]["monitor_epochs"] = 0
    (unmonitored.folder / "params.yaml").write_text(json.dumps(values))
    unmonitored.run("stages.pretrain", "simclr")
    killed = Copy(folder / "interrupted")
    told = interrupted(killed, kills, seed, 5.0 if smoke else LONGEST)
    hashes = {"whole": whole.hashes(), "interrupted": killed.hashes(), "unmonitored": unmonitored.hashes()}
    equal, unmonitored_equal = (hashes["whole"] == hashes[way] for way in ("interrupted", "unmonitored"))
    return {
        "said": f"{len(told)} SIGKILLs of a training with {ranks} rank(s), {len(hashes['whole'])} files: "
        f"{'the same bytes' if equal else '**other bytes**'}; without the monitor "
        f"{'the same bytes' if unmonitored_equal else '**other bytes**'}",
        "kills": len(told),
        "equal": equal,
        "equal_without_monitor": unmonitored_equal,
        "sha256": {way: found["seed-1/encoder.safetensors"] for way, found in hashes.items()},
        "attempts": told,
        "command": f"python -m {__spec__.name} --kills {kills} --ranks {ranks} --seed {seed}",
    }


def main() -> None:
    """Read the options, kill, compare, keep."""
    parser = argparse.ArgumentParser(prog=f"python -m {__spec__.name}")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0, help="of the instants")
    parser.add_argument("--smoke", action="store_true", help="two epochs; nothing is kept")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        record = measure(Path(folder), asked.kills, asked.ranks, asked.seed, asked.smoke)
    print(json.dumps(record, indent=1))
    if not asked.smoke:
        keep({f"ranks_{asked.ranks}": record}, "interruptions.json")
    sys.exit(not (record["equal"] and record["equal_without_monitor"]))


if __name__ == "__main__":
    main()
