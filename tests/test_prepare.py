"""Preparing a data set: the files that the later stages read.

Claims:
- the files are the same bytes whenever the content is the same, and what pretraining without labels reads
  does not change when a label arrives;
- budgets are nested train images, and what falls short is said;
- what `prepare` writes, `Prepared` reads, each attribute from its own file.
"""

import csv
import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from prepared_data import BLOCK, Bench, contents, paint, prepared

from pipeline.errors import MissingInput, ParamsError, Refusal
from pipeline.params import arguments
from stages.datasets import _split, digits
from stages.datasets._images import DataError, Images
from stages.datasets._prepared import Prepared
from stages.prepare import prepare


def zoo(root: Path, n: int = 30) -> Path:
    """A folder of n cats and n dogs, each image of another color."""
    for row in range(n):
        paint(root / "cat" / f"{row:02d}.png", (row, 0, 0))
        paint(root / "dog" / f"{row:02d}.png", (0, row + 1, 0))
    return root


def zoo_block(root: Path, labels: str | None = None) -> dict:
    source = {"name": "folder", "path": str(root), "store": {"shape": [4, 6], "fit": "crop"}, "labels": labels} | {
        "group": None,
        "split": None,
    }
    return {"source": source, "budgets": {"all": BLOCK["budgets"]["10pct"]}}


def test_the_same_content_is_the_same_bytes(tmp_path: Path) -> None:
    """Prepared twice, from files created in the opposite order, every output is equal byte for byte."""
    zoo(tmp_path / "one")
    for file in sorted((tmp_path / "one").rglob("*.png"), reverse=True):
        copy = tmp_path / "two" / file.relative_to(tmp_path / "one")
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(file.read_bytes())
    one, two = (contents(prepared(tmp_path / "out" / n, **zoo_block(tmp_path / n))) for n in ("one", "two"))
    assert one == two
    assert sorted(one) == [
        "budgets/all-0.parquet",
        "budgets/all-1.parquet",
        "budgets/summary.json",
        "images/index.parquet",
        "images/pixels.npy",
        "labels.parquet",
        "manifest.parquet",
        "pretrain/images.parquet",
        "pretrain/labels.parquet",
        "quarantine.csv",
        "splits.parquet",
        "summary.json",
    ]


def test_a_new_label_leaves_what_pretraining_reads(tmp_path: Path) -> None:
    """Images, splits and the list for pretraining stay the same bytes when a train image gets a label."""
    root = zoo(tmp_path / "zoo")
    rows = [f"cat/{row:02d}.png,cat\ndog/{row:02d}.png,dog\n" for row in range(30)]
    changed = {}
    for name, count in (("before", 25), ("after", 30)):
        (root / "labels.csv").write_text("file,label\n" + "".join(rows[:count]))
        changed[name] = contents(prepared(tmp_path / name, **zoo_block(root, "labels.csv")))
    differing = {file for file in changed["before"] if changed["before"][file] != changed["after"][file]}
    assert "labels.parquet" in differing
    assert "pretrain/labels.parquet" in differing
    assert not differing & {"images/pixels.npy", "images/index.parquet", "splits.parquet", "pretrain/images.parquet"}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """Prepared gives back pixels, ids, labels, classes and splits of the source."""
    data, images = prepared(tmp_path), digits.load(path="")
    pixels, extents = data.images.read(np.arange(len(images)))
    np.testing.assert_array_equal(pixels, images.pixels)
    assert extents is None
    assert data.ids.tolist() == images.ids
    np.testing.assert_array_equal(data.labels, images.labels)
    assert data.labels.dtype == np.int64
    assert data.classes == images.classes
    splits = _split.assign(pa.array(data.groups), None, validation=0.2, test=0.2, seed=0)
    for name in _split.SPLITS:
        np.testing.assert_array_equal(data.rows(name), np.flatnonzero(splits == name))
    np.testing.assert_array_equal(data.pretrain, data.rows("train"))


def test_images_without_a_label_are_seen_but_not_counted(tmp_path: Path) -> None:
    """Pretraining sees every train image; labels, budgets and `labeled` know only those with one."""
    root = zoo(tmp_path / "zoo")
    for row in range(20):
        paint(root / f"{row:02d}.png", (0, 0, row + 1))
    data = prepared(tmp_path, **zoo_block(root))
    train = data.rows("train")
    known = train[data.labels[train] >= 0]
    assert 0 < len(known) < len(train)
    np.testing.assert_array_equal(data.pretrain, train)
    np.testing.assert_array_equal(data.labeled("train"), known)
    rows, labels = data.pretrain_labels
    np.testing.assert_array_equal(rows, known)
    np.testing.assert_array_equal(labels, data.labels[known])
    assert set(data.budget("all", 0)) <= set(known)


