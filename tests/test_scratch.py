"""Claims about the scratch folder and the device lock.

- finished outputs stay until dvc.lock has recorded them, whatever happens in between
- stages that start together clear away what others have left, without tripping over each other
- an identity has its folder; another identity starts afresh and says what differs
- a device has so many places, and a place goes with its process
"""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline import lock, scratch
from pipeline.scratch import Scratch, _lock_some, device_lock, write_atomically

OUTS = ["data/encoders/simclr", "data/scores/simclr.json"]
ENTRY = {"cmd": "python", "outs": [{"path": path, "md5": "0"} for path in OUTS]}


def identity(**changes: object) -> dict:
    return {"key": lock.key(ENTRY), "params": {"epochs": 3}} | changes


def finished(stage: str = "pretrain@simclr", **changes: object) -> Scratch:
    """A scratch folder with both outputs written."""
    work = Scratch(stage, identity(**changes))
    (work.outs / OUTS[0]).mkdir(parents=True)
    (work.outs / OUTS[0] / "weights").write_text("weights")
    (work.outs / OUTS[1]).parent.mkdir(parents=True)
    (work.outs / OUTS[1]).write_text("{}")
    work.finish()
    return work


def record(*stages: str) -> None:
    """Write dvc.lock as DVC does after the stages."""
    entries = dict.fromkeys(stages or ["pretrain@simclr"], ENTRY)
    Path("dvc.lock").write_text(json.dumps({"schema": "2.0", "stages": entries}))


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_outputs_survive_until_they_are_recorded() -> None:
    """Killed after the hand-over: DVC has deleted the outputs, the next start puts them back."""
    finished().place(OUTS)
    shutil.rmtree("data")
    again = Scratch("pretrain@simclr", identity())
    assert again.finished
    again.place(OUTS)
    assert Path(OUTS[0], "weights").read_text() == "weights"
    assert Path(OUTS[1]).read_text() == "{}"


def test_outputs_survive_a_kill_half_way_through_the_hand_over() -> None:
    """One output placed, the other not: nothing is lost and nothing counts as recorded."""
    work = finished()
    work.place(OUTS[:1])
    record()
    (work.folder / "placed").unlink()  # what a kill before the end of `place` leaves
    assert Scratch("pretrain@simclr", identity()).finished


def test_recorded_outputs_are_dropped_and_a_forced_run_is_a_new_one() -> None:
    """Once dvc.lock has the key, `dvc repro -f` works afresh instead of handing over the old outputs."""
    finished().place(OUTS)
    record()
    again = Scratch("pretrain@simclr", identity())
    assert not again.finished
    assert list(again.outs.iterdir()) == []


STAGE_THAT_STARTS = """\
import sys
from pipeline.scratch import Scratch
sys.stdin.readline()
Scratch(sys.argv[1], {"key": "0"})
"""


