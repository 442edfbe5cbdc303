"""Sources that list folders: each gives the images it promises, or says in a sentence why it cannot."""

import os
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline import plugins
from pipeline.errors import ParamsError
from stages.datasets import _listing, folder, imagenet
from stages.datasets._decoding import Unusable
from stages.datasets._fitting import OneShape, ShortSide
from stages.datasets._images import DataError, Images

BARE = {"store": OneShape(shape=(4, 6), fit="crop"), "labels": None, "group": None, "split": None}
TABLE = BARE | {"labels": "labels.csv"}
PATIENTS = TABLE | {"group": "patient_id"}


def kept(images: Images) -> np.ndarray:
    """The pixels of all images, of one shape."""
    return np.stack([images.record(row).pixels for row in range(len(images))])


def labeled(images: Images) -> dict[str, str | None]:
    """Id → name of the class."""
    return {name: images.classes[y] if y >= 0 else None for name, y in zip(images.ids, images.labels, strict=True)}


def quarantined(images: Images) -> dict[str, str]:
    """Id → kind, of the files that cannot be used."""
    kinds = {}
    for row, name in enumerate(images.ids):
        try:
            images.record(row)
        except Unusable as error:
            kinds[name] = error.kind
    return kinds


def paint(path: Path, color: tuple[int, int, int] = (1, 2, 3), size: tuple[int, int] = (4, 6)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size[::-1], color).save(path)


def zoo(root: Path, n: int) -> Path:
    """A folder of n cats and n dogs, each image of another color."""
    for row in range(n):
        paint(root / "cat" / f"{row:02d}.png", (row, 0, 0))
        paint(root / "dog" / f"{row:02d}.png", (0, row + 1, 0))
    return root


