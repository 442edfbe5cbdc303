"""Claims about what a running stage is given, without a study around it.

- an input is compared by size and time, and by its content where these differ
- what was edited before the first look, but after it was read, is noticed
- Ctrl-C is one sentence, however often it is pressed
- looking at the inputs takes a small share of the time, however long a look takes
- several ranks work on the inputs of the start, or not at all; where one works, the others are refused
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import toy_project

from pipeline import params, stage, tracking
from pipeline.errors import InputsChanged, Refusal
from pipeline.fingerprint import Fingerprint
from pipeline.graph import Node
from pipeline.params import Hardware
from pipeline.scratch import Scratch
from pipeline.stage import Stage

CODE = Path("code.py")
NODE = Node("pretrain@a", ["code.py"], {"runs.a": {}}, {}, [], {})


class Slow:
    """Inputs that take a while to look at."""

    looks = 0

    def changes(self) -> list[str]:
        self.looks += 1
        time.sleep(0.02)
        return []


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A project of one input."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CONTRAIL_LOCKS", str(tmp_path))
    Path("params.yaml").write_text("runs: {a: {seeds: [0]}, b: {seeds: [0]}}")
    CODE.write_text("one")


def taken() -> Fingerprint:
    return Fingerprint.take(params.read(), ["runs.a"], ["code.py", "data"])


def working(inputs: Fingerprint | Slow, ranks: int = 1) -> Stage:
    """The stage pretrain@a, which watches `inputs`."""
    hardware = Hardware(device="cpu", threads=1, precision="fp32", deterministic=True, ranks=ranks, compile=False)
    return Stage(NODE, hardware, "toy", Scratch(NODE.name, {"key": "0"}), tracking.Run(NODE.name, None), inputs)


def kept_times(path: Path, text: str) -> None:
    """Another content, under the times of the old one."""
    before = path.stat()
    path.write_text(text)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


# ---- what counts as an edit


def test_a_file_of_the_same_size_and_time_is_not_read() -> None:
    """Gigabytes that nobody touched cost a look nothing."""
    inputs = taken()
    kept_times(CODE, "two")
    assert inputs.changes() == []
    kept_times(CODE, "three")
    assert [change.split()[0] for change in inputs.changes()] == ["code.py"]


def test_what_was_edited_and_restored_is_unchanged() -> None:
    """A later time alone is no change, nor is a parameter of another stage; a file that comes or goes is one."""
    inputs = taken()
    os.utime(CODE, ns=(1, 1))
    Path("params.yaml").write_text("runs: {a: {seeds: [0]}, b: {seeds: [1]}}")
    assert inputs.changes() == []
    CODE.write_text("edited")
    Path("data").write_text("pixels")
    assert [change.split()[0] for change in inputs.changes()] == ["code.py", "data"]
    CODE.unlink()
    assert "code.py (gone)" in inputs.changes()


def test_looking_takes_a_small_share_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look that takes longer than the time between two is followed by a longer wait."""
    monkeypatch.setattr(stage, "LOOK_EVERY", 0.0)
    inputs = Slow()
    working_stage = working(inputs)
    for _ in range(10):
        working_stage.check()
    assert inputs.looks == 1


def test_a_parameter_is_that_which_was_read() -> None:
    """Edited between the reading and the first look, it is not what the stage works with."""
    values = params.read()
    Path("params.yaml").write_text("runs: {a: {seeds: [1]}}")
    assert [change.split(" (")[0] for change in Fingerprint.take(values, ["runs.a"], []).changes()] == [
        "params.yaml: runs.a"
    ]


STARTING = """\
import sys
from pathlib import Path
from typing import Any
import split
from pipeline import paths, stage

def prepare(stage: Any, *, source: Any, subset: Any, split: Any, quality: Any, pretrain_on: Any, budgets: Any) -> None:
    stage.out(paths.dataset(stage.item) / "labels.parquet").write_text("labels")

if sys.argv.pop() == "edited":
    Path("split.py").write_text("RATIO = 2")
stage.run(prepare)
"""
DAG = """\
stages:
  prepare:
    foreach: ${datasets}
    do:
      cmd: python starting.py ${key}
      params: ["datasets.${key}"]
      deps: ["${item.source.path}", split.py, starting.py]
      outs: ["data/datasets/${key}/labels.parquet"]
"""


