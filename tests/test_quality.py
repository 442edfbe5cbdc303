"""What happens to bad files: what the table in docs/data.md says, and nothing else.

Claims:
- every file of the corpus ends as its lines of the table say, in both stores, and the table has no line without a file;
- files in = images out + quarantined, whatever lies in a folder;
- what is taken shows what the file shows: upright, on white, of 8 bits by one linear rule;
- Pillow's warnings are nobody's news, and the reasons are the same words in every run.
"""

import csv
import json
import re
import shutil
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import get_args

import bad_files
import numpy as np
import pytest
from bad_files import pixels, saved
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from prepared_data import contents, prepared

from stages.datasets import _decoding, _writing, folder
from stages.datasets._decoding import Kind, Treatment, Unusable, format_of, misnamed, opened
from stages.datasets._fitting import OneShape, ShortSide
from stages.datasets._images import Images
from stages.datasets._reading import TREATMENTS

PAGE = Path(__file__).resolve().parent.parent / "docs/data.md"
STORES = {"packed": OneShape(shape=(8, 8), fit="crop"), "encoded": ShortSide(short_side=16, quality=90)}
PASSED = "passed over"


def table() -> dict[str, str]:
    """The first cell of each line of the table → how such a file ends."""
    section = PAGE.read_text().split("## What happens to bad files")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    return {row[0]: row[1] for row in rows[2:]}


def expected(file: bad_files.BadFile, lines: dict[str, str]) -> str:
    """How a file ends: what its lines say, together."""
    ends = {lines[line].split(":")[0] for line in file.lines}
    notes = sorted({note for line in file.lines for note in re.findall(r"`(\w+)`", lines[line])})
    [end] = ends
    return " ".join([end, *notes])


def outcome(images: Images, written: _writing.Written) -> dict[str, str]:
    """Id → how the file ended, in the words of `expected`."""
    ends = {images.ids[row]: f"quarantined {bad.kind}" for row, bad in written.bad.items()}
    for row, line in zip(written.rows, written.kept, strict=True):
        notes = {name for bit, name in enumerate(TREATMENTS) if line["treatments"] >> bit & 1}
        if line["format"] and misnamed(images.ids[row], _decoding.FORMATS[line["format"] - 1]):
            notes.add("suffix")
        ends[images.ids[row]] = " ".join(["taken", *sorted(notes)])
    return ends


def ingested(root: Path, store: str) -> tuple[Images, _writing.Written]:
    """Everything below `root`, written."""
    images = folder.load(path=str(root), store=STORES[store], labels=None, group=None, split=None)
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "images"
        out.mkdir()
        ledger = Path(scratch) / "ledger"
        written = _writing.write(out, images, ledger, near=False, workers=1, check=lambda: None)
    return images, written


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[bad_files.BadFile]]:
    root = tmp_path_factory.mktemp("corpus")
    return root, bad_files.write(root)


@pytest.mark.parametrize("store", STORES)
def test_every_file_ends_as_the_table_says(corpus: tuple[Path, list[bad_files.BadFile]], store: str) -> None:
    """More than a hundred files of 25 sorts and more, and each but the hidden one is accounted for."""
    root, files = corpus
    lines = table()
    assert outcome(*ingested(root, store)) == {file.name: expected(file, lines) for file in files}


def test_the_table_is_complete(corpus: tuple[Path, list[bad_files.BadFile]]) -> None:
    """It has a line for each kind and each treatment, and the corpus has a file for each line."""
    lines, (_, files) = table(), corpus
    used = {line for file in files for line in file.lines}
    assert used == set(lines) - {line for line, end in lines.items() if end == PASSED}
    named = {note for end in lines.values() for note in re.findall(r"`(\w+)`", end)}
    assert named == {*get_args(Kind), *get_args(Treatment)}
    assert len(used) >= 25
    for name in ("LIMIT", "STRIP", "DARK"):
        number = getattr(_decoding, name) - (name == "DARK")
        assert any(f" {number:,} " in f"{line} " for line in lines), name


SORTS: list[Callable[[], bytes]] = [
    lambda: saved(pixels(9, 7), "PNG"),
    lambda: saved(pixels(40, 30), "JPEG"),
    lambda: saved(pixels(12, 12)[..., 0], "PNG"),
    lambda: saved(pixels(60, 50), "JPEG")[:-300],
    lambda: b"",
    lambda: b"hello",
    lambda: bad_files.png(12_000, 12_000, 8, 2, b""),
    lambda: saved(pixels(1, 1), "PNG"),
]
NAME = st.text(st.characters(exclude_characters="/\0", exclude_categories=("Cs",)), min_size=1, max_size=12)
TREES = st.dictionaries(
    st.lists(NAME.filter(lambda name: name not in (".", "..")), min_size=1, max_size=3).map(tuple),
    st.one_of(st.integers(0, len(SORTS) - 1), st.sampled_from(["dangling", "circle", "up", "folder"])),
    min_size=1,
    max_size=8,
)