def table(root: Path, *lines: str) -> None:
    (root / "labels.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_a_folder_has_one_class_per_subfolder(tmp_path: Path) -> None:
    """Ids are paths, classes are sorted, an image outside the classes has no label, hidden files do not count."""
    paint(tmp_path / "dog/b.png", (1, 2, 3))
    paint(tmp_path / "cat/2024/a.BMP", (4, 5, 6))
    paint(tmp_path / "z.png", (7, 8, 9))
    paint(tmp_path / ".thumbnails/a.png")
    paint(tmp_path / "dog/._b.png")
    images = folder.load(path=str(tmp_path), **BARE)
    assert images.ids == ["cat/2024/a.BMP", "dog/b.png", "z.png"]
    assert images.classes == ["cat", "dog"]
    assert images.labels.tolist() == [0, 1, -1]
    assert images.groups is None
    assert images.split is None
    assert kept(images)[:, 0, 0].tolist() == [[4, 5, 6], [1, 2, 3], [7, 8, 9]]


def test_reading_shows_what_is_an_image(tmp_path: Path) -> None:
    """Every file is listed, whatever its suffix; what is none or damaged is Unusable when it is read."""
    zoo(tmp_path, 2)
    (tmp_path / "dog/00.png").rename(tmp_path / "dog/without-suffix")
    (tmp_path / "dog/notes.txt").write_text("not an image")
    (tmp_path / "cat/01.png").write_bytes(b"")
    images = folder.load(path=str(tmp_path), **BARE)
    assert len(images) == 5
    assert quarantined(images) == {"cat/01.png": "empty", "dog/notes.txt": "not_image"}


def test_an_empty_class_is_refused(tmp_path: Path) -> None:
    """A class folder without files is more likely a mistake than a class, below a folder of a split too."""
    zoo(tmp_path / "train", 2)
    (tmp_path / "train" / "catfish").mkdir()
    with pytest.raises(DataError, match="class 'catfish' has no images"):
        folder.load(path=str(tmp_path / "train"), **BARE)
    with pytest.raises(DataError, match="class 'catfish' has no images"):
        folder.load(path=str(tmp_path), **BARE | {"split": "folders"})


def test_a_folder_without_files_is_refused(tmp_path: Path) -> None:
    """So is a folder that is not there; a table alone is no image."""
    table(tmp_path, "file,label")
    with pytest.raises(DataError, match=r"has no files: put the images there"):
        folder.load(path=str(tmp_path), **TABLE)
    with pytest.raises(DataError, match="nowhere is not a folder: put the images there"):
        folder.load(path=str(tmp_path / "nowhere"), **BARE)


# ---- what lies in folders besides images


def test_a_link_to_a_file_is_that_file(tmp_path: Path) -> None:
    """Its id is the link's own path; one that leads nowhere, or to itself, goes to quarantine."""
    zoo(tmp_path / "zoo", 1)
    paint(tmp_path / "elsewhere/x.png", (9, 9, 9))
    (tmp_path / "zoo/cat/link.png").symlink_to(tmp_path / "elsewhere/x.png")
    (tmp_path / "zoo/cat/lost.png").symlink_to(tmp_path / "gone.png")
    (tmp_path / "zoo/cat/ring.png").symlink_to("ring.png")
    images = folder.load(path=str(tmp_path / "zoo"), **BARE)
    assert images.ids == ["cat/00.png", "cat/link.png", "cat/lost.png", "cat/ring.png", "dog/00.png"]
    assert images.record(1).pixels[0, 0].tolist() == [9, 9, 9]
    assert quarantined(images) == {"cat/lost.png": "link", "cat/ring.png": "link"}


def test_a_link_to_a_folder_that_is_listed_is_passed_over(tmp_path: Path) -> None:
    """A loop, another name of a class; the folder of all may be a link."""
    zoo(tmp_path / "zoo", 1)
    (tmp_path / "zoo/cat/up").symlink_to("..")
    (tmp_path / "zoo/aardvark").symlink_to("dog")
    (tmp_path / "link").symlink_to(tmp_path / "zoo")
    images = folder.load(path=str(tmp_path / "link"), **BARE)
    assert images.ids == ["cat/00.png", "dog/00.png"]


@pytest.mark.parametrize("place", ["elsewhere", "zoo/.hidden"])
def test_a_link_to_a_folder_elsewhere_is_refused(tmp_path: Path, place: str) -> None:
    """DVC does not look behind it: an image that is added there would never be seen."""
    zoo(tmp_path / "zoo", 1)
    paint(tmp_path / place / "x.png")
    (tmp_path / "zoo/bird").symlink_to(tmp_path / place)
    with pytest.raises(DataError, match=r"zoo/bird is a link to a folder elsewhere, and DVC does not look behind it"):
        folder.load(path=str(tmp_path / "zoo"), **BARE)


def test_many_links_to_each_other_end(tmp_path: Path) -> None:
    """Twenty folders that each hold links to all are listed once each."""
    for one in range(20):
        paint(tmp_path / f"{one:02d}/x.png")
        for other in range(20):
            (tmp_path / f"{one:02d}/to-{other:02d}").symlink_to(tmp_path / f"{other:02d}")
    assert len(folder.load(path=str(tmp_path), **BARE)) == 20


def test_what_cannot_be_listed_goes_to_quarantine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that may not be read counts as one file; the folder of all may not be such a one."""
    zoo(tmp_path, 1)
    paint(tmp_path / "cat/private/x.png")
    scandir = os.scandir

    def refuse(path: str):
        if str(path).rstrip("/").endswith(("private", tmp_path.name)) and closed:
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    closed = False
    monkeypatch.setattr(os, "scandir", refuse)
    assert len(_listing.listed(str(tmp_path))) == 3
    closed = True
    with pytest.raises(DataError, match="cannot be listed: let the user who runs the stage read it"):
        _listing.listed(str(tmp_path))
    assert _listing.listed(str(tmp_path / "cat")) == ["00.png", "private/"]
    images = folder.load(path=str(tmp_path / "cat"), **BARE)
    assert quarantined(images) == {"private/": "unreadable"}
    with pytest.raises(Unusable, match="the folder cannot be listed"):
        images.record(1)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    """Reading one would never end, as nobody writes into it."""
    zoo(tmp_path, 1)
    os.mkfifo(tmp_path / "cat/pipe.png")
    assert quarantined(folder.load(path=str(tmp_path), **BARE)) == {"cat/pipe.png": "unreadable"}


def test_a_file_that_no_picture_fills_is_not_read(tmp_path: Path) -> None:
    """Beyond 1 GiB it is a film, or a bomb."""
    (tmp_path / "film.png").touch()
    os.truncate(tmp_path / "film.png", 2**30 + 1)
    assert quarantined(folder.load(path=str(tmp_path), **BARE)) == {"film.png": "bomb"}


def test_names_are_any_text(tmp_path: Path) -> None:
    """Spaces, line breaks, quotes, every alphabet; a name that is no UTF-8 is quarantined under a text that is."""
    names = ["a b.png", "a\nb.png", "ü.png", "画像.png", "🐈.png", "a,b;'\".png", "-rf.png", "%41.png", "e\u0301.png"]
    for name in names:
        paint(tmp_path / "x" / name)
    (tmp_path / os.fsdecode(b"x/caf\xe9.png")).write_bytes(b"")
    images = folder.load(path=str(tmp_path), **BARE)
    assert sorted(images.ids) == sorted(["x/caf\\xe9.png", *(f"x/{name}" for name in names)])
    assert quarantined(images) == {"x/caf\\xe9.png": "name"}
    assert "".join(images.ids).encode()


def test_a_stamp_changes_when_the_file_may_have(tmp_path: Path) -> None:
    """Another size, another time, other rights, or gone: the stamp is another one; otherwise it is the same."""
    zoo(tmp_path, 1)
    files = folder.load(path=str(tmp_path), **BARE).pixels
    file = tmp_path / "cat/00.png"
    stamps = [files.stamp("cat/00.png"), files.stamp("cat/00.png")]
    assert stamps[0] == stamps[1]
    os.utime(file, ns=(0, 1))
    stamps.append(files.stamp("cat/00.png"))
    file.write_bytes(b"x")
    os.utime(file, ns=(0, 1))
    stamps.append(files.stamp("cat/00.png"))
    file.chmod(0o600)
    stamps.append(files.stamp("cat/00.png"))
    file.unlink()
    stamps.append(files.stamp("cat/00.png"))
    assert len(set(stamps)) == 5


def test_the_order_of_the_file_system_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Entries in the reverse order give the same list, links included."""
    zoo(tmp_path / "zoo", 3)
    for name in ("one", "two", "cat/three"):
        (tmp_path / "zoo" / name).symlink_to(tmp_path / "zoo" / "dog")
    (tmp_path / "zoo/cat/x.png").symlink_to("00.png")
    listed = _listing.listed(str(tmp_path / "zoo"))
    scandir = os.scandir

    class Backwards:
        def __init__(self, path: str) -> None:
            self.entries = scandir(path)

        def __enter__(self):
            return reversed(list(self.entries))

        def __exit__(self, *_: object) -> None:
            self.entries.close()

    monkeypatch.setattr(os, "scandir", Backwards)
    assert _listing.listed(str(tmp_path / "zoo")) == listed
    assert "cat/x.png" in listed


def test_a_file_takes_300_bytes_at_most(tmp_path: Path) -> None:
    """As long as they are listed, labeled and grouped, and none of them is open."""
    paint(tmp_path / "some-class/some-patient/image-000000.png")
    for row in range(1, 5_000):
        (tmp_path / f"some-class/some-patient/image-{row:06d}.png").touch()
    tracemalloc.start()
    images = folder.load(path=str(tmp_path), **BARE | {"group": 2})
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert taken / len(images) < 300


# ---- tables of labels


def test_a_table_labels_a_few_of_many(tmp_path: Path) -> None:
    """Images that the table does not list have no label; folders mean nothing then, and the table is no image."""
    zoo(tmp_path, 2)
    table(tmp_path, "file,label", "dog/01.png,wet", "cat/00.png,dry")
    images = folder.load(path=str(tmp_path), **TABLE)
    assert images.classes == ["dry", "wet"]
    assert labeled(images) == {"cat/00.png": "dry", "cat/01.png": None, "dog/00.png": None, "dog/01.png": "wet"}


def test_images_without_any_label_are_a_data_set(tmp_path: Path) -> None:
    """A flat folder, or a table of nothing but its first line where folders are not classes."""
    paint(tmp_path / "flat/a.png")
    images = folder.load(path=str(tmp_path / "flat"), **BARE)
    assert (images.classes, images.labels.tolist()) == ([], [-1])
    table(tmp_path, "file,label")
    images = folder.load(path=str(tmp_path), **TABLE)
    assert (images.classes, images.labels.tolist()) == ([], [-1])


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_table_is_csv_or_parquet(tmp_path: Path, kind: str) -> None:
    """Label, group and split come out of either; numbers become their text, what is missing has no label."""
    zoo(tmp_path, 2)
    files = ["cat/00.png", "cat/01.png", "dog/00.png", "dog/01.png"]
    rows = {
        "split": ["train", "val", "test", "validation"],
        "file": files,
        "label": [3.0, None, 10.0, 3.0],
        "patient_id": ["007", "007", "8", "9"],
        "remark": [None, "x", None, None],
    }
    if kind == "csv":
        texts = [["" if v is None else str(v).removesuffix(".0") for v in values] for values in rows.values()]
        table(tmp_path, "\ufeff" + ",".join(rows), *(",".join(line) for line in zip(*texts, strict=True)))
    else:
        pq.write_table(pa.table(rows), tmp_path / "labels.parquet")
    images = folder.load(path=str(tmp_path), **PATIENTS | {"labels": f"labels.{kind}", "split": "column"})
    assert labeled(images) == dict(zip(files, ["3", None, "10", "3"], strict=True))
    assert images.classes == ["10", "3"]
    assert images.groups.tolist() == ["007", "007", "8", "9"]
    assert images.split.tolist() == ["train", "validation", "test", "validation"]


def test_a_table_finds_letters_that_are_composed_otherwise(tmp_path: Path) -> None:
    """An é of two characters on the disk is the é of one in the table; the id is the name on the disk."""
    paint(tmp_path / "e\u0301.png")
    paint(tmp_path / "x.png")
    table(tmp_path, "file,label", "\u00e9.png,accent", "x.png,none")
    assert labeled(folder.load(path=str(tmp_path), **TABLE)) == {"e\u0301.png": "accent", "x.png": "none"}


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (None, "labels.csv is missing: a CSV or parquet file with the columns file, label"),
        (["name,kind", "cat/00.png,dry"], "needs one column 'file'; it has the columns `name,kind`."),
        (["file;label", "cat/00.png;dry"], "it has the columns `file;label`"),
        (["file,label,label", "cat/00.png,dry,wet"], "needs one column 'label'"),
        (["file,lable", "cat/00.png,dry"], "it has the columns `file,lable`; did you mean 'lable'?"),
        (["file;label", "cat/00.png;dry"], "needs one column 'file'; it has the columns `file;label`: save it with"),
        (
            ["file,label", "cat/00.png,dry", "cat/77.png,dry"],
            "line 3: there is no image 'cat/77.png' in .*'cat/00.png'",
        ),
        (["file,label", "x,a", "y,a", "cat/00.png,a"], r"line 2: there is no image 'x'.*\(2 rows are like this\)"),
        (["file,label", ",dry"], "line 2: there is no image None"),
        (["file,label", "cat/00.png,"], "line 2: cat/00.png has an empty label"),
        (["file,label", "cat/00.png,dry", "cat/00.png,wet"], "line 3: cat/00.png already has the label 'dry'"),
        (["file,label", "cat/00.png,dry,hot"], r"cannot be read \(.*Row #2: Expected 2 columns, got 3"),
    ],
)
def test_a_wrong_table_is_refused(tmp_path: Path, lines: list[str] | None, sentence: str) -> None:
    """Each mistake in a table of labels is named with its line."""
    zoo(tmp_path, 1)
    if lines is not None:
        table(tmp_path, *lines)
    with pytest.raises(DataError, match=sentence):
        folder.load(path=str(tmp_path), **TABLE)


