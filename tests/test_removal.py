"""Images taken out of files: tables keep their other rows, tars and parquet files their other images.

And which objects name or hold one.
"""

import io
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from trail_project import image, png

from pipeline.trail import removal, sources


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("file,label\na,1\nb,2\n", "file,label\nb,2\n"),
        ("label,file\r\n1,b\r\n2,a", "label,file\r\n1,b\r\n"),
        ('\ufefffile,label\n"a",1\n"x\ny",2\n', '\ufefffile,label\n"x\ny",2\n'),
        ("file,label\nb,2\n", "file,label\nb,2\n"),
    ],
)
def test_a_table_loses_only_its_rows(tmp_path: Path, text: str, kept: str) -> None:
    """Quotes, line ends and order of the others stay as they are, byte for byte."""
    (tmp_path / "t.csv").write_bytes(text.encode())
    removal.rows(tmp_path / "t.csv", ["a"])
    assert (tmp_path / "t.csv").read_bytes() == kept.encode()


def parquet(**columns: Any) -> bytes:
    stream = io.BytesIO()
    pq.write_table(pa.table(columns), stream)
    return stream.getvalue()


PNG = bytes(range(40))  # as the content of a file


@pytest.mark.parametrize(
    "content",
    [
        b"file,label\ncaf\xc3\xa9,1\n",
        b"\xef\xbb\xbffile,label\ncaf\xc3\xa9,1\n",
        b'"file","label"\r\n"caf\xc3\xa9","1"\r\n',
        b"label,file\n1,caf\xc3\xa9\n",
        b"file,label\ncafe\xcc\x81,1\n",
        b"file,label\n\xe9,1\ncaf\xc3\xa9,1\n",  # one row of it in Latin-1
        b'[{"md5": "0", "relpath": "cafe\xcc\x81"}]',
        b'[{"md5": "0", broken' + PNG,
        b'[{"md5": "0"}]' + PNG,
        b"PAR1" + PNG,
        parquet(file=["cafe\u0301"]),
        parquet(file=pa.array(["caf\xe9"], pa.large_string())),
        parquet(file=pa.array(["caf\xe9", None]).dictionary_encode()),
        parquet(tags=[["x"]], image=[{"bytes": PNG, "path": None}]),
    ],
)
def test_a_table_or_list_that_names_an_image_is_found(content: bytes) -> None:
    """However it is written, and damaged if it is; it says nothing of other images."""
    assert removal.holds(content, [PNG], {"caf\xe9"})
    assert removal.holds(content, [PNG], {"cafe\u0301"})
    assert not removal.holds(content, [PNG[::-1]], {"caf", "1", "label"})


def test_a_linked_table_loses_its_rows(tmp_path: Path) -> None:
    """Its own name says what it is; a link to an object of DVC's cache becomes a file, and the object stays."""
    table, target = tmp_path / "t.csv", tmp_path / "real"
    for place in (target, tmp_path / "ab" / ("c" * 30)):
        place.parent.mkdir(exist_ok=True)
        place.write_text("file,label\na,1\nb,2\n")
        table.unlink(missing_ok=True)
        table.symlink_to(place)
        removal.rows(table, ["a"])
        assert table.read_text() == "file,label\nb,2\n"
        assert table.is_symlink() == (place == target)
    assert target.read_text() == "file,label\nb,2\n"
    assert place.read_text() == "file,label\na,1\nb,2\n"


def test_a_link_goes_with_what_it_leads_to(tmp_path: Path) -> None:
    """The file itself is what has to be gone."""
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "real.png").write_text("x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "link.png").symlink_to(tmp_path / "store" / "real.png")
    removal.files(tmp_path / "folder", ["link.png"])
    assert not (tmp_path / "store" / "real.png").exists()
    assert list((tmp_path / "folder").iterdir()) == []


def test_a_tar_loses_an_image_and_what_stands_beside_it(tmp_path: Path) -> None:
    """Members of the same name but for the suffix go, the others keep their bytes and their order."""
    tar, members = tmp_path / "a.tar", ("x/1.png", "x/1.json", "x/10.png", "1.png", "x/2.cls")
    with tarfile.open(tar, "w") as file:
        for member in members:
            info = tarfile.TarInfo(member)
            info.size = len(member)
            file.addfile(info, io.BytesIO(member.encode()))
    removal.members(tar, ["x/1.png"])
    with tarfile.open(tar) as file:
        left = {member.name: file.extractfile(member).read().decode() for member in file}
    assert left == {member: member for member in members[2:]}
    assert list(left) == list(members[2:])
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar"]


def test_an_emptied_row_keeps_its_place(tmp_path: Path) -> None:
    """Ids of a parquet file are numbers of rows: nothing moves up, and row groups stay what they are."""
    table = {"image": [b"a", b"b", b"c"], "label": ["1", "2", "3"], "patient": ["p", "somebody", "r"]}
    split = ["train", "test", "train"]
    pq.write_table(pa.table(table | {"split": split}), tmp_path / "a.parquet", row_group_size=2)
    removal.cells(tmp_path / "a.parquet", [1], "patient")
    left = {"image": [b"a", None, b"c"], "label": ["1", None, "3"], "patient": ["p", "forgotten", "r"]}
    assert pq.read_table(tmp_path / "a.parquet").to_pydict() == left | {"split": split}
    assert pq.ParquetFile(tmp_path / "a.parquet").num_row_groups == 2
    assert b"somebody" not in (tmp_path / "a.parquet").read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["a.parquet"]


@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_a_shard_gives_an_image_up(tmp_path: Path, kind: str) -> None:
    """Read again, the others are there under their ids; of a tar the image is gone, of a parquet file it is empty."""
    if kind == "tar":
        with tarfile.open(tmp_path / "0.tar", "w") as file:
            for number in range(3):
                info = tarfile.TarInfo(f"{number:06d}.png")
                info.size = len(png(number))
                file.addfile(info, io.BytesIO(png(number)))
    else:
        pq.write_table(pa.table({"image": [png(number) for number in range(3)]}), tmp_path / "0.parquet")
    names = [f"0.{kind}/{number:06d}{'.png' if kind == 'tar' else ''}" for number in range(3)]
    block = {"name": "shards", "path": str(tmp_path), "store": {"shape": [8, 8], "fit": "crop"}}
    source = sources.Source("a", {"source": block | {"labels": None, "group": None, "split": None}})
    assert source.images.ids == names
    source.remove([names[1]])
    again = sources.Source("a", {"source": source.block})
    assert again.images.ids == ([names[0], names[2]] if kind == "tar" else names)
    assert again.kept(again.content(len(again.images.ids) - 1))[0] == image(2).tobytes()
    assert png(1) not in b"".join(path.read_bytes() for path in tmp_path.iterdir())
