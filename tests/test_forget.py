"""Taking an image back: what `forget` removes and what it leaves; that a kill does no harm; what is refused."""

import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from toy_project import run
from trail_project import (
    IGNORED,
    SCANS,
    TEST,
    TRAIN,
    asked,
    copied,
    digest,
    dvc,
    entered,
    finished,
    forgotten,
    holders,
    image,
    name,
    png,
)
from typer.testing import CliRunner

from pipeline import cli, lock, params, recipes, store
from pipeline.errors import ParamsError, Refusal
from pipeline.store import Store
from pipeline.trail import forget, history, removal, sources
from pipeline.trail.forget import JOURNAL

REPOSITORY = Path(__file__).parents[1]


class Killed(BaseException):
    """As SIGKILL: nothing catches it."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished(tmp_path_factory.mktemp("made") / "project")


@pytest.fixture
def root(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return entered(copied(made, tmp_path / "copy"), monkeypatch)


@pytest.mark.parametrize("number", [TRAIN, TEST])
def test_nothing_holds_a_forgotten_image(root: Path, number: int) -> None:
    """Not its pixels, its file, its features nor its name: not in source, data, cache, run-cache or remote."""
    for folder in (root / SCANS, root / "data", root / ".dvc" / "cache", root.parent / "shelf"):
        assert holders(folder, [number])  # or the test would show nothing
    lines = forgotten(root, name(number))
    assert holders(root.parent, [number]) == []
    assert "1 image(s) are forgotten" in lines[0]
    assert not (root / JOURNAL).exists()


def test_what_has_nothing_of_it_is_left(root: Path) -> None:
    """Other files of the source, shards without it, weights and scores stay; the rest of its shard comes back."""
    before = {path.relative_to(root) for path in (root / ".dvc/cache/files").rglob("*") if path.is_file()}
    shards = store_files(root, "data/datasets/large/images")
    forgotten(root, name(TRAIN))
    kept = {path.relative_to(root) for path in (root / ".dvc/cache/files").rglob("*") if path.is_file()}
    assert kept < before
    assert [file for file, md5 in sorted(shards.items()) if object_path(md5) in kept] == [
        "shard-00000.bin", "shard-00002.bin", "shard-00003.bin", "shard-00004.bin"
    ]  # fmt: skip
    assert (root / "data/encoders/simclr/seed-0/encoder.safetensors").exists()
    assert (root / "data/scores/simclr.json").exists()
    table = (root / SCANS / "labels.csv").read_text().splitlines()
    assert table[1:] == [f"{name(n)},{n % 2},P{n // 4}" for n in range(40) if n != TRAIN] + ["P9/scan-0099.png,0,P9"]
    dvc(root, "repro", "--quiet", "prepare@large")
    assert pq.read_table(root / "data/datasets/large/images/index.parquet").num_rows == 40
    assert holders(root.parent, [TRAIN]) == []


def store_files(root: Path, out: str) -> dict[str, str]:
    """File → md5 of a folder that dvc.lock records."""
    with store.opened(root) as objects:
        return objects.files(lock.hashes(lock.read(root)["prepare@large"]["outs"])[out]) or {}


def object_path(md5: str) -> Path:
    return Path(".dvc/cache/files/md5", md5[:2], md5[2:])


def test_a_group_goes_with_its_folder_and_its_rows(root: Path) -> None:
    """All four images of a patient, the folder that is empty then, and no others."""
    forgotten(root, groups=("P3",))
    assert holders(root.parent, [12, 13, 14, 15]) == []
    assert not (root / SCANS / "P3").exists()
    assert len(list((root / SCANS).rglob("*.png"))) == 37
    assert "P3" not in (root / SCANS / "labels.csv").read_text()


def test_objects_that_nothing_records_are_found_by_what_they_hold(root: Path) -> None:
    """A file as `dvc add` keeps it, its folder's list, an array of an execution that is forgotten; others stay."""
    cache = root / ".dvc" / "cache" / "files" / "md5"
    content = (root / SCANS / name(TRAIN)).read_bytes()
    listed = json.dumps([{"md5": hashlib.md5(content).hexdigest(), "relpath": name(TRAIN)}]).encode()
    innocent = np.stack([image(number) for number in (2, 3)]).tobytes()
    strays = [content, listed, np.stack([image(number) for number in (2, TRAIN)]).tobytes(), innocent]
    for number, stray in enumerate(strays):
        put(cache, stray, f"{number:02x}" + "0" * 30 + (".dir" if stray is listed else ""))
    forgotten(root, name(TRAIN))
    assert [stray.exists() for stray in (cache / f"{number:02x}" / ("0" * 30) for number in (0, 2, 3))] == [
        False, False, True
    ]  # fmt: skip
    assert not (cache / "01" / ("0" * 30 + ".dir")).exists()


