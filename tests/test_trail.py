"""Where an image went, and taking it back out of everything.

Claims, in this order: what `trace` finds, now and in earlier commits, and what it cannot know; what `forget` removes
and what it leaves; that a kill does no harm; what is refused.
"""

import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import trail_project
from PIL import Image
from toy_project import commit, run
from trail_project import SCANS, dvc, image, name, png
from typer.testing import CliRunner

from pipeline import cli, lock, params, store
from pipeline.errors import ParamsError, Refusal
from pipeline.store import Store
from pipeline.trail import forget, history, removal, sources, traced
from pipeline.trail.forget import JOURNAL
from pipeline.trail.seen import GOLDEN, UNRECORDED, Trail, Wanted
from stages import embed

TRAIN = 13  # of patient 3: train, granted by the budget's seed 1
TEST = 1  # of patient 0: in test, and among the images that an export shows itself
LATE = 99  # came after the first commit


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project, run and committed; then one more image in `small`, prepared, committed and pushed."""
    root = trail_project.make(tmp_path_factory.mktemp("made") / "project")
    trail_project.work(root)
    dvc(root, "push", "--quiet")
    Image.fromarray(image(LATE)).save(root / SCANS / "P9" / "scan-0099.png")
    with (root / SCANS / "labels.csv").open("a") as lines:
        lines.write("P9/scan-0099.png,0,P9\n")
    dvc(root, "repro", "--quiet", "prepare@small")
    commit(root)
    dvc(root, "push", "--quiet", "--run-cache")
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it that a test may change, as current directory; its remote is the folder `shelf` beside it."""
    monkeypatch.setenv("CONTRAIL_TRACKING", "off")
    shutil.copytree(made.parent, tmp_path / "copy", symlinks=True)
    monkeypatch.chdir(tmp_path / "copy" / "project")
    return tmp_path / "copy" / "project"