@pytest.mark.parametrize(
    ("name", "content"), [("labels.csv", "file,label\né,x".encode("latin1")), ("labels.parquet", b"file,label\n")]
)
def test_a_table_that_cannot_be_read_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    """Another encoding, another format: the sentence says which to save it in."""
    zoo(tmp_path, 1)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=rf"{name} cannot be read .*: save it as CSV in UTF-8, or as parquet"):
        folder.load(path=str(tmp_path), **TABLE | {"labels": name})


def test_a_table_lies_where_it_is_watched(tmp_path: Path) -> None:
    """A change of a table elsewhere would go unnoticed."""
    zoo(tmp_path / "zoo", 1)
    table(tmp_path, "file,label")
    with pytest.raises(DataError, match=r"\.\./labels.csv is not a file below .*zoo, which is all that is watched"):
        folder.load(path=str(tmp_path / "zoo"), **TABLE | {"labels": "../labels.csv"})


# ---- groups and splits of the source's own


def test_a_table_is_no_image_however_it_is_written(tmp_path: Path) -> None:
    """./labels.csv is labels.csv."""
    paint(tmp_path / "a.png")
    table(tmp_path, "file,label", "a.png,cat")
    images = folder.load(path=str(tmp_path), **TABLE | {"labels": "./labels.csv"})
    assert labeled(images) == {"a.png": "cat"}


