"""Images in tar and parquet files: found by one pass, read by seeking, labeled by what stands beside them."""

import io
import json
import tarfile
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from stages.datasets import _cells, shards
from stages.datasets._decoding import Unusable
from stages.datasets._fitting import OneShape, ShortSide
from stages.datasets._images import DataError, Files, Images

BARE = {"store": OneShape(shape=(4, 6), fit="crop"), "labels": None, "group": None, "split": None}


def png(*color: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (6, 4), color).save(stream, "PNG")
    return stream.getvalue()


def pack(path: Path, members: dict[str, bytes]) -> Path:
    """A tar file of these members, in this order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            header = tarfile.TarInfo(name)
            header.size = len(content)
            tar.addfile(header, io.BytesIO(content))
    return path


def table(path: Path, rows: int, *, group: int = 100, start: int = 0, **columns: list) -> Path:
    """A parquet file of images whose red is the number of the row."""
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [png(start + row, 0, 0) for row in range(rows)]
    pq.write_table(pa.table({"image": images, **columns}), path, row_group_size=group)
    return path


def labeled(images: Images) -> dict[str, str | None]:
    """Id → name of the class."""
    return {name: images.classes[y] if y >= 0 else None for name, y in zip(images.ids, images.labels, strict=True)}


def reds(images: Images, rows: list[int] | None = None) -> list[int]:
    """The red of the images, in the order they are asked for."""
    return [int(images.record(row).pixels[0, 0, 0]) for row in (range(len(images)) if rows is None else rows)]


# ---- tar


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        (tarfile.LNKTYPE, "b.png in .*0.tar is a link: pack the files with `tar --hard-dereference -h`"),
        (tarfile.SYMTYPE, "b.png in .*0.tar is a link"),
        (tarfile.GNUTYPE_SPARSE, "b.png in .*0.tar is packed with holes"),
    ],
)
def test_an_image_that_does_not_lie_there_is_refused(tmp_path: Path, kind: bytes, sentence: str) -> None:
    """A link to another member, and a file with holes: the bytes behind the header are not the image."""
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for name, how in (("a.png", tarfile.REGTYPE), ("b.png", kind)):
            header = tarfile.TarInfo(name)
            header.type, header.linkname = how, "a.png"
            header.size = len(png(1)) if how == tarfile.REGTYPE else 0
            tar.addfile(header, io.BytesIO(png(1)))
    with pytest.raises(DataError, match=sentence):
        shards.load(path=str(tmp_path), **BARE)


def test_a_table_of_shards_lies_where_it_is_watched(tmp_path: Path) -> None:
    """As that of a folder does."""
    pack(tmp_path / "tiles" / "0.tar", {"a.png": png(1)})
    (tmp_path / "labels.csv").write_text("file,label\n0.tar/a.png,cat\n")
    with pytest.raises(DataError, match=r"\.\./labels.csv is not a file below .*tiles"):
        shards.load(path=str(tmp_path / "tiles"), **BARE | {"labels": "../labels.csv"})


@pytest.mark.parametrize("said", [b'{"label": NaN}', b'{"label": null}', b'{"label": ""}'])
def test_no_value_is_no_class(tmp_path: Path, said: bytes) -> None:
    """Not a number, nothing and an empty text are no label."""
    pack(tmp_path / "0.tar", {"a.png": png(1), "a.json": said, "b.png": png(2), "b.cls": b"dog"})
    assert labeled(shards.load(path=str(tmp_path), **BARE)) == {"0.tar/a.png": None, "0.tar/b.png": "dog"}


@pytest.mark.parametrize("said", [b'{"label": "\\ud800"}', b"[" * 100_000])
def test_what_is_said_of_an_image_is_text(tmp_path: Path, said: bytes) -> None:
    """A half of a character, or brackets without end, are refused in a sentence."""
    pack(tmp_path / "0.tar", {"a.png": png(1), "a.json": said})
    with pytest.raises(DataError, match=r"a.json in .*0.tar is no mapping"):
        shards.load(path=str(tmp_path), **BARE)


def test_a_tar_holds_images_and_what_they_are(tmp_path: Path) -> None:
    """A .cls or a .json of the same name has the label; hidden members and others are passed over."""
    pack(tmp_path / "0001.tar", {"000.png": png(3), "000.cls": b"dog\n", "001.png": png(4)})
    members = {"a/000.jpg": png(1), "a/000.json": b'{"label": "cat", "n": 7}', "a/000.txt": b"a cat", "a/._x.png": b"x"}
    pack(tmp_path / "0000.tar", members | {"b/000.seg.png": png(9), "./b/000.PNG": png(2), "b/000.cls": b"3"})
    (tmp_path / "sizes.json").write_text("{}")
    images = shards.load(path=str(tmp_path), **BARE)
    assert labeled(images) == {
        "0000.tar/a/000.jpg": "cat",
        "0000.tar/b/000.PNG": "3",
        "0001.tar/000.png": "dog",
        "0001.tar/001.png": None,
    }
    assert reds(images) == [1, 2, 3, 4]
    assert reds(images.take(np.array([3, 1]))) == [4, 2]


@pytest.mark.parametrize("others", [{}, {"p07.txt": b"a note", "p08.png": png(1)}])
def test_an_image_that_would_be_missed_is_refused(tmp_path: Path, others: dict[str, bytes]) -> None:
    """A name ends at its first dot; where only names with more of them are there, that was not meant."""
    pack(tmp_path / "0000.tar", {"p07.slide3.png": png(2), **others})
    with pytest.raises(DataError, match=r"p07.slide3.png in .*0000.tar would be passed over: a name ends at its first"):
        shards.load(path=str(tmp_path), **BARE)


def test_groups_and_splits_come_out_of_json_or_folders(tmp_path: Path) -> None:
    """By the name of the key; an image without one is named."""
    for split, patient in (("train", 5), ("test", 6)):
        said = json.dumps({"label": 1, "patient_id": patient, "split": "val"}).encode()
        pack(tmp_path / split / "0.tar", {"x.png": png(0), "x.json": said})
    images = shards.load(path=str(tmp_path), **BARE | {"group": "patient_id", "split": "folders"})
    assert images.groups.tolist() == ["6", "5"]
    assert images.split.tolist() == ["test", "train"]
    images = shards.load(path=str(tmp_path), **BARE | {"split": "column"})
    assert images.split.tolist() == ["validation", "validation"]
    pack(tmp_path / "train/1.tar", {"x.png": png(0)})
    with pytest.raises(
        DataError, match=r"1 of 3 images lack a group in the column 'patient_id' of .*, train/1.tar/x.png"
    ):
        shards.load(path=str(tmp_path), **BARE | {"group": "patient_id"})


def test_members_need_not_be_neighbors(tmp_path: Path) -> None:
    """Labels before all images, after all images, or in between: each image gets its own."""
    for number, order in enumerate((["a.cls", "b.cls", "a.png", "b.png"], ["b.png", "a.png", "a.cls", "b.cls"])):
        content = {"a.png": png(1), "b.png": png(2), "a.cls": b"A", "b.cls": b"B"}
        pack(tmp_path / f"{number}.tar", {name: content[name] for name in order})
    images = shards.load(path=str(tmp_path), **BARE)
    assert labeled(images) == {"0.tar/a.png": "A", "0.tar/b.png": "B", "1.tar/b.png": "B", "1.tar/a.png": "A"}


def test_a_table_labels_members(tmp_path: Path) -> None:
    """Then what lies beside the images does not count, and need not be readable."""
    pack(tmp_path / "0.tar", {"a.png": png(1), "a.json": b"{", "b.png": png(2)})
    (tmp_path / "labels.csv").write_text("file,label,slide\n0.tar/b.png,wet,s1\n0.tar/a.png,,s2\n")
    images = shards.load(path=str(tmp_path), **BARE | {"labels": "labels.csv", "group": "slide"})
    assert labeled(images) == {"0.tar/a.png": None, "0.tar/b.png": "wet"}
    assert images.groups.tolist() == ["s2", "s1"]


@pytest.mark.parametrize(
    ("members", "sentence"),
    [
        ({"a.png": b"", "a.json": b"{"}, "a.json in .*0.tar is no mapping"),
        ({"a.png": b"", "a.json": b"[1]"}, "a.json in .*0.tar is no mapping"),
        ({"a.png": b"", "a.cls": b"\xff"}, "a.cls in .*0.tar is no text"),
        (
            {"a.png": b"", "a.cls": b"x", "a.json": b'{"label": "y"}'},
            "a in .*0.tar has two values of label, 'x' and 'y'",
        ),
        ({"a.png": b"", "b.cls": b"x"}, "0.tar says what b is and has no image of that name"),
        ({"a.txt": b"x"}, "has no images: of a tar file they are members such as"),
        ({}, "has no images"),
    ],
)
def test_wrong_members_are_named(tmp_path: Path, members: dict[str, bytes], sentence: str) -> None:
    """A label that cannot be read, contradicts another or is nobody's is refused with its tar."""
    pack(tmp_path / "0.tar", members)
    with pytest.raises(DataError, match=sentence):
        shards.load(path=str(tmp_path), **BARE)