def test_images_without_any_label_are_prepared(tmp_path: Path, capsys) -> None:
    """Enough for pretraining: a warning says for what they are not, and what needs classes refuses them."""
    for row in range(40):
        paint(tmp_path / "plain" / f"{row:02d}.png", (row, 0, 0))
    data = prepared(tmp_path, **zoo_block(tmp_path / "plain"))
    assert "warning: fewer than 2 classes have a label: enough for pretraining" in capsys.readouterr().out
    assert len(data.pretrain) == len(data.rows("train")) > 0
    assert data.classes == []
    assert len(data.budget("all", 0)) == len(data.labeled("train")) == 0
    with pytest.raises(Refusal, match=r"labels of toy are of 0 class\(es\), so there is nothing to tell apart"):
        data.require_labels()


def test_labels_of_train_alone_judge_nothing(tmp_path: Path) -> None:
    """Two classes whose labels are all in train: the split that has none is named."""
    root = zoo(tmp_path / "zoo")
    data = prepared(tmp_path / "all", **zoo_block(root))
    data.require_labels()
    train = [data.ids[row] for row in data.rows("train")]
    (root / "labels.csv").write_text("file,label\n" + "".join(f"{name},{name[:3]}\n" for name in train))
    with pytest.raises(Refusal, match="the validation split of toy has no labeled image"):
        prepared(tmp_path / "train", **zoo_block(root, "labels.csv")).require_labels()


def test_budgets_are_train_images_and_nested(tmp_path: Path) -> None:
    """1 % ⊂ 10 % ⊂ train for each seed, and the summary counts what the files hold."""
    data = prepared(tmp_path)
    for seed in (0, 1):
        one, ten = (data.budget(name, seed) for name in ("1pct", "10pct"))
        assert set(one) < set(ten) < set(data.rows("train"))
        for name, rows in (("1pct", one), ("10pct", ten)):
            summary = data.budget_summary[name][str(seed)]
            counts = np.bincount(data.labels[rows], minlength=10).tolist()
            assert summary["labels_used"] == len(rows) == sum(counts)
            assert summary["per_class"] == dict(zip(data.classes, counts, strict=True))


def test_a_shortfall_is_printed_and_kept(tmp_path: Path, capsys) -> None:
    """200 of each digit are not there: the classes that lack some are named with how many."""
    data = prepared(tmp_path)
    shortfall = data.budget_summary["200each"]["0"]["shortfall"]
    train = data.labels[data.rows("train")]
    assert shortfall == {str(digit): 200 - int((train == digit).sum()) for digit in range(10)}
    assert f"class 3: {shortfall['3']} fewer than asked" in capsys.readouterr().out


def test_pretraining_sees_the_splits_it_is_told(tmp_path: Path, capsys) -> None:
    """pretrain_on is printed and obeyed, but labels come from train only."""
    data = prepared(tmp_path, pretrain_on=["train", "test"])
    expected = np.sort(np.concatenate([data.rows("train"), data.rows("test")]))
    np.testing.assert_array_equal(data.pretrain, expected)
    np.testing.assert_array_equal(data.pretrain_labels[0], data.rows("train"))
    assert "pretraining sees train and test images" in capsys.readouterr().out


def test_a_subset_prepares_that_many(tmp_path: Path) -> None:
    """`subset` limits the images, in source order, and logs the sizes of the splits."""
    data = prepared(tmp_path, subset=300)
    assert len(data.ids) == len(data.images) == 300
    assert data.ids.tolist() == sorted(data.ids)


def test_an_attribute_reads_its_own_file_only(tmp_path: Path) -> None:
    """Pixels and splits are there without labels; what is missing names the command that makes it."""
    data = prepared(tmp_path)
    (data.folder / "labels.parquet").unlink()
    fresh = Prepared(data.folder)
    assert len(fresh.images) == len(fresh.ids) == sum(len(fresh.rows(name)) for name in _split.SPLITS)
    with pytest.raises(MissingInput, match=r"toy/labels.parquet is missing: run `dvc repro prepare@toy`"):
        _ = fresh.labels


def test_nothing_prepared_says_so(tmp_path: Path) -> None:
    """The error names the output and the command, not a file deep inside."""
    with pytest.raises(MissingInput, match="digits/images is missing: run `dvc repro prepare@digits`"):
        _ = Prepared(tmp_path / "digits").images


def test_an_unknown_budget_lists_the_known(tmp_path: Path) -> None:
    """Asking for a seed that was not drawn says which were."""
    with pytest.raises(
        MissingInput, match=r"no budget '1pct' with seed 7, only 10pct \(seeds 0, 1\), 1pct \(seeds 0, 1\)"
    ):
        prepared(tmp_path).budget("1pct", 7)


def test_the_summary_is_plain_sorted_json(tmp_path: Path) -> None:
    """One number per line, keys sorted, so that a review shows what changed."""
    text = (prepared(tmp_path).folder / "budgets/summary.json").read_text()
    assert text == json.dumps(json.loads(text), indent=1, sort_keys=True) + "\n"