def put(place: Path, content: bytes, oid: str) -> None:
    """Let a cache or a remote have an object."""
    (place / oid[:2]).mkdir(parents=True, exist_ok=True)
    (place / oid[:2] / oid[2:]).write_bytes(content)


def taken_out(root: Path, number: int) -> bytes:
    """The content of a file that a person takes out of the source, and its row."""
    content, table = (root / SCANS / name(number)).read_bytes(), root / SCANS / "labels.csv"
    (root / SCANS / name(number)).unlink()
    table.write_text("".join(line for line in table.open() if not line.startswith(name(number))))
    return content


@pytest.mark.parametrize("how", ["id", "file"])
def test_what_the_source_has_no_more_is_forgotten_too(root: Path, tmp_path: Path, how: str) -> None:
    """Nothing of it is left where `dvc add` keeps it, asked for by its id or by a file from elsewhere."""
    (tmp_path / "copy.png").write_bytes(taken_out(root, TRAIN))
    Image.fromarray(image(TRAIN)).save(stream := io.BytesIO(), "BMP")
    strays = {"01" + "0" * 30: stream.getvalue(), "02" + "0" * 30: png(2)}
    if how == "file":  # only this has the bytes
        strays["03" + "0" * 30] = np.stack([image(number) for number in (2, TRAIN)]).tobytes()
    for oid, stray in strays.items():
        put(root / ".dvc/cache/files/md5", stray, oid)
    forgotten(root, name(TRAIN) if how == "id" else str(tmp_path / "copy.png"))
    (tmp_path / "copy.png").unlink()
    assert holders(root.parent, [TRAIN]) == []
    assert [oid for oid in strays if (root / ".dvc/cache/files/md5" / oid[:2] / oid[2:]).exists()] == ["02" + "0" * 30]


def test_a_folder_that_was_added_gives_an_image_up_in_the_remote(root: Path) -> None:
    """The list of the folder that a data set was made from says which object is the image's, if the cache is empty."""
    source = lock.hashes(lock.read(root)["prepare@small"]["deps"])[str(SCANS)]
    files = {path.relative_to(SCANS).as_posix(): path.read_bytes() for path in SCANS.rglob("*.*")}
    listed = [{"md5": hashlib.md5(content).hexdigest(), "relpath": file} for file, content in sorted(files.items())]
    shelf = root.parent / "shelf/files/md5"
    for content in files.values():
        put(shelf, content, hashlib.md5(content).hexdigest())
    put(shelf, json.dumps(listed).encode(), source)
    hidden = hashlib.md5(taken_out(root, TRAIN)).hexdigest()
    kept = hashlib.md5(files[name(2)]).hexdigest()
    forgotten(root, name(TRAIN))
    assert not (shelf / hidden[:2] / hidden[2:]).exists()
    assert not (shelf / source[:2] / source[2:]).exists()
    assert (shelf / kept[:2] / kept[2:]).exists()


def test_a_table_that_lies_in_the_cache_keeps_its_other_rows(root: Path) -> None:
    """Where DVC leaves links to its objects: the object of the table goes, and the link becomes a table without it."""
    table, cache = root / SCANS / "labels.csv", root / ".dvc/cache/files/md5"
    lines = table.read_text().splitlines()
    oid = hashlib.md5(table.read_bytes()).hexdigest()
    put(cache, table.read_bytes(), oid)
    table.unlink()
    table.symlink_to(cache / oid[:2] / oid[2:])
    forgotten(root, name(TRAIN))
    assert table.read_text().splitlines() == [line for line in lines if not line.startswith(name(TRAIN))]
    assert not (cache / oid[:2] / oid[2:]).exists()


def test_scratch_is_cleared_but_for_what_waits_for_the_tracker(root: Path) -> None:
    """What ingest and killed stages left may hold the image."""
    for file in (".scratch/ingest/small/last/pixels.npy", ".scratch/tracking/a.jsonl", ".scratch/prepare@small/0/x"):
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text("x")
    forgotten(root, name(TRAIN))
    assert [path.name for path in (root / ".scratch").iterdir()] == ["tracking"]