def test_a_name_stands_for_one_member(tmp_path: Path) -> None:
    """A tar can hold two of a name, of which unpacking would keep the last; here each would need an id."""
    pack(tmp_path / "0.tar", {"a.png": png(1), "./a.png": png(2)})
    with pytest.raises(DataError, match=r"1 ids occur more than once, '0.tar/a.png' among them"):
        shards.load(path=str(tmp_path), **BARE)


LONG = "x" * 150  # a name that takes a header of its own


def test_a_tar_that_is_cut_anywhere_is_refused(tmp_path: Path) -> None:
    """The last whole member and where it ends are said, and with the command that is given the rest can be used."""
    members = {"a.png": png(1), f"{LONG}.png": png(2), "b.png": png(3)}
    content = pack(tmp_path / "0.tar", members).read_bytes()
    with tarfile.open(tmp_path / "0.tar") as tar:
        ends = [(header.name, header.offset_data + 512 * -(-header.size // 512)) for header in tar]
    for cut in range(0, ends[-1][1] + 512, 256):
        (tmp_path / "0.tar").write_bytes(content[:cut])
        whole = [(name, end) for name, end in ends if end <= cut]
        if not whole:
            with pytest.raises(DataError, match=r"0.tar (is cut off in its first member|is not an uncompressed tar)"):
                shards.load(path=str(tmp_path), **BARE)
            continue
        (name, end) = whole[-1]
        with pytest.raises(DataError, match=rf"its last whole member, {name}, ends at byte {end} of {cut}\. Copy it"):
            shards.load(path=str(tmp_path), **BARE)
        (tmp_path / "0.tar").write_bytes(content[:end] + bytes(1024))
        assert reds(shards.load(path=str(tmp_path), **BARE)) == [1, 2, 3][: len(whole)]


@pytest.mark.parametrize("at", [0, 1500])
def test_a_tar_with_a_damaged_header_is_refused(tmp_path: Path, at: int) -> None:
    """Rather than taken to end there."""
    content = bytearray(pack(tmp_path / "0.tar", {"a.png": png(1), "b.png": png(2)}).read_bytes())
    content[at // 512 * 512 + (100 if at else 0)] ^= 0xFF
    (tmp_path / "0.tar").write_bytes(content)
    with pytest.raises(
        DataError, match=r"0.tar is (cut off or damaged: .* a.png, ends at byte 1024|not an uncompressed)"
    ):
        shards.load(path=str(tmp_path), **BARE)


def test_joined_tars_are_refused(tmp_path: Path) -> None:
    """All that follows the end of the first would be lost without a word."""
    parts = [pack(tmp_path / f"{number}.tar", {f"{number}.png": png(number)}).read_bytes() for number in range(2)]
    (tmp_path / "0.tar").write_bytes(b"".join(parts))
    with pytest.raises(DataError, match=r"0.tar goes on behind its end, byte 1024: it was joined"):
        shards.load(path=str(tmp_path), **BARE)


def test_a_member_that_went_away_is_unusable(tmp_path: Path) -> None:
    """A tar that is cut or removed after it was listed costs its images, not the rest."""
    pack(tmp_path / "0.tar", {"a.png": png(1)})
    pack(tmp_path / "1.tar", {"a.png": png(2)})
    pack(tmp_path / "2.tar", {"a.png": png(3)})
    images = shards.load(path=str(tmp_path), **BARE)
    (tmp_path / "0.tar").write_bytes(b"")
    (tmp_path / "1.tar").unlink()
    for row, kind in ((0, "truncated"), (1, "unreadable")):
        with pytest.raises(Unusable) as caught:
            images.record(row)
        assert caught.value.kind == kind
    assert reds(images, [2]) == [3]


def test_a_stamp_is_of_the_tar_and_the_place(tmp_path: Path) -> None:
    """Members of one tar differ, and all change with the tar."""
    pack(tmp_path / "0.tar", {"a.png": png(1), "b.png": png(2)})
    files = shards.load(path=str(tmp_path), **BARE).pixels
    before = [files.stamp(item) for item in files.items]
    pack(tmp_path / "0.tar", {"a.png": png(1), "b.png": png(2), "c.png": png(3)})
    after = [files.stamp(item) for item in files.items]
    assert len({*before, *after}) == 4


def test_a_member_takes_300_bytes_at_most(tmp_path: Path) -> None:
    """Of the tars' headers nothing is kept but where the images are; the store makes no difference."""
    pack(tmp_path / "0.tar", {f"{row:06d}.{kind}": b"7" for row in range(4000) for kind in ("jpg", "cls")})
    shards.load(path=str(tmp_path), **BARE)  # what is imported only now is not counted
    tracemalloc.start()
    images = shards.load(path=str(tmp_path), **BARE | {"store": ShortSide(short_side=64, quality=90)})
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(images) == 4000
    assert kept / len(images) < 200
    assert peak / len(images) < 600


# ---- parquet


def test_a_parquet_file_holds_rows_of_images(tmp_path: Path) -> None:
    """In any order of asking, across row groups and files; a file without the column has no labels."""
    table(tmp_path / "a.parquet", 5, group=2, label=["x", "y", None, "x", ""])
    table(tmp_path / "b.parquet", 2, start=5)
    images = shards.load(path=str(tmp_path), **BARE)
    assert images.ids[4:6] == ["a.parquet/000004", "b.parquet/000000"]
    assert list(labeled(images).values()) == ["x", "y", None, "x", None, None, None]
    assert reds(images) == [0, 1, 2, 3, 4, 5, 6]
    assert reds(images, [6, 0, 3, 1]) == [6, 0, 3, 1]


def test_a_struct_of_bytes_is_a_column_of_images(tmp_path: Path) -> None:
    """As the Hugging Face Hub has them; numbers as labels, groups and splits in columns."""
    rows = [{"bytes": png(row), "path": f"{row}.png"} for row in range(3)]
    columns = {"image": rows, "label": [4, 4, 0], "patient": [1, 1, 2], "split": ["train", "test", "val"]}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    images = shards.load(path=str(tmp_path), **BARE | {"group": "patient", "split": "column"})
    assert reds(images) == [0, 1, 2]
    assert images.classes == ["0", "4"]
    assert images.groups.tolist() == ["1", "1", "2"]
    assert images.split.tolist() == ["train", "test", "validation"]


def test_a_row_group_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as the images are asked for in their order."""
    table(tmp_path / "a.parquet", 6, group=2)
    images = shards.load(path=str(tmp_path), **BARE)
    read, groups = pq.ParquetFile.read_row_group, []
    monkeypatch.setattr(
        pq.ParquetFile,
        "read_row_group",
        lambda self, group, *a, **k: groups.append(group) or read(self, group, *a, **k),
    )
    assert reds(images) == [0, 1, 2, 3, 4, 5]
    assert groups == [0, 1, 2]


def test_row_groups_that_are_too_large_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One is in memory at once; the number of rows that would do is said."""
    monkeypatch.setattr(_cells, "LARGEST", 2500)
    pixels = [np.random.default_rng(row).bytes(1000) for row in range(10)]
    pq.write_table(pa.table({"image": pixels}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a.parquet has row groups of 0 MiB of images.*row_group_size=2\)"):
        shards.load(path=str(tmp_path), **BARE)


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ({"label": ["x"]}, "a.parquet needs one column of bytes, those of the image files, and has none"),
        ({"a": [b"x"], "b": [b"y"]}, "and has the columns a, b"),
        ({"a": [b"x"], "label": [["x"]]}, "the column 'label' of .*a.parquet holds list<"),
    ],
)
def test_wrong_columns_are_named(tmp_path: Path, columns: dict, sentence: str) -> None:
    """There is one column of bytes, and labels are text or numbers."""
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=sentence):
        shards.load(path=str(tmp_path), **BARE)


def test_two_columns_of_a_name_are_refused(tmp_path: Path) -> None:
    """Nobody knows which of them is the label."""
    rows = pa.Table.from_arrays([pa.array([png(1)]), pa.array(["a"]), pa.array(["b"])], ["image", "label", "label"])
    pq.write_table(rows, tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"the column 'label' of .*a.parquet cannot be read: there are two"):
        shards.load(path=str(tmp_path), **BARE)


def test_a_row_without_bytes_is_unusable(tmp_path: Path) -> None:
    """So is one whose bytes are no image; the others are read."""
    pq.write_table(pa.table({"image": [png(1), None, b"text"]}), tmp_path / "a.parquet")
    images = shards.load(path=str(tmp_path), **BARE)
    kinds = []
    for row in (1, 2):
        with pytest.raises(Unusable) as caught:
            images.record(row)
        kinds.append(caught.value.kind)
    assert kinds == ["empty", "not_image"]
    with pytest.raises(Unusable, match="the row has no bytes"):
        images.record(1)
    assert reds(images, [0]) == [1]


@pytest.mark.parametrize("name", ["a.parquet", "a.tar"])
def test_a_shard_that_goes_away_is_unusable(tmp_path: Path, name: str) -> None:
    """Gone, or written anew with fewer rows, after it was listed: its images are, and their stamp is another one."""
    if name.endswith(".tar"):
        pack(tmp_path / name, {"0.png": png(1), "1.png": png(2)})
    else:
        table(tmp_path / name, 2)
    images = shards.load(path=str(tmp_path), **BARE)
    files = images.pixels
    assert isinstance(files, Files)
    before = files.stamp(files.items[1])
    pack(tmp_path / name, {}) if name.endswith(".tar") else table(tmp_path / name, 1)
    _cells._group.cache_clear()
    with pytest.raises(Unusable):
        images.record(1)
    (tmp_path / name).unlink()
    _cells._group.cache_clear()
    with pytest.raises(Unusable):
        images.record(0)
    assert files.stamp(files.items[1]) == "FileNotFoundError" != before


# ---- folders of shards


def test_a_folder_of_shards_holds_one_kind(tmp_path: Path) -> None:
    """None, both, or packed ones: each is a sentence; so is a file that is cut."""
    with pytest.raises(DataError, match=r"has no .tar or .parquet files$"):
        shards.load(path=str(tmp_path), **BARE)
    pack(tmp_path / "1.tar", {"a.png": png(1)})
    (tmp_path / "0.tar.gz").touch()
    with pytest.raises(DataError, match=r"0.tar.gz has to be unpacked first, as nobody can seek in it"):
        shards.load(path=str(tmp_path), **BARE)
    for file in ("0.tar.gz", "1.tar"):
        (tmp_path / file).unlink()
    content = table(tmp_path / "a.parquet", 2).read_bytes()
    (tmp_path / "a.parquet").write_bytes(content[:-9])
    with pytest.raises(DataError, match=r"a.parquet is not a whole parquet file .*: copy it again"):
        shards.load(path=str(tmp_path), **BARE)
    pack(tmp_path / "0.tar", {})
    with pytest.raises(DataError, match=r"has tar and parquet files, 0.tar and a.parquet: keep one kind"):
        shards.load(path=str(tmp_path), **BARE)
