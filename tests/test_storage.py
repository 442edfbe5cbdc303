"""The two ways in which the images of a data set lie on the disk.

Claims:
- what is written is read, whatever the sizes, in any order, from any thread;
- the same images are the same bytes, in shards of a bounded size;
- a damaged image is named, not shown;
- reading takes no more memory when there are more images.
"""

import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from stored_images import keep, noise, record

from stages.datasets import _writing
from stages.datasets._images import Files, Images, Record
from stages.datasets._reading import Bad, Kept, Reading, batch, kept
from stages.datasets._storage import DataError, Packed, decode, stored
from stages.datasets._writing import Written

SIZES = [(5, 9), (8, 8), (12, 3), (1, 1), (7, 12)]


def write(folder: Path, images: Images, check=lambda: None) -> Written:
    """The images in `folder`, by this process, with a ledger of their own."""
    folder.mkdir(exist_ok=True)
    return _writing.write(folder, images, folder.with_suffix(".ledger"), near=False, workers=1, check=check)


def test_images_of_many_sizes_are_read_in_any_order(tmp_path: Path) -> None:
    """Each lies in the upper left corner of a canvas as high as the highest and as wide as the widest, on black."""
    records = [record(noise(*size, seed)) for seed, size in enumerate(SIZES)]
    images = keep(tmp_path / "images", records)
    rows = np.array([4, 0, 0, 3, 2, 1])
    pixels, extents = images.read(rows)
    assert (len(images), images.canvas) == (5, (12, 12))
    assert pixels.shape == (6, 12, 12, 3)
    assert extents is not None
    for row, canvas, (height, width) in zip(rows, pixels, extents, strict=True):
        np.testing.assert_array_equal(canvas[:height, :width], records[row].pixels)
        np.testing.assert_array_equal(images.image(int(row)), records[row].pixels)
        assert not canvas[height:].any()
        assert not canvas[:, width:].any()


def test_what_lay_on_a_canvas_is_gone(tmp_path: Path) -> None:
    """A canvas that is filled again shows nothing of the image before."""
    images = keep(tmp_path / "images", [record(noise(*size, seed)) for seed, size in enumerate(SIZES)])
    used = np.full((5, *images.canvas, 3), 77, dtype=np.uint8)
    images.fill(np.arange(5), used)
    np.testing.assert_array_equal(used, images.read(np.arange(5))[0])


def test_packed_images_are_what_they_were(tmp_path: Path) -> None:
    """The file is NumPy's own, byte for byte, and is mapped rather than loaded; every image fills its canvas."""
    pixels = np.random.default_rng(0).integers(0, 256, (7, 4, 6, 3), dtype=np.uint8)
    write(tmp_path / "images", Images(pixels, list("abcdefg"), np.zeros(7, np.int64), ["a"], None))
    np.save(tmp_path / "expected.npy", pixels)
    assert [file.name for file in (tmp_path / "images").iterdir()] == ["pixels.npy"]
    assert (tmp_path / "images" / "pixels.npy").read_bytes() == (tmp_path / "expected.npy").read_bytes()
    images = stored(tmp_path / "images")
    assert isinstance(images, Packed)
    assert isinstance(images.parts[0], np.memmap)
    assert (len(images), images.canvas) == (7, (4, 6))
    read, extents = images.read(np.array([6, 2, 2]))
    assert extents is None
    np.testing.assert_array_equal(read, pixels[[6, 2, 2]])