def test_files_that_still_name_it_are_named(root: Path) -> None:
    """Lists and pages that git passes over, in every spelling; not the environment, and not what names others."""
    odd = "P3/caf\u00e9 & co.png"
    Image.fromarray(image(77)).save(root / SCANS / odd)
    with (root / SCANS / "labels.csv").open("a") as lines:
        lines.write(f"{odd},0,P3\n")
    dvc(root, "repro", "--quiet", "prepare@small")
    (root / ".gitignore").write_text(IGNORED + "to_label*\n.venv\n")
    named = {
        "to_label.csv": f"file,label\n{name(TRAIN)},\n",
        "to_label.html": '<input data-file="P3/caf\u00e9 &amp; co.png">',
        "notes/to_label \u00e9.html": f'<input data-file="{name(TRAIN)}">',
        "seen.txt": "P3/cafe\u0301 & co.png",
        "data/raw/sites.CSV": f"site,file\nnorth,{name(TRAIN)}\n",
    }
    others = {".venv/pages.txt": name(TRAIN), "to_label.2.csv": f"file,label\n{name(2)},\n"}
    for file, text in (named | others).items():
        (root / file).parent.mkdir(exist_ok=True)
        (root / file).write_text(text)
    [line] = [line for line in forgotten(root, name(TRAIN), odd) if "may still name" in line]
    assert sorted(line.partition(": ")[2].split(", ")) == sorted(named)


@pytest.mark.parametrize("killed", [False, True])
def test_a_page_of_an_image_that_the_source_has_no_more_is_named(
    root: Path, monkeypatch: pytest.MonkeyPatch, killed: bool
) -> None:
    """Asked for by its pixels, as the page knows it by its id; also where a call was killed after the last object."""
    taken_out(root, TRAIN)
    (root / "to_label.html").write_text(f'<input data-file="{name(TRAIN)}">')
    if killed:
        remove, places = Store.remove, iter(("cache", "shelf"))

        def ending(*arguments: Any) -> None:
            remove(*arguments)
            if next(places) == "shelf":
                raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(Store, "remove", ending)
            with pytest.raises(Killed):
                forgotten(root, digest(image(TRAIN)))
    lines = forgotten(root, digest(image(TRAIN)))
    assert any(line.endswith("may still name or show them: to_label.html") for line in lines)


def test_clean_keeps_the_journal_of_an_interrupted_call(root: Path) -> None:
    """`make clean` in between: what was planned is still known."""
    shutil.copyfile(REPOSITORY / "Makefile", root / "Makefile")
    (root / JOURNAL).parent.mkdir(exist_ok=True)
    (root / JOURNAL).write_text(json.dumps({"images": [digest(image(TRAIN))]}))
    (root / ".scratch" / "tracked").touch()
    run("make", "clean", cwd=root)
    assert forget.begun(root).images == [digest(image(TRAIN))]
    assert list((root / ".scratch").iterdir()) == [root / JOURNAL]


def test_the_run_cache_brings_nothing_back(root: Path) -> None:
    """The image put back, its data set is made anew: no entry of the run-cache, here or there, knows the old one."""
    content, table = (root / SCANS / name(TRAIN)).read_bytes(), (root / SCANS / "labels.csv").read_text()
    forgotten(root, name(TRAIN))
    with store.opened(root) as objects:
        for place in objects.places:
            stages = {history.stage_of(entry) for _, entry in objects.runs(place)}
            assert stages == {f"pretrain@{run}" for run in ("simclr", "supervised", "random", "after")} | {
                "finetune@simclr", "finetune@distilled"
            }  # fmt: skip
    (root / SCANS / name(TRAIN)).write_bytes(content)
    (root / SCANS / "labels.csv").write_text(table)
    assert "Running stage 'prepare@small'" in dvc(root, "repro", "prepare@small")


# ---- a kill does no harm


def dying(function: Callable, at: int) -> Callable:
    """The function, but its call number `at` ends everything, half done."""
    calls = iter(range(1, 100))

    def call(*arguments: Any, **options: Any) -> Any:
        if next(calls) == at:
            raise Killed
        return function(*arguments, **options)

    return call


@pytest.mark.parametrize(
    ("place", "function", "at"),
    [
        (removal, "files", 1),  # the table has lost its rows, the files are there
        (removal, "rows", 2),  # one data set is done
        (recipes, "remove", 1),
        (Store, "remove", 1),
        (Store, "remove", 2),  # the cache is done, the remote is not
        (Store, "remove_runs", 2),
    ],
)
def test_the_same_command_finishes_what_was_killed(
    root: Path, monkeypatch: pytest.MonkeyPatch, place: Any, function: str, at: int
) -> None:
    """Wherever it stopped, called again it removes the rest."""
    with monkeypatch.context() as patch:
        patch.setattr(place, function, dying(getattr(place, function), at))
        with pytest.raises(Killed):
            forgotten(root, name(TRAIN))
    assert (root / JOURNAL).exists()
    forgotten(root, name(TRAIN))
    assert holders(root.parent, [TRAIN]) == []
    assert len(list((root / SCANS).rglob("*.png"))) == 40


