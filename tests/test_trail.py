"""Where an image went: what `trace` finds, now and in earlier commits, and what it cannot know."""

import io
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from toy_project import run
from trail_project import SCANS, TEST, TRAIN, asked, copied, digest, dvc, entered, finished, image, name

from pipeline import lock, store
from pipeline.errors import Refusal
from pipeline.trail import history, traced
from pipeline.trail.seen import GOLDEN, UNRECORDED, Trail, Wanted
from stages import embed


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished(tmp_path_factory.mktemp("made") / "project")


@pytest.fixture
def root(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return entered(copied(made, tmp_path / "copy"), monkeypatch)


@pytest.fixture
def here(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project itself, for tests that only look."""
    return entered(made, monkeypatch)


def traced_facts(root: Path, wanted: Wanted, client: Any = None) -> dict[str, Any]:
    with store.opened(root) as objects:
        return traced.facts(Trail(objects, wanted), client)


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


def test_what_was_made_under_the_former_spelling_is_seen(root: Path) -> None:
    """Locks of earlier commits say `unlabelled` where params.yaml says `unlabeled` now."""
    text = (root / "dvc.lock").read_text()
    assert "unlabeled: " in text
    (root / "dvc.lock").write_text(text.replace("unlabeled: ", "unlabelled: "))
    assert seen(traced_facts(root, asked(name(TRAIN))), "finetunes", "finetune") == {"simclr": 0, "distilled": 1}


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


@pytest.mark.parametrize("how", ["id", "file"])
def test_a_file_that_was_left_out_is_found(root: Path, how: str) -> None:
    """Nothing saw a file in quarantine, and trace says why; one that is in no source and no image is refused."""
    bad = SCANS / "P3" / "bad.png"
    bad.touch()
    with (root / SCANS / "labels.csv").open("a") as lines:
        lines.write("P3/bad.png,,P3\n")
    dvc(root, "repro", "--quiet", "prepare@small")
    [line] = traced.words(traced_facts(root, asked("P3/bad.png" if how == "id" else str(bad))))
    assert line == "data set small left P3/bad.png out, so nothing saw it: empty, it has no bytes"
    (root / "elsewhere.png").touch()
    with pytest.raises(Refusal, match=r"elsewhere\.png is not an image that any data set of params\.yaml could hold"):
        asked(str(root / "elsewhere.png"))


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
    unknown = [line for line in traced.words(found) if line.startswith("cannot be known")]
    assert unknown[0].startswith("cannot be known: pretrain@simclr, pretrain@after")
    assert sum("of other studies and earlier commits" in line for line in unknown) <= 1


def test_a_list_is_fetched_from_the_remote(root: Path) -> None:
    """A clone whose cache is empty knows as much."""
    expected = traced_facts(root, asked(name(TRAIN)))
    shutil.rmtree(root / ".dvc" / "cache")
    assert traced_facts(root, asked(name(TRAIN))) == expected


def test_a_remote_that_fails_is_left_out_and_named(root: Path) -> None:
    """What is known without it is said."""
    dvc(root, "remote", "add", "--quiet", "far", "gs://nowhere/at-all")
    shutil.rmtree(root.parent / "shelf")
    found = traced_facts(root, asked(name(TRAIN)))
    assert found["images"]
    assert list(found["failed"]) == ["far"]


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