def grow(root: Path, tree: dict[tuple[str, ...], int | str]) -> int:
    """Make the tree, and say how many files and links to files of it are not hidden."""
    count = 0
    for path, sort in tree.items():
        place = root.joinpath(*path)
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            if place.is_symlink() or place.exists():
                continue
            if sort == "folder":
                place.mkdir()
            elif isinstance(sort, str):
                place.symlink_to({"dangling": "no where", "circle": place.name, "up": "."}[sort])
            else:
                place.write_bytes(SORTS[sort]())
        except OSError:  # a name that is too long, or lies below a file
            continue
        count += sort not in ("folder", "up") and not any(part.startswith(".") for part in path)
    return count


@pytest.mark.parametrize("store", STORES)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tree=TREES)
def test_files_in_are_images_out_and_quarantined(store: str, tree: dict[tuple[str, ...], int | str]) -> None:
    """Of any tree of good files, bad files, folders and links, every file is in exactly one of the two."""
    root = Path(tempfile.mkdtemp())
    try:
        (root / "class").mkdir()
        (root / "class/ first.png").write_bytes(SORTS[0]())
        count = 1 + grow(root / "class", tree)
        images = folder.load(path=str(root), store=STORES[store], labels=None, group=None, split=None)
        written = ingested(root, store)[1]
    finally:
        shutil.rmtree(root)
    assert len(images) == count
    assert sorted([*written.rows, *written.bad]) == list(range(count))


@pytest.mark.parametrize("store", STORES)
def test_prepare_accounts_for_every_file(tmp_path: Path, store: str) -> None:
    """Of the corpus and some plain images: summary.json, the rows and quarantine.csv agree, in the same bytes twice."""
    root = tmp_path / "raw"
    for name in ("odd", "plain"):
        (root / name).mkdir(parents=True)
    files = bad_files.write(root / "odd")
    for row in range(30):
        (root / "plain" / f"{row}.png").write_bytes(saved(pixels(seed=row), "PNG"))
    source = {"name": "folder", "path": str(root), "store": STORES[store].model_dump(), "labels": None}
    block = {
        "source": source | {"group": None, "split": None},
        "quality": {"bad": 0.5, "near": 4, "leaks": "remove"},
        "budgets": {},
    }
    one, two = (prepared(tmp_path / name, **block) for name in ("one", "two"))
    summary = json.loads((one.folder / "summary.json").read_text())
    with (one.folder / "quarantine.csv").open(newline="") as stream:
        left_out = list(csv.DictReader(stream))
    assert summary["files"] == len(files) + 30 == len(one.ids) + len(left_out)
    assert summary["images"] == len(one.ids) == len(one.images)
    assert Counter(line["kind"] for line in left_out) == summary["quarantined"]
    ends = [expected(file, table()).split() for file in files]
    notes = Counter(note for end, *notes in ends if end == "taken" for note in notes)
    assert summary["treatments"] == notes
    assert contents(one) == contents(two)


def shown(content: bytes) -> np.ndarray:
    """What is taken of a file, int (h, w, 3)."""
    return np.asarray(opened(content, 64).image).astype(int)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_turned_upright(kind: str, orientation: int) -> None:
    """An image that was turned away by the inverse of its EXIF orientation comes back, in its whole size."""
    away = {
        1: lambda image: image,
        2: np.fliplr,
        3: lambda image: np.rot90(image, 2),
        4: np.flipud,
        5: lambda image: image.swapaxes(0, 1),
        6: lambda image: np.rot90(image, 1),
        7: lambda image: np.rot90(image, 2).swapaxes(0, 1),
        8: lambda image: np.rot90(image, -1),
    }
    turned = np.ascontiguousarray(away[orientation](pixels(48, 64)))
    found = opened(bad_files.turned(kind, orientation, turned), 64)
    assert found.size == (64, 48)
    assert abs(np.asarray(found.image).astype(int) - pixels(48, 64)).max() <= (24 if kind == "JPEG" else 0)


def test_sixteen_bits_become_their_upper_eight() -> None:
    """One linear rule for every gray image, PNG, TIFF or PGM, and the same for color."""
    deep = np.array([[0, 255, 256, 4096], [32767, 32768, 65279, 65535]], np.uint16).repeat(4, 0).repeat(4, 1)
    for kind in ("PNG", "TIFF", "PPM"):
        np.testing.assert_array_equal(shown(saved(deep, kind)), (deep >> 8)[..., None].repeat(3, 2))
    color = np.stack([deep, deep[::-1], deep[:, ::-1]], axis=2)
    np.testing.assert_array_equal(shown(bad_files.png(16, 8, 16, 2, bad_files.lines(color))), color >> 8)


