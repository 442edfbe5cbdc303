"""The benchmarks can be believed: the frame's statistics, the published table, and that every one of them runs."""

import importlib.util
import json
import operator
import os
import subprocess
import sys
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hidden_packages import UNNEEDED

from benchmarks import _paired, _results, gpu, interruptions
from benchmarks.__main__ import CLAIMS
from pipeline import params

ABSENT = UNNEEDED | {"psutil", "timm", "lightly", "kornia", "faiss"}


def record(**changes: Any) -> _paired.Record:
    """A record in which only the changes matter."""
    values = {"value": 2.0, "spread": (1.5, 2.5), "pairs": 3, "what": "a over b", "ours": 4.0, "other": 2.0}
    return _paired.Record(**values | {"unit": "1/s", "target": "", "command": "python -m benchmarks.views"} | changes)


# ---- the frame


def test_sides_take_turns_in_an_order_that_turns_around() -> None:
    """Every side runs once a round, the first round counts nowhere, and each round begins with the last one's last."""
    calls: list[str] = []

    def side(name: str, rate: float) -> _paired.Side:
        def measure() -> float:
            calls.append(name)
            return rate * len(calls)

        return measure

    found = _paired.rounds({"a": side("a", 1), "b": side("b", 10)}, 2)
    assert "".join(calls) == "ba" + "ab" + "ba"
    assert found == {"a": [3, 6], "b": [40, 50]}


def test_a_ratio_is_taken_in_each_round() -> None:
    """The median of the ratios is not the ratio of the medians: a slow round slows both sides."""
    ours, other = [10.0, 1.0, 30.0, 8.0], [5.0, 0.5, 10.0, 8.0]
    found = _paired.compared(ours, other, what="", unit="", target="≥ 2", command="")
    assert found.value == 2.0
    assert found.spread == (1.75, 2.25)
    assert (found.pairs, found.ours, found.other) == (4, 9.0, 6.5)
    assert found.met


@pytest.mark.parametrize(
    ("value", "target", "met"), [(2.0, "≥ 2", True), (1.9, "≥ 2", False), (1.3, "≤ 1.3", True), (1.4, "≤ 1.3", False)]
)
def test_a_target_is_a_bound(value: float, target: str, met: bool) -> None:
    """≥ and ≤ include the bound; without a target nothing is met or missed."""
    assert record(value=value, target=target).met is met
    assert record(value=value).met is None


def test_a_rate_is_units_over_seconds() -> None:
    """Half as much work in the same time is half the rate."""
    nap = _paired.side(10, lambda: time.sleep(0.05))
    assert 0 < nap() <= 10 / 0.05


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_that_of_the_work() -> None:
    """64 MiB more are seen as 64 MiB more, in a process of its own."""
    assert _paired.peak(partial, operator.mul, b"x", 64 * 2**20) == pytest.approx(64, abs=8)


def test_a_side_elsewhere_runs_in_another_process() -> None:
    """It is made once, asked several times, and gone when it is closed."""
    with _paired.Elsewhere(partial, os.getpid) as side:
        first, second = side(), side()
    assert first == second == side._process.pid
    assert side._process.exitcode == 0


# ---- what is published