# ---- what is refused, and asked


def test_nothing_happens_without_agreement(root: Path) -> None:
    """The question names the amounts; a no leaves every byte."""
    before = holders(root.parent, [TRAIN])
    asked_for = []
    lines = forget.forget(root, [name(TRAIN)], [], None, lambda amounts: bool(asked_for.append(amounts)))
    assert list(lines) == ["nothing was removed"]
    assert holders(root.parent, [TRAIN]) == before
    assert asked_for[0].startswith(
        "1 image(s), with all files of the same pixels, of other groups, too\n"
        "1 file(s) of the data set small, P3/scan-0013.png\n1 file(s)"
    )


def test_nothing_is_forgotten_by_halves(root: Path) -> None:
    """With a remote that cannot be reached nothing is removed at all."""
    dvc(root, "remote", "add", "--quiet", "far", "gs://nowhere/at-all")
    with pytest.raises(store.StoreError, match="the remote 'far' cannot be used"):
        forgotten(root, name(TRAIN))
    assert (root / SCANS / name(TRAIN)).exists()


def test_an_image_that_nobody_knows_is_refused(root: Path) -> None:
    """The sentence names it."""
    with pytest.raises(forget.ForgetError, match="no data set holds nobody, now or in any commit"):
        forgotten(root, "nobody")


def test_a_published_set_is_refused(root: Path) -> None:
    """Before anything is removed: an image cannot be taken out of scikit-learn."""
    values = params.read()
    values["datasets"]["small"]["source"] = {"name": "digits", "path": "stages/work.py"}
    (root / "params.yaml").write_text(json.dumps(values))
    before = holders(root.parent, [TRAIN])
    with pytest.raises(ParamsError, match="none can be taken out of it"):
        forgotten(root, "digits/0000")
    assert holders(root.parent, [TRAIN]) == before


def test_an_id_of_two_images_is_refused(root: Path) -> None:
    """Whose image is meant has to be said."""
    Image.fromarray(image(77)).save(root / SCANS / name(TRAIN))
    dvc(root, "repro", "--quiet", "prepare@large")
    with pytest.raises(forget.ForgetError, match=r"P3/scan-0013.png is another image in .*: add --dataset"):
        forgotten(root, name(TRAIN))


def test_a_running_stage_is_waited_for_by_its_person(root: Path) -> None:
    """It could write what is being removed."""
    (root / ".dvc" / "tmp").mkdir(exist_ok=True)
    busy = {"data/datasets": {"read": [{"pid": os.getpid(), "cmd": "dvc repro"}]}}
    (root / ".dvc" / "tmp" / "rwlock").write_text(json.dumps(busy))
    with pytest.raises(store.StoreError, match="a stage is running here"):
        forgotten(root, name(TRAIN))
    assert (root / SCANS / name(TRAIN)).exists()


def test_a_file_that_is_no_image_is_refused(root: Path) -> None:
    """Whatever the data sets are made of."""
    with pytest.raises(Refusal, match=r"stages/work.py is not an image that any data set"):
        asked("stages/work.py")
    digits = sources.Source("d", {"source": {"name": "digits", "path": "stages/work.py"}})
    with pytest.raises(Refusal, match=r"stages/work.py is not an image that any data set"):
        sources.asked([digits], ["stages/work.py"], [], None)


def test_both_verbs_ask_for_an_image(root: Path) -> None:
    """A file is one from where the command was typed; without an image the sentence says what to say."""
    runner, there = CliRunner(), root / SCANS / "P3"
    for verb in ("trace", "forget"):
        assert "say which: --image" in str(runner.invoke(cli.app, [verb], obj=root).exception)
    done = runner.invoke(cli.app, ["trace", "--image", "scan-0013.png", "--json"], obj=there)
    assert json.loads(done.stdout)["images"] == [digest(image(TRAIN))]
    done = runner.invoke(cli.app, ["forget", "--image", "scan-0013.png"], obj=there, input="n\n")
    assert done.stdout.splitlines()[-1].endswith("nothing was removed")
    done = runner.invoke(cli.app, ["forget", "--image", "scan-0013.png", "--yes"], obj=there)
    assert "1 image(s) are forgotten" in done.stdout
    assert holders(root.parent, [TRAIN]) == []