def test_not_a_number_is_no_label(tmp_path: Path) -> None:
    """Of a float column, as pandas writes one with gaps."""
    for name in ("a.png", "b.png"):
        paint(tmp_path / name)
    rows = pa.table({"file": ["a.png", "b.png"], "label": [1.0, float("nan")], "patient_id": ["p", "q"]})
    pq.write_table(rows, tmp_path / "labels.parquet")
    images = folder.load(path=str(tmp_path), **PATIENTS | {"labels": "labels.parquet"})
    assert labeled(images) == {"a.png": "1", "b.png": None}


def test_a_class_is_found_beside_names_that_are_no_text(tmp_path: Path) -> None:
    """Bytes that are not UTF-8 sort elsewhere than what is written for them; such a class is one, too."""
    paint(tmp_path / "zebra" / "a.png")
    odd = os.fsencode(tmp_path)
    for name in (b"\xe91.png", b"\xe92.png", b"\xe93.png"):
        Path(os.fsdecode(odd + b"/" + name)).touch()
    Path(os.fsdecode(odd + b"/caf\xe9")).mkdir()
    Path(os.fsdecode(odd + b"/caf\xe9/a.png")).touch()
    images = folder.load(path=str(tmp_path), **BARE)
    assert set(images.classes) == {"zebra", "caf\\xe9"}
    assert set(quarantined(images).values()) == {"name"}