@pytest.fixture
def here(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project itself, for tests that only look."""
    monkeypatch.setenv("CONTRAIL_TRACKING", "off")
    monkeypatch.chdir(made)
    return made


def traced_facts(root: Path, wanted: Wanted, client: Any = None) -> dict[str, Any]:
    with store.opened(root) as objects:
        return traced.facts(Trail(objects, wanted), client)


def asked(*images: str, groups: tuple[str, ...] = ()) -> Wanted:
    held = [sources.Source(item, block) for item, block in params.read()["datasets"].items()]
    return sources.asked(held, images, groups, None)


def forgotten(root: Path, *images: str, groups: tuple[str, ...] = (), dataset: str | None = None) -> list[str]:
    return list(forget.forget(root, list(images), list(groups), dataset, lambda amounts: True))


def digest(pixels: np.ndarray) -> str:
    return hashlib.sha256(np.array(pixels.shape, "<i8").tobytes() + pixels.tobytes()).hexdigest()


# ---- trace


def seen(found: dict[str, Any], kind: str, key: str) -> dict[str, Any]:
    """Name → what it saw, of the executions that dvc.lock has now."""
    return {item[key]: item["saw"] for item in found[kind] if item["where"] == history.NOW}


def test_an_image_is_followed_to_all_that_saw_it(here: Path) -> None:
    """Splits, labels, budgets; a run that starts from another's weights saw what that saw, an untrained one nothing."""
    found = traced_facts(here, asked(name(TRAIN)))
    assert found["images"] == [digest(image(TRAIN))]
    now = {item["dataset"]: item["images"] for item in found["datasets"] if item["where"] == history.NOW}
    held = {"id": name(TRAIN), "sha256": digest(image(TRAIN)), "split": "train", "group": "P3", "label": "1"}
    assert now == {dataset: [held | {"budgets": {"few": [1]}}] for dataset in ("small", "large")}
    assert seen(found, "runs", "run") == {"simclr": 1, "supervised": 1, "random": 0, "after": 1}
    assert [item["budgets"] for item in found["finetunes"]] == [{"few": [1]}] * 2
    assert seen(found, "finetunes", "finetune") == {"simclr": 0, "distilled": 1}


def test_a_test_image_was_seen_by_nobody(here: Path) -> None:
    """It is in the data sets, in no list of pretraining and in no budget."""
    found = traced_facts(here, asked(name(TEST)))
    assert {item["images"][0]["split"] for item in found["datasets"]} == {"test"}
    assert set(seen(found, "runs", "run").values()) == {0}
    assert [item["budgets"] for item in found["finetunes"]] == [{}, {}]


@pytest.mark.parametrize("how", ["id", "sha256", "file of the source", "file from elsewhere"])
def test_an_image_goes_by_several_names(here: Path, tmp_path: Path, how: str) -> None:
    """Its id, the sha256 of its pixels, its file, and any other file with these pixels mean the same."""
    elsewhere = tmp_path / "copy.bmp"
    Image.fromarray(image(TRAIN)).save(elsewhere)
    names = {
        "id": name(TRAIN),
        "sha256": digest(image(TRAIN)),
        "file of the source": str(SCANS / name(TRAIN)),
        "file from elsewhere": str(elsewhere),
    }
    found = traced_facts(here, asked(names[how]))
    assert found["images"] == [digest(image(TRAIN))]
    assert {item["images"][0]["id"] for item in found["datasets"]} == {name(TRAIN)}


def test_a_group_is_all_of_its_images(here: Path) -> None:
    """Counts are of images, and an image that came later is in no earlier version."""
    found = traced_facts(here, asked(groups=("P9",)))
    counts = {(item["dataset"], item["where"] == history.NOW): len(item["images"]) for item in found["datasets"]}
    assert counts == {("small", True): 5, ("small", False): 4, ("large", True): 4}
    assert seen(found, "runs", "run") == {"simclr": 4, "supervised": 4, "random": 0, "after": 4}


def test_earlier_commits_are_looked_at(here: Path) -> None:
    """What dvc.lock said in a commit whose objects are in reach is told with that commit."""
    found = traced_facts(here, asked(name(TRAIN)))
    first = run("git", "rev-list", "--max-parents=0", "main", cwd=here)
    commits = run("git", "rev-list", "main", cwd=here).split()
    earlier = [item["where"] for item in found["datasets"] if item["where"] != history.NOW]
    assert earlier == [f"dvc.lock of {commits[1][:7]}"]
    assert first.strip() == commits[2]


def test_what_is_gone_is_unknown_and_never_no(root: Path) -> None:
    """Without the list of what pretraining saw, in cache and remote, nobody can say what it saw; trace says so."""
    entry = lock.read(root)["pretrain@simclr"]
    seen_by = lock.hashes(entry["deps"])["data/datasets/small/pretrain/images.parquet"]
    for place in (root / ".dvc" / "cache", root.parent / "shelf"):
        (place / "files" / "md5" / seen_by[:2] / seen_by[2:]).unlink()
    found = traced_facts(root, asked(name(TEST)))
    assert seen(found, "runs", "run") == {"simclr": None, "supervised": 0, "random": 0, "after": None}
    assert seen(found, "finetunes", "finetune") == {"simclr": 0, "distilled": None}
    assert any(line.startswith("cannot be known: pretrain@simclr, pretrain@after") for line in traced.words(found))


def test_a_list_is_fetched_from_the_remote(root: Path) -> None:
    """A clone whose cache is empty knows as much."""
    expected = traced_facts(root, asked(name(TRAIN)))
    shutil.rmtree(root / ".dvc" / "cache")
    assert traced_facts(root, asked(name(TRAIN))) == expected


def test_a_remote_that_fails_is_left_out_and_named(root: Path) -> None:
    """Trace says what it knows without it, and forget refuses to forget by halves."""
    dvc(root, "remote", "add", "--quiet", "far", "gs://nowhere/at-all")
    shutil.rmtree(root.parent / "shelf")
    found = traced_facts(root, asked(name(TRAIN)))
    assert found["images"]
    assert list(found["failed"]) == ["far"]
    with pytest.raises(store.StoreError, match="the remote 'far' cannot be used"):
        forgotten(root, name(TRAIN))
    assert (root / SCANS / name(TRAIN)).exists()


class Objects:
    """As much of a store as a trail asks for: tables by their md5, a folder's under "<md5>.dir"."""

    places: tuple[str, ...] = ()

    def __init__(self, root: Path, tables: dict[str, Any]) -> None:
        self.root, self.tables = root, tables

    def read(self, oid: str) -> bytes | None:
        stream = io.BytesIO()
        pq.write_table(pa.table(self.tables[oid]), stream)
        return stream.getvalue()

    def files(self, oid: str) -> dict[str, str]:
        return {"index.parquet": oid.removesuffix(".dir")}


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (Wanted(frozenset("ab")), {"now": ["a"], "once": ["a", "b"], "other": ["x"]}),
        (Wanted(frozenset("b"), frozenset("3")), {"now": ["c"], "once": ["b"], "other": ["x"]}),
    ],
)
def test_each_image_is_known_by_its_other_names(tmp_path: Path, wanted: Wanted, expected: dict[str, list[str]]) -> None:
    """Of each name what it means today, or else once meant: another image that was found does not end the search."""
    tables, indices = {}, {"now": {"a": "1", "c": "3"}, "once": {"a": "9", "b": "2"}, "other": {"x": "2", "y": "9"}}
    for item, images in indices.items():
        tables[item] = {"id": list(images), "sha256": list(images.values())}
        outs = [{"path": f"data/datasets/{item}/images", "md5": f"{item}.dir"}]
        path = tmp_path / ("dvc.lock" if item == "now" else f"recipes/{item}/dvc.lock")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"stages": {f"prepare@{item}": {"cmd": "", "outs": outs}}}))
    trail = Trail(Objects(tmp_path, tables), wanted)  # type: ignore[arg-type]
    assert {held.made.item: held.images["id"].to_pylist() for held in trail.held} == expected