def test_stages_that_start_together_share_the_clearing_away() -> None:
    """None fails because of a folder that another is removing, and all of them are gone."""
    stages = [f"pretrain@{k}" for k in range(20)]
    for stage in stages:
        finished(stage).place(OUTS)
    record(*stages)
    command = [sys.executable, "-c", STAGE_THAT_STARTS]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    starting = [
        subprocess.Popen([*command, f"embed@{k}"], stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
        for k in range(2)
    ]
    time.sleep(0.5)  # both have imported what they need
    for process in starting:
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.flush()
    said = [process.communicate()[1].decode() for process in starting]
    assert said == ["", ""]
    assert not list(Path(".scratch").glob("pretrain@*/*"))


def test_what_a_killed_start_left_is_cleared_away() -> None:
    """Neither the folder that it was removing, nor the others, remain."""
    finished().place(OUTS)
    record()
    Path(".scratch/swept/outs").mkdir(parents=True)
    Path(".scratch/swept/placed").touch()
    Scratch("embed@simclr", identity())
    assert [path.name for path in Path(".scratch").glob("*/*/")] == [Scratch("embed@simclr", identity()).folder.name]


def test_what_is_finished_is_on_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before a mark is written every file and folder that it speaks of is flushed, and the mark itself before more."""
    flushed = []

    def fsync(number: int) -> None:
        path = Path(f"/proc/self/fd/{number}").readlink().relative_to(Path.cwd())
        flushed.append((str(path), *(name for name in ("finished", "placed") if (folder / name).exists())))

    folder = finished().folder
    (folder / "finished").unlink()
    (folder / "state").mkdir()
    monkeypatch.setattr(scratch.os, "fsync", fsync)
    work = Scratch.__new__(Scratch)
    work.folder, work.state, work.outs = folder, folder / "state", folder / "outs"
    work.finish()
    staged = [f"{folder}/outs", *(str(path) for path in (folder / "outs").rglob("*"))]
    assert sorted(flushed) == sorted([*((path,) for path in staged), (str(folder), "finished")])
    assert flushed[-1] == (str(folder), "finished")
    flushed.clear()
    work.place(OUTS)
    before = {path for path, *marks in flushed if "placed" not in marks}
    assert {OUTS[0], f"{OUTS[0]}/weights", OUTS[1], "data/encoders", "data/scores"} <= before
    assert flushed[-1] == (str(folder), "finished", "placed")


def test_finished_outputs_that_were_refused_are_kept() -> None:
    """After a drift error the outputs are not in place: an older record of the same key does not drop them."""
    finished()
    record()
    assert Scratch("pretrain@simclr", identity()).finished


@pytest.mark.parametrize("content", ["", "schema: '2.0'\n", "stages:\n  a: {cmd: 'x"])
def test_a_lock_that_is_being_rewritten_drops_nothing(content: str) -> None:
    """Another stage's DVC writes dvc.lock in place: half of it is no record."""
    finished().place(OUTS)
    Path("dvc.lock").write_text(content)
    assert Scratch("pretrain@simclr", identity()).finished


def test_an_existing_output_is_replaced_not_merged() -> None:
    """What an earlier run left under the same path is gone."""
    Path(OUTS[0]).mkdir(parents=True)
    Path(OUTS[0], "old").touch()
    finished().place(OUTS)
    assert [path.name for path in Path(OUTS[0]).iterdir()] == ["weights"]


def test_another_identity_starts_afresh_and_says_why() -> None:
    """The work of one identity is not resumed by another; the difference is named."""
    (Scratch("pretrain@simclr", identity()).state / "checkpoint").touch()
    assert Scratch("pretrain@simclr", identity()).fresh_because is None
    assert (Scratch("pretrain@simclr", identity()).state / "checkpoint").exists()
    other = Scratch("pretrain@simclr", identity(params={"epochs": 4}))
    assert other.fresh_because == "params epochs"
    assert not (other.state / "checkpoint").exists()


def test_after_finished_work_nothing_starts_afresh() -> None:
    """An execution that ended well, and whose outputs no lock has recorded, is no unfinished one."""
    finished()
    assert Scratch("pretrain@simclr", identity(params={"epochs": 4})).fresh_because is None


def test_a_write_is_whole_or_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that fails leaves the old content."""
    file = Path("state")
    write_atomically(file, b"old")
    monkeypatch.setattr("os.fsync", lambda number: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        write_atomically(file, b"new")
    assert file.read_bytes() == b"old"


def test_a_device_has_so_many_places() -> None:
    """A third training waits for one of two places, says so, and gets it when a holder is killed."""
    hold = (
        "import time\n"
        "from pipeline.scratch import device_lock\n"
        "with device_lock('test-device', 2, 1):\n"
        "    print('held', flush=True)\n"
        "    time.sleep(60)\n"
    )
    root = Path(__file__).resolve().parent.parent
    trainings = []
    try:
        said = []
        for _ in range(3):
            trainings.append(
                subprocess.Popen([sys.executable, "-c", hold], cwd=root, stdout=subprocess.PIPE, text=True)
            )
            said.append(trainings[-1].stdout.readline())
        assert said[:2] == ["held\n", "held\n"]
        assert said[2].startswith("waiting: other training(s) hold test-device")
        trainings[0].kill()
        assert trainings[2].stdout.readline() == "held\n"
    finally:
        for training in trainings:
            training.kill()
            training.wait()


def test_places_are_taken_all_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """A training that needs two of two places, one of which is held, leaves the other to others while it waits."""
    folder = Path("locks")
    monkeypatch.setenv("CONTRAIL_LOCKS", str(folder))
    with device_lock("cpu", 2, 1):
        files = [(folder / f"cpu-{slot}.lock").open("a+") for slot in range(2)]
        assert not _lock_some(files, 2)
        with device_lock("cpu", 2, 1):
            assert not _lock_some(files, 1)
    assert _lock_some(files, 2)


def test_all_trainings_of_a_user_meet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The places of a device are the same for a shell and a cron job, whatever is in their environments."""
    monkeypatch.delenv("CONTRAIL_LOCKS", raising=False)
    monkeypatch.setattr(scratch, "LOCKS", str(tmp_path / "contrail-{}"))
    folder = tmp_path / f"contrail-{os.getuid()}"
    with device_lock("cpu", 1, 1), (folder / "cpu-0.lock").open("a+") as file:
        for name in ("XDG_RUNTIME_DIR", "TMPDIR"):
            monkeypatch.setenv(name, str(tmp_path / "gone"))
        monkeypatch.setattr("tempfile.tempdir", None)
        with device_lock("another", 1, 1):
            assert not _lock_some([file], 1)
        assert sorted(path.name for path in folder.iterdir()) == ["another-0.lock", "cpu-0.lock"]