def test_a_column_of_groups_has_to_name_every_image(tmp_path: Path) -> None:
    """Whoever is not listed, or listed without a group, is named; a label may be missing then."""
    zoo(tmp_path, 2)
    rows = ["cat/00.png,dry,p1", "cat/01.png,,p1", "dog/00.png,wet,p2"]
    table(tmp_path, "file,label,patient_id", *rows)
    sentence = "1 of 4 images lack a group in the column 'patient_id' of .*labels.csv, dog/01.png the first"
    with pytest.raises(DataError, match=sentence):
        folder.load(path=str(tmp_path), **PATIENTS)
    table(tmp_path, "file,label,patient_id", *rows, "dog/01.png,,")
    with pytest.raises(DataError, match=sentence):
        folder.load(path=str(tmp_path), **PATIENTS)
    table(tmp_path, "file,label,patient_id", *rows, "dog/01.png,,p 3")
    images = folder.load(path=str(tmp_path), **PATIENTS)
    assert images.groups.tolist() == ["p1", "p1", "p2", "p 3"]
    assert list(labeled(images).values()) == ["dry", None, "wet", None]
    assert images.take(np.array([3, 0])).groups.tolist() == ["p 3", "p1"]


def test_a_contradiction_is_found_in_every_column(tmp_path: Path) -> None:
    """The same image with the same label twice, and of two patients."""
    zoo(tmp_path, 1)
    table(tmp_path, "file,label,patient_id", "cat/00.png,dry,p1", "dog/00.png,,p1", "cat/00.png,dry,p2")
    with pytest.raises(DataError, match=r"line 4: cat/00.png already has the patient_id 'p1'"):
        folder.load(path=str(tmp_path), **PATIENTS)


def test_a_column_needs_a_table(tmp_path: Path) -> None:
    """Without `labels` there is none that could have it."""
    zoo(tmp_path, 1)
    with pytest.raises(DataError, match="the column 'patient_id' has to stand in a table: say which by `labels`"):
        folder.load(path=str(tmp_path), **BARE | {"group": "patient_id"})


def test_a_group_is_the_name_of_a_folder(tmp_path: Path) -> None:
    """Level 2 of class/patient/tile is the patient, in whichever class; who has no such folder is named."""
    for file in ("cat/p1/a.png", "cat/p2/a.png", "dog/p1/deeper/a.png"):
        paint(tmp_path / file)
    images = folder.load(path=str(tmp_path), **BARE | {"group": 2})
    assert images.groups.tolist() == ["p1", "p2", "p1"]
    paint(tmp_path / "dog/a.png")
    with pytest.raises(DataError, match=r"1 of 4 images lack folders down to level 2, dog/a.png the first"):
        folder.load(path=str(tmp_path), **BARE | {"group": 2})