def test_what_is_see_through_lies_on_white() -> None:
    """The color of a pixel is mixed with white by its alpha; what hides under full transparency is not seen."""
    rgba = np.zeros((4, 4, 4), np.uint8)
    rgba[..., 0], rgba[0, :, 3], rgba[1, :, 3] = 200, 255, 128
    image = shown(saved(rgba, "PNG"))
    assert image[0].tolist() == [[200, 0, 0]] * 4
    assert abs(image[1] - [227, 127, 127]).max() <= 1
    assert (image[2:] == 255).all()


def test_an_opaque_alpha_changes_nothing() -> None:
    """An alpha channel that is opaque throughout is dropped, and nobody need know."""
    content = saved(Image.fromarray(pixels()).convert("RGBA"), "PNG")
    np.testing.assert_array_equal(shown(content), pixels())
    assert opened(content, 64).treatments == ()


@pytest.mark.parametrize("inverted", [True, False])
def test_inks_become_the_colors_that_they_print(inverted: bool) -> None:
    """Red ink is red and white paper white, in a JPEG with Adobe's inverted values and in a TIFF."""
    image = Image.new("RGB", (16, 16), "white")
    image.paste((220, 30, 30), (0, 0, 8, 16))
    found = shown(saved(image.convert("CMYK"), "JPEG" if inverted else "TIFF"))
    assert abs(found[:, :7] - [220, 30, 30]).max() < 12
    assert found[:, 9:].min() > 245


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF", "MPO"])
def test_of_many_pictures_the_first_is_taken(kind: str) -> None:
    """It is that of the first frame, not of the last or of a mixture."""
    assert abs(shown(bad_files.many(kind)) - pixels(seed=0)).mean() < 12
    assert abs(shown(bad_files.many(kind)) - pixels(seed=2)).mean() > 30


def test_a_profile_is_not_applied() -> None:
    """The numbers of the file are those of the image."""
    [file] = [file for file in bad_files.corpus() if file.name == "profile-broken.png"]
    np.testing.assert_array_equal(shown(file.content), pixels())


def test_an_interlaced_image_is_whole() -> None:
    """All seven passes are read."""
    np.testing.assert_array_equal(shown(bad_files.interlaced(pixels(21, 19))), pixels(21, 19))


def test_a_large_jpeg_is_decoded_at_a_lower_scale() -> None:
    """Twice the side that is asked for is enough; the size that is told is the whole one."""
    found = opened(saved(pixels(640, 480), "JPEG"), 40)
    assert found.size == (480, 640)
    assert found.image.size == (120, 160)


def test_good_images_are_those_of_plain_pillow() -> None:
    """Of every file that is taken without a note, the pixels are those of Pillow's own conversion."""
    plain = [file for file in bad_files.good_files() if not opened(file.content, 64).treatments]
    assert len(plain) > 15
    for file in plain:
        with Image.open(BytesIO(file.content)) as image:
            np.testing.assert_array_equal(shown(file.content), np.asarray(image.convert("RGB")))


def test_a_bomb_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its header is enough to turn it away."""
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("it was decoded"))
    for file in bad_files.hopeless_files():
        if file.lines == (bad_files.BOMB,):
            with pytest.raises(Unusable, match="more than 134,217,728 pixels"):
                opened(file.content, 64)


def test_nobody_hears_pillow_warn(recwarn: pytest.WarningsRecorder) -> None:
    """Torn EXIF, invalid animations and large images are dealt with, and no warning is left over."""
    warnings.simplefilter("always")
    for file in bad_files.corpus():
        try:
            opened(file.content, 64)
        except Unusable:
            continue
    assert [str(warning.message) for warning in recwarn] == []


def test_the_reasons_are_the_same_words_each_time() -> None:
    """No reason names an address in memory or anything else that quarantine.csv could not repeat."""

    def reasons() -> list[str]:
        found = []
        for file in bad_files.hopeless_files():
            with pytest.raises(Unusable) as caught:
                opened(bytes(bytearray(file.content)), 64)
            found.append(caught.value.words)
        return found

    first = reasons()
    assert reasons() == first
    assert not [words for words in first if "0x" in words or "\n" in words]


def test_a_file_that_may_not_be_read_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where permission is denied or the disk fails, the reason is the system's."""

    def deny(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.open", deny)
    with pytest.raises(Unusable, match="permission denied: let the user who runs the stage read it") as caught:
        _decoding.content("a.jpg")
    assert caught.value.kind == "unreadable"


def test_memory_that_runs_out_is_not_the_files_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends the stage instead of putting good files into quarantine."""

    def full(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", full)
    with pytest.raises(MemoryError):
        opened(saved(pixels(), "JPEG"), 64)


def test_formats_are_told_by_their_first_bytes() -> None:
    """Every format that is read is recognized, whatever the name says."""
    for kind, suffixes in _decoding.SUFFIXES.items():
        content = saved(pixels(), kind)
        assert format_of(content) == kind
        assert not misnamed(f"a/b{suffixes[0].upper()}", kind)
        assert not misnamed("a.b/c", kind)
        assert misnamed("a/b.xyz", kind)
    assert format_of(b"") == format_of(b"%PDF-1.7") == ""