def test_what_cannot_be_used_is_left_out_and_named(tmp_path: Path) -> None:
    """Two bad files of 62: images, labels and splits go without them; quarantine, manifest and summary tell of them."""
    root = zoo(tmp_path / "zoo")
    (root / "cat" / "05b.png").write_bytes(b"no image")
    (root / "dog" / "empty.jpg").touch()
    quality = BLOCK["quality"] | {"bad": 0.04}
    data = prepared(tmp_path, **zoo_block(root), quality=quality)
    whole = prepared(tmp_path / "clean", **zoo_block(zoo(tmp_path / "clean" / "zoo")))
    left_out = {"manifest.parquet", "quarantine.csv", "summary.json"}
    assert {k: v for k, v in contents(data).items() if k not in left_out} == {
        k: v for k, v in contents(whole).items() if k not in left_out
    }
    with (data.folder / "quarantine.csv").open(newline="") as table:
        assert [(row["file"], row["kind"]) for row in csv.DictReader(table)] == [
            ("cat/05b.png", "not_image"),
            ("dog/empty.jpg", "empty"),
        ]
    files = {row["id"]: row for row in pq.read_table(data.folder / "manifest.parquet").to_pylist()}
    assert len(files) == 62
    for name in ("cat/05b.png", "dog/empty.jpg", "dog/07.png"):
        content = (root / name).read_bytes()
        assert (files[name]["bytes"], files[name]["md5"]) == (len(content), hashlib.md5(content).hexdigest())
    summary = json.loads((data.folder / "summary.json").read_text())
    assert summary["files"] == summary["images"] + sum(summary["quarantined"].values()) == 62
    assert summary["quarantined"] == {"empty": 1, "not_image": 1}


def test_too_many_bad_files_fail_the_stage(tmp_path: Path) -> None:
    """They are counted by kind, the first are listed with their reasons, and it is said where all of them are."""
    root = zoo(tmp_path / "zoo")
    for row in range(12):
        (root / "cat" / f"x{row:02d}.png").write_bytes(b"text" if row else b"")
    quality = BLOCK["quality"] | {"bad": 0.03}
    words = r"12 of 72 files cannot be used \(11 not_image, 1 empty\), more than the share of 0.03 that datasets.toy"
    with pytest.raises(DataError, match=words) as raised:
        prepared(tmp_path, **zoo_block(root), quality=quality)
    lines = str(raised.value).splitlines()
    assert len(lines) == 11
    assert lines[1].startswith("  cat/x00.png: empty, the file has no bytes")
    whole = tmp_path / "ledger" / "quarantine.csv"
    assert str(whole) in lines[0]
    assert len(whole.read_text().splitlines()) == 13
    shutil.rmtree(root / "dog")
    for file in root.glob("cat/[0-9]*"):
        file.unlink()
    with pytest.raises(DataError, match=r"12 of 12 files cannot be used .*, all\."):
        prepared(tmp_path / "none", **zoo_block(root), quality=quality | {"bad": 1.0})


def test_the_summary_describes_the_images(tmp_path: Path) -> None:
    """Shapes, bytes, and colors as levels of 255: ten red images and ten that are half as bright."""
    for row in range(20):
        paint(tmp_path / "zoo" / "ab"[row % 2] / f"{row}.png", (200, row, 0) if row < 10 else (100, row, 0))
    data = prepared(tmp_path, **zoo_block(tmp_path / "zoo"))
    summary = json.loads((data.folder / "summary.json").read_text())
    assert summary["shapes"] == [{"height": 4, "width": 6, "images": 20}]
    assert summary["heights"] == {"least": 4, "median": 4, "most": 4}
    files = [file.stat().st_size for file in (tmp_path / "zoo").rglob("*.png")]
    assert summary["bytes"] == {"files": sum(files), "images": 20 * 72}
    assert summary["colors"]["mean"] == [150.0, 9.5, 0.0]
    assert summary["colors"]["std"] == [50.0, 5.766, 0.0]
    assert summary["colors"]["images"] == sum(summary["colors"]["brightness"]) == 20
    assert summary["colors"]["brightness"][2] == 10  # (100 + row) / 3 of 256, in 16 steps


class Given:
    """A source that gives the images it was made with."""

    def __init__(self, images: Images) -> None:
        self.make = lambda: images


def test_leaks_are_printed(tmp_path: Path, capsys) -> None:
    """A source whose own test set repeats train images is prepared, with a warning that counts them."""
    pixels = np.random.default_rng(0).integers(0, 256, (60, 4, 4, 3), dtype=np.uint8)
    pixels[45:49] = pixels[:4]
    own = np.repeat(["train", "test"], [45, 15])
    images = Images(pixels, [str(row) for row in range(60)], np.arange(60) % 3, list("abc"), own)
    split = {"validation": 0.3, "test": "own", "seed": 0}
    prepare(Bench(tmp_path), **arguments(prepare, BLOCK | {"split": split}, "datasets.toy") | {"source": Given(images)})
    assert "warning: 4 test images are, pixel for pixel, also in train or validation" in capsys.readouterr().out


@pytest.mark.parametrize("test", [0.5, 0.7])
def test_shares_that_leave_nothing_are_refused(test: float) -> None:
    """Validation and test of one or more is an error of params.yaml, found before anything runs."""
    with pytest.raises(ParamsError, match="leave no train images"):
        arguments(prepare, BLOCK | {"split": {"validation": 0.5, "test": test, "seed": 0}}, "datasets.toy")