@pytest.mark.parametrize("path", sorted(_results.RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_the_table_is_that_of_the_results(path: Path) -> None:
    """README.md shows each file of results/ as it is."""
    shown = _results.block(path.stem, _results.README.read_text())
    assert shown == _results.table(json.loads(path.read_text())), "run `python -m benchmarks` or one of its claims"


@pytest.mark.parametrize("path", sorted(_results.RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_every_result_says_how_it_is_repeated(path: Path) -> None:
    """The command of each record names a module that is there; ratios have all that a record has."""
    for name, found in json.loads(path.read_text()).items():
        if name not in _results.ABOUT:
            python, flag, module, *_ = found["command"].split()
            assert (python, flag) == ("python", "-m")
            assert importlib.util.find_spec(module), name
            assert "said" in found or asdict(_paired.Record(**found)).keys() == found.keys()


def test_a_claim_replaces_its_own_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other rows stay, the page follows; results of another machine are left alone."""
    monkeypatch.setattr(_results, "RESULTS", tmp_path)
    monkeypatch.setattr(_results, "README", tmp_path / "README.md")
    (tmp_path / "README.md").write_text("# Page\n\n<!-- cpu:begin -->\nold\n<!-- cpu:end -->\n\nend\n")
    for number, name in enumerate(["a", "b", "a"]):
        _results.keep({name: asdict(record(value=float(number)))}, "cpu.json")
    kept = json.loads((tmp_path / "cpu.json").read_text())
    assert {name: kept[name]["value"] for name in "ab"} == {"a": 2.0, "b": 1.0}
    page = (tmp_path / "README.md").read_text()
    assert "old" not in page
    assert page.count("| `a` | 2 |") == 1
    assert page.endswith("end\n")
    monkeypatch.setattr(_results, "machine", lambda: {"cpu": "another"})
    _results.keep({"a": asdict(record(value=9.0))}, "cpu.json")
    assert json.loads((tmp_path / "cpu.json").read_text()) == kept


def test_a_sentence_stands_below_the_ratios() -> None:
    """What is no ratio is told as it tells itself; a missed target is seen."""
    said = {"said": "all is well", "command": "python -m benchmarks.gpu"}
    missed = asdict(record(target="≥ 3"))
    text = _results.table({"machine": {"cpu": "some"}, "versions": {"python": "3"}, "x": missed, "y": said})
    assert "| ≥ 3 | **no** |" in text
    assert text.splitlines()[0] == "some; python 3."
    assert text.splitlines()[-1] == "- all is well; `python -m benchmarks.gpu`"


# ---- each of them runs


def smoked(code: str, root: Path) -> str:
    """What a fresh interpreter prints, in which `smoke(module)` runs a benchmark on tiny sizes."""
    smoke = """
import runpy, sys

def smoke(module):
    sys.argv = [module, "--smoke"]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
"""
    command = [sys.executable, "-c", smoke + code]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_claim_runs(root: Path) -> None:
    """All but kNN, whose only peer comes with the extra `bench`; the others leave out the peers that are not there."""
    claims = [f"benchmarks.{claim}" for claim in CLAIMS if claim != "knn"]
    printed = smoked(f"for module in {claims}: smoke(module)", root)
    for record in (
        "views_vs_torchvision_32",
        "limit_tiny",
        "ntxent_memory_slope",
        "linear_vs_sklearn",
        "step_tiny_rest",
        "ingest_vs_pillow",
    ):
        assert record in printed


@pytest.mark.skipif(not importlib.util.find_spec("faiss"), reason="faiss-cpu comes with the extra `bench`")
def test_knn_runs(root: Path) -> None:
    """Beside faiss, with equal neighbors."""
    assert "knn_vs_faiss: " in smoked("smoke('benchmarks.knn')", root)


@pytest.mark.service
def test_growth_runs(root: Path) -> None:
    """A thousand images from tar files through prepare, and an epoch of them."""
    assert '"said": "1,000 PNG images of 16×16' in smoked("smoke('benchmarks.growth')", root)


def test_methods_run(root: Path) -> None:
    """Those of the recipe, in turn, each beside simclr."""
    printed = smoked("smoke('benchmarks.methods')", root)
    assert "method_simclr: 1 (1 … 1)" in printed
    assert "method_macl: " in printed


def test_the_gpu_script_runs_on_a_training_machine(root: Path) -> None:
    """`--smoke` goes through every part where only the extra `worker` is installed; the second call goes on."""
    hide = f"sys.modules.update(dict.fromkeys({sorted(ABSENT)}))\n"
    printed = smoked(hide + "smoke('benchmarks.gpu')", root)
    for record in ("gpu_limit_16", "gpu_epoch_16", "gpu_free_16", "gpu_step_tiny_views", "kNN on CIFAR-10"):
        assert record in printed
    assert (printed.count("epoch 1: "), printed.count("epoch 2: ")) == (1, 1)  # in two calls


def test_an_accuracy_is_reached_once() -> None:
    """The first look at or above a level counts; levels that were not reached are not told."""
    looks = [{"epoch": e, "seconds": 10.0 * e, "knn": knn} for e, knn in ((5, 0.7), (10, 0.81), (15, 0.79))]
    said = gpu.reached(looks)["said"]
    assert said == "kNN on CIFAR-10: 75 % after 100 s (10 epochs), 80 % after 100 s (10 epochs), 79.0 % at epoch 15"


# ---- interruptions


class Sleeper:
    """In place of a copy of the project: a training that never ends by itself."""

    started = finished = 0

    def start(self) -> subprocess.Popen[bytes]:
        self.started += 1
        return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)

    def run(self, *command: str) -> None:
        self.finished += 1

    def kept(self) -> dict[str, int]:
        return {}


def test_a_training_is_killed_so_many_times() -> None:
    """Every attempt is killed at its own instant, the same for the same seed, and the last one may end."""
    copy = Sleeper()
    told = interruptions.interrupted(copy, 3, 0, 0.2)
    assert (copy.started, copy.finished, len(told)) == (3, 1, 3)
    again = interruptions.interrupted(Sleeper(), 3, 0, 0.2)
    assert [one["seconds"] for one in told] == [one["seconds"] for one in again]
    assert len({one["seconds"] for one in told}) > 1


@pytest.mark.parametrize("ranks", [1, 2])
def test_the_study_that_is_killed_is_one(ranks: int) -> None:
    """Its params.yaml passes the check, with so many ranks."""
    values = interruptions.study(ranks, None)
    params.check(values)
    assert values["hardware"]["ranks"] == ranks