def test_the_first_folders_are_the_split(tmp_path: Path) -> None:
    """They are neither class nor level; any other name there is refused, as is an image outside."""
    for file in ("train/cat/p1/a.png", "val/cat/p2/a.png", "test/dog/p3/a.png"):
        paint(tmp_path / file)
    own = BARE | {"split": "folders", "group": 2}
    images = folder.load(path=str(tmp_path), **own)
    assert dict(zip(images.ids, images.split, strict=True)) == {
        "test/dog/p3/a.png": "test",
        "train/cat/p1/a.png": "train",
        "val/cat/p2/a.png": "validation",
    }
    assert images.groups.tolist() == ["p3", "p1", "p2"]
    assert list(labeled(images).values()) == ["dog", "cat", "cat"]
    paint(tmp_path / "extra/dog/p3/a.png")
    with pytest.raises(
        DataError, match=r"the folder 'extra' .* is none of train, val, valid, validation, dev, test: rename"
    ):
        folder.load(path=str(tmp_path), **own)


def test_a_split_in_a_table_is_train_val_or_test(tmp_path: Path) -> None:
    """Another word is refused, with an image that has it."""
    zoo(tmp_path, 1)
    table(tmp_path, "file,label,split", "cat/00.png,dry,train", "dog/00.png,wet,holdout")
    with pytest.raises(DataError, match=r"labels.csv: the split 'holdout' \(dog/00.png\) is none of train, val"):
        folder.load(path=str(tmp_path), **TABLE | {"split": "column"})


def test_imagenet_is_its_standard_folders(tmp_path: Path) -> None:
    """Validation images are the test split, classes are the folders' names, other files beside are passed over."""
    for file in ("train/n02/n02_1.JPEG", "train/n01/n01_7.JPEG", "val/n01/ILSVRC2012_val_00000293.JPEG"):
        paint(tmp_path / file, size=(40, 60))
    (tmp_path / "ILSVRC2012_devkit_t12.tar.gz").touch()
    store = ShortSide(short_side=20, quality=90)
    images = imagenet.load(path=str(tmp_path), store=store)
    assert images.ids == ["train/n01/n01_7.JPEG", "train/n02/n02_1.JPEG", "val/n01/ILSVRC2012_val_00000293.JPEG"]
    assert images.split.tolist() == ["train", "train", "test"]
    assert images.classes == ["n01", "n02"]
    assert images.labels.tolist() == [0, 1, 0]
    assert images.record(0).pixels.shape == (20, 30, 3)
    paint(tmp_path / "val/ILSVRC2012_val_00000001.JPEG")
    with pytest.raises(DataError, match=r"val/ILSVRC2012_val_00000001.JPEG lies in no class folder: sort the images"):
        imagenet.load(path=str(tmp_path), store=store)
    (tmp_path / "val").rename(tmp_path / "validation")
    with pytest.raises(DataError, match="has no folder val: put "):
        imagenet.load(path=str(tmp_path), store=store)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"store": {"shape": [8, 8]}}, r"store.*fit"),
        ({"store": {"short_side": 64}}, r"store.*quality"),
        ({"store": {"short_side": 64, "quality": 101}}, r"store.*quality.*101"),
        ({"store": {"short_side": 64, "quality": 95, "fit": "crop"}}, r"store.*fit"),
        ({"group": 0}, r"group.*0"),
        ({"split": "own"}, r"split.*folders.*column"),
    ],
)
def test_a_wrong_block_is_refused(changes: dict, sentence: str) -> None:
    """A store is one or the other, by its keys; levels count from 1; the error speaks of what is wrong."""
    source = {"name": "folder", "path": "data/raw/birds", "store": {"short_side": 64, "quality": 95}}
    source |= {"labels": None, "group": None, "split": None}
    assert plugins.specify("datasets", source, "datasets.birds.source")
    with pytest.raises(ParamsError, match=sentence):
        plugins.specify("datasets", source | changes, "datasets.birds.source")