class Page(list):
    """What a search of MLflow's client answers with."""

    token = None


class Registry:
    """As much of an MLflow client as trace asks for: one model, its versions by their tags."""

    def __init__(self, *tags: dict[str, str]) -> None:
        self.versions = [
            SimpleNamespace(name="scans-encoder", version=str(number), tags={"evaluation": "e", "run": "simclr"} | tag)
            for number, tag in enumerate(tags, start=1)
        ]

    def search_registered_models(self, query: str = "") -> Page:
        return Page([SimpleNamespace(name="scans-encoder", aliases={"champion": "2"})])

    def search_model_versions(self, query: str) -> Page:
        return Page(self.versions)


def test_versions_are_known_by_their_tags(here: Path) -> None:
    """By the lists that a version names, else by the key of its export; one that says neither cannot be known."""
    entries = lock.read(here)
    deps = lock.hashes(entries["pretrain@simclr"]["deps"])
    folder = "data/datasets/small"
    step = {"images": deps[f"{folder}/images"], "list": deps[f"{folder}/pretrain/images.parquet"]}
    weights = lock.hashes(entries["pretrain@after"]["deps"])["data/encoders/simclr/seed-0/encoder.safetensors"]
    client = Registry(
        {"trained": json.dumps([step])},
        {"dvc.key": lock.key(entries["embed@simclr"])},
        {"trained": json.dumps([{"weights": weights}])},
        {"dvc.key": "0" * 64},
        {"trained": "[]"},
    )
    found = traced_facts(here, asked(name(TRAIN)), client)
    assert [version["saw"] for version in found["versions"]] == [1, 1, 1, None, 0]
    text = "\n".join(traced.words(found))
    assert "scans-encoder 2 @champion saw 1 of 1" in text
    assert f"cannot be known: scans-encoder 4: {UNRECORDED}" in text


def test_the_images_that_an_export_shows_itself_are_counted_as_embed_does() -> None:
    """The number is one, in both places."""
    assert GOLDEN == embed.GOLDEN


# ---- forget


def holders(folder: Path, numbers: list[int]) -> list[str]:
    """The files below a folder that hold an image's pixels, its file's content, its id or its features."""
    parts = [image(number).tobytes() for number in numbers] + [png(number) for number in numbers]
    parts += [image(number).reshape(-1)[::5].astype(np.float32).tobytes() for number in numbers]
    ids = {name(number) for number in numbers} | {digest(image(number)) for number in numbers}
    return [str(path) for path in sorted(folder.rglob("*")) if path.is_file() and _holds(path.read_bytes(), parts, ids)]


def _holds(content: bytes, parts: list[bytes], ids: set[str]) -> bool:
    if content.startswith(b"PAR1"):
        return any(not ids.isdisjoint(column.to_pylist()) for column in pq.read_table(io.BytesIO(content)).columns)
    return any(part in content for part in parts) or any(text.encode() in content for text in ids)


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


class Killed(BaseException):
    """As SIGKILL: nothing catches it."""


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
        (forget, "_remove", 1),
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
        "1 image(s), with all files of the same pixels, of other groups, too; "
        "1 file(s) of the data set small, P3/scan-0013.png; 1 file(s)"
    )


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


def test_a_file_that_is_no_image_is_refused(here: Path) -> None:
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