def test_many_packed_images_lie_in_several_files(tmp_path: Path, monkeypatch) -> None:
    """Each is of NumPy's format and of the bounded size; images are read across them as from one, and said where."""
    monkeypatch.setattr(_writing, "SHARD", 128 + 3 * 72)  # three images of 4×6
    pixels = np.random.default_rng(0).integers(0, 256, (7, 4, 6, 3), dtype=np.uint8)
    write(tmp_path / "images", Images(pixels, list("abcdefg"), np.zeros(7, np.int64), ["a"], None))
    files = sorted((tmp_path / "images").iterdir())
    assert [file.name for file in files] == ["pixels-00000.npy", "pixels-00001.npy", "pixels-00002.npy"]
    assert [len(np.load(file)) for file in files] == [3, 3, 1]
    images = stored(tmp_path / "images")
    assert (len(images), images.canvas, images.bytes) == (7, (4, 6), 7 * 72)
    rows = np.array([6, 0, 5, 2, 2, 3])
    canvases = np.empty((6, 4, 6, 3), np.uint8)
    assert images.fill(rows, canvases) is None
    np.testing.assert_array_equal(canvases, pixels[rows])
    np.testing.assert_array_equal(images.read(rows)[0], pixels[rows])
    for row in range(7):
        np.testing.assert_array_equal(images.image(row), pixels[row])
        assert images.file(row) == files[row // 3].name


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_file_decodes_as_pillow_decodes_it(tmp_path: Path, kind: str) -> None:
    """JPEG and PNG are read to the pixels that Pillow gives for the whole file."""
    content = record(noise(40, 30), kind).content
    images = keep(tmp_path / "images", [Record(noise(40, 30), content)])
    np.testing.assert_array_equal(images.image(0), np.asarray(Image.open(BytesIO(content)).convert("RGB")))


def test_shards_are_bounded(tmp_path: Path) -> None:
    """A shard holds what fits into its size; an image that is larger by itself has one of its own."""
    records = [Record(noise(1, 1), bytes(size)) for size in (40, 40, 30, 500, 10, 100)]
    keep(tmp_path / "images", records, size=100)
    sizes = [file.stat().st_size for file in sorted((tmp_path / "images").glob("shard-*.bin"))]
    assert sizes == [80, 30, 500, 10, 100]


def test_the_same_images_are_the_same_bytes(tmp_path: Path) -> None:
    """However the threads that read ahead take turns, shards and index come out equal, in the order of the rows."""
    files = [tmp_path / f"{row:03d}.png" for row in range(60)]
    for row, file in enumerate(files):
        Image.fromarray(noise(3 + row % 7, 9, row)).save(file)

    def keep(content: bytes) -> Record:
        return Record(decode(content), content)

    given = Files(files, Path.read_bytes, keep, str, encoded=True)
    images = Images(given, [file.name for file in files], np.zeros(60, np.int64), ["a"], None)
    one, two = (write(tmp_path / name, images) for name in ("one", "two"))
    shards = [(tmp_path / name / "shard-00000.bin").read_bytes() for name in ("one", "two")]
    assert shards[0] == shards[1] == b"".join(file.read_bytes() for file in files)
    np.testing.assert_equal(one.kept, two.kept)
    assert one.hashes.to_pylist() == [given.read(file).sha256 for file in files]


def test_a_batch_gives_back_what_was_put_in() -> None:
    """In order, the unusable ones in their places."""
    good = [kept(record(noise(4 + row, 6)), False) for row in range(3)]
    bad = Bad("empty", "no bytes", 0, b"md5")
    for results in ([bad, *good, bad], [good[0], bad, bad, good[1]], [bad], good, []):
        there = list(batch(results).each())
        assert [each.content if isinstance(each, Kept) else each for each in there] == [
            each.content if isinstance(each, Kept) else each for each in results
        ]
        np.testing.assert_equal(batch(there).lines, batch(results).lines)


def test_a_file_that_changes_while_it_is_read_is_another_one_the_next_time(tmp_path: Path) -> None:
    """Its key is that of before."""
    file = tmp_path / "a.png"

    def content(_: object) -> bytes:
        before = file.read_bytes()
        file.write_bytes(b"changed")
        return before

    file.write_bytes(record(noise(4, 6)).content or b"")
    reading = Reading(content, lambda found: Record(decode(found), found), lambda _: str(file.stat().st_size), False)
    key = reading.key("a", file)
    image = reading("a", file)
    assert isinstance(image, Kept)
    assert image.line[0] == key != reading.key("a", file)


def test_writing_can_be_stopped(tmp_path: Path) -> None:
    """`check` is asked every few images, so a signal need not wait for the last one."""
    asked = []

    def check() -> None:
        asked.append(1)
        if len(asked) == 3:
            raise KeyboardInterrupt

    pixels = np.zeros((600, 2, 2, 3), np.uint8)
    images = Images(pixels, [str(row) for row in range(600)], np.zeros(600, int), ["a"], None)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "images", images, check)
    assert len(asked) == 3


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.mark.parametrize("damage", [flip, cut])
def test_a_damaged_image_is_named(tmp_path: Path, damage) -> None:
    """One wrong bit, which a decoder would show as another image, or a file cut short: id, row and file are said."""
    records = [record(noise(30, 30, seed)) for seed in range(3)]
    keep(tmp_path / "images", records)
    damage(tmp_path / "images" / "shard-00000.bin")
    images = stored(tmp_path / "images")
    np.testing.assert_array_equal(images.image(0), records[0].pixels)
    with pytest.raises(DataError, match=r"image-1 \(image 1\) is damaged in .*images/shard-00000.bin, \d+ bytes from"):
        images.read(np.array([0, 1]))


def test_threads_do_not_disturb_each_other(tmp_path: Path) -> None:
    """Eight threads that read at once get what one gets."""
    images = keep(tmp_path / "images", [record(noise(6 + seed % 5, 9, seed)) for seed in range(50)], size=3000)
    orders = [np.random.default_rng(seed).permutation(50) for seed in range(40)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(images.read, orders))
    expected = images.read(np.arange(50))[0]
    assert all(np.array_equal(pixels, expected[order]) for (pixels, _), order in zip(found, orders, strict=True))


def test_memory_does_not_grow_with_the_images(tmp_path: Path) -> None:
    """Batches of 20,000 images take the memory of batches of 2,000, but for 100 bytes an image that say where it is."""
    some = [record(noise(16, 16, seed)) for seed in range(20)]
    peaks = []
    for count in (2_000, 20_000):
        folder = tmp_path / str(count)
        keep(folder, [some[row % 20] for row in range(count)])
        tracemalloc.start()
        images = stored(folder)
        for rows in np.random.default_rng(0).permutation(count)[:2_000].reshape(-1, 100):
            images.read(rows)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 18_000 * 100