@pytest.mark.parametrize("how", ["as it is", "edited"])
def test_code_edited_after_its_import_makes_no_output(root: Path, how: str) -> None:
    """The file is no longer that which runs, and its md5 would stand in receipt and lock: the stage starts again."""
    study = params.read(root / "params.yaml") | {"runs": {}, "evaluations": {}, "finetunes": {}}
    study["datasets"]["digits"]["source"] |= {"path": "images"}
    toy_project.make(Path())
    Path("params.yaml").write_text(json.dumps(study))
    Path("dvc.yaml").write_text(DAG)
    Path("images").mkdir()
    Path("images/0.png").touch()
    Path("split.py").write_text("RATIO = 1")
    Path("starting.py").write_text(STARTING)
    environment = os.environ | {"PYTHONPATH": str(root), "CONTRAIL_TRACKING": "off"}
    command = [sys.executable, "starting.py", "digits", how]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert Path("data/datasets/digits/labels.parquet").exists() == (how != "edited")
    says = "error: prepare@digits: edited while the stage started, which may have read either version: split.py (edited"
    assert (done.returncode, done.stderr.startswith(says)) == (int(how == "edited"), how == "edited"), done.stderr


# ---- signals


@pytest.fixture
def handlers() -> Iterator[None]:
    """Gives the signals back to whoever had them."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(("times", "says"), [(1, "goes on from here"), (2, "goes on from the last state that it kept")])
def test_ctrl_c_ends_with_a_sentence(
    times: int, says: str, handlers: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first waits until the work is saved, a second does not."""
    reached = []

    def execute(function: object, name: str) -> None:
        working_stage = working(taken())
        working_stage.listen()
        with working_stage.patience():
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)
            reached.append("saved")

    monkeypatch.setattr(stage, "execute", execute)
    monkeypatch.setattr(stage.ranks, "die_with_parent", lambda number: None)
    monkeypatch.setattr(stage.paths, "root", Path.cwd)
    monkeypatch.setattr("sys.argv", ["pretrain", "a"])
    with pytest.raises(SystemExit) as ended:
        stage.run(execute)
    assert ended.value.code == 130
    assert reached == (["saved"] if times == 1 else [])
    assert says in capsys.readouterr().out


# ---- several ranks


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of rank 0 of two, as torchrun sets it."""
    for name, value in {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "RANK": "0"}.items():
        monkeypatch.setenv(name, value)


def test_ranks_do_not_start_on_edited_inputs(two: None) -> None:
    """What was edited before the others were there is refused at once."""
    working_stage = working(taken(), ranks=2)
    CODE.write_text("edited")
    with (
        pytest.raises(InputsChanged, match=r"^inputs changed while ranks were started, .*: code\.py \(edited .*again$"),
        working_stage.device(shared=True),
    ):
        raise AssertionError("it started")


def test_ranks_do_not_go_on_with_inputs_edited_while_they_read(two: None) -> None:
    """An edit before the first `check`, by which all have read, is refused; a later one is for the end."""
    working_stage = working(taken(), ranks=2)
    with working_stage.device(shared=True):
        CODE.write_text("edited")
        with pytest.raises(InputsChanged, match="while ranks were started"):
            working_stage.check()
    CODE.write_text("one")
    with working_stage.device(shared=True):
        working_stage.check()
        CODE.write_text("edited")
        working_stage.check()


def test_one_process_takes_edited_inputs_to_the_end() -> None:
    """It has read them before it took the device: nothing is refused before its work is done."""
    working_stage = working(taken())
    CODE.write_text("edited")
    with working_stage.device(shared=True):
        working_stage.check()


def test_ranks_where_one_works_are_refused(two: None) -> None:
    """The sentence of rank 0 is that of the others, whatever hardware.ranks is."""
    with (
        pytest.raises(Refusal, match="one process does the work of this stage: start it without torchrun"),
        working(taken(), ranks=2).device(),
    ):
        raise AssertionError("it started")
