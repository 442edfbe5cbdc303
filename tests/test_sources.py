"""Sources of images: each gives the pixels it promises, or says in a sentence why it cannot."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from pipeline import plugins
from pipeline.errors import ParamsError
from stages.datasets import cifar10, digits, folder
from stages.datasets._images import DataError

CROP = {"shape": (4, 6), "fit": "crop", "labels": None}


def paint(path: Path, color: tuple[int, int, int], size: tuple[int, int] = (4, 6)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size[::-1], color).save(path)


def zoo(root: Path, n: int) -> Path:
    """A folder of n cats and n dogs, each image of another color."""
    for row in range(n):
        paint(root / "cat" / f"{row:02d}.png", (row, 0, 0))
        paint(root / "dog" / f"{row:02d}.png", (0, row + 1, 0))
    return root


def test_digits_are_those_of_scikit_learn() -> None:
    """Gray 0…16 becomes 0…255, to the nearest integer, in three equal channels; labels are the digits."""
    images, source = digits.load(path=""), load_digits()
    assert images.pixels.shape == (1797, 8, 8, 3)
    for channel in range(3):
        assert abs(images.pixels[..., channel] - source.images * 255 / 16).max() <= 0.5
    np.testing.assert_array_equal(images.labels, source.target)
    assert images.ids[:2] == ["digits/0000", "digits/0001"]
    assert images.classes == list("0123456789")


def test_missing_cifar10_says_what_to_do(tmp_path: Path) -> None:
    """Nothing is downloaded unless asked for."""
    with pytest.raises(DataError, match=r"cifar-10-batches-py is missing or damaged.*`contrail fetch cifar10`"):
        cifar10.load(path=str(tmp_path / "cifar-10-batches-py"))
    assert not any(tmp_path.iterdir())


def test_a_folder_has_one_class_per_subfolder(tmp_path: Path) -> None:
    """Ids are paths, classes are sorted, an image outside the classes has no label, other files do not count."""
    paint(tmp_path / "dog/b.png", (1, 2, 3))
    paint(tmp_path / "cat/2024/a.BMP", (4, 5, 6))
    paint(tmp_path / "z.png", (7, 8, 9))
    paint(tmp_path / ".thumbnails/a.png", (0, 0, 0))
    paint(tmp_path / "dog/._b.png", (0, 0, 0))
    (tmp_path / "dog/notes.txt").write_text("not an image")
    images = folder.load(path=str(tmp_path), **CROP)
    assert images.ids == ["cat/2024/a.BMP", "dog/b.png", "z.png"]
    assert images.classes == ["cat", "dog"]
    assert images.labels.tolist() == [0, 1, -1]
    assert images.pixels[:, 0, 0].tolist() == [[4, 5, 6], [1, 2, 3], [7, 8, 9]]


def test_an_image_of_the_right_size_is_taken_as_it_is(tmp_path: Path) -> None:
    """Neither fit touches a pixel where nothing is to be resized."""
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    (tmp_path / "a").mkdir()
    Image.fromarray(pixels).save(tmp_path / "a/x.png")
    for fit in ("crop", "stretch"):
        images = folder.load(path=str(tmp_path), **CROP | {"fit": fit})
        np.testing.assert_array_equal(images.pixels[0], pixels)


def test_crop_cuts_both_sides_and_stretch_keeps_them(tmp_path: Path) -> None:
    """A wide image with red ends: cropped to its middle they are gone, stretched they are still there."""
    pixels = np.zeros((8, 32, 3), dtype=np.uint8)
    pixels[:, :8, 0] = pixels[:, -8:, 0] = 255
    (tmp_path / "a").mkdir()
    Image.fromarray(pixels).save(tmp_path / "a/x.png")
    cropped, stretched = (
        folder.load(path=str(tmp_path), shape=(8, 8), fit=fit, labels=None).pixels[0] for fit in ("crop", "stretch")
    )
    assert cropped.max() == 0
    assert stretched[:, [0, -1], 0].min() > 200


def test_shrinking_averages(tmp_path: Path) -> None:
    """A fine checkerboard becomes gray, not black or white: the resize is antialiased."""
    board = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    (tmp_path / "a").mkdir()
    Image.fromarray(board).save(tmp_path / "a/x.png")
    pixels = folder.load(path=str(tmp_path), shape=(4, 4), fit="crop", labels=None).pixels
    assert abs(pixels.astype(int) - 127).max() < 10


@pytest.mark.parametrize("size", [(8, 12), (64, 96), (100, 150)])
def test_a_large_photograph_is_shrunk_faithfully(tmp_path: Path, size: tuple[int, int]) -> None:
    """A JPEG decoded at a lower scale is the one decoded in full, within a few levels of 255."""
    stripes = 128 + 100 * np.sin(np.add.outer(np.arange(512), np.arange(768)) * (2 * np.pi / 12))
    (tmp_path / "a").mkdir()
    Image.fromarray(stripes.astype(np.uint8)).save(tmp_path / "a/x.jpg", quality=95)
    pixels = folder.load(path=str(tmp_path), shape=size, fit="crop", labels=None).pixels[0, ..., 0]
    with Image.open(tmp_path / "a/x.jpg") as whole:
        expected = np.asarray(whole.resize(size[::-1], Image.Resampling.BICUBIC)).astype(int)
    assert abs(pixels - expected).max() < 5


def test_a_camera_held_sideways_is_heard(tmp_path: Path) -> None:
    """An EXIF orientation of 6 turns the image: its left edge becomes the top."""
    pixels = np.zeros((6, 4, 3), dtype=np.uint8)
    pixels[:, 0] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "a").mkdir()
    Image.fromarray(pixels).save(tmp_path / "a/x.png", exif=exif)
    turned = folder.load(path=str(tmp_path), **CROP).pixels[0]
    assert (turned[0] == 255).all()
    assert (turned[1:] == 0).all()


def test_unreadable_files_are_named_all_at_once(tmp_path: Path) -> None:
    """The first damaged file is named with the reason, then the others, and what to do."""
    zoo(tmp_path, 3)
    for name in ("cat/01.png", "dog/00.png"):
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    (tmp_path / "dog/02.png").write_text("no image at all")
    with pytest.raises(DataError, match=r"cat/01.png cannot be read \(.+\), nor can 2 others: dog/00.png, dog/02.png"):
        folder.load(path=str(tmp_path), **CROP)


def test_deep_pixels_are_refused_rather_than_clipped(tmp_path: Path) -> None:
    """A 16-bit image would turn white without a word."""
    (tmp_path / "a").mkdir()
    Image.fromarray(np.full((4, 6), 60_000, dtype=np.uint16)).save(tmp_path / "a/x.png")
    with pytest.raises(DataError, match=r"a/x.png cannot be read \(more than 8 bits per channel"):
        folder.load(path=str(tmp_path), **CROP)


def test_an_empty_class_is_refused(tmp_path: Path) -> None:
    """A class folder without images is more likely a mistake than a class."""
    zoo(tmp_path, 2)
    (tmp_path / "bird").mkdir()
    with pytest.raises(DataError, match="class 'bird' has no images"):
        folder.load(path=str(tmp_path), **CROP)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    """The error says where the images were expected."""
    with pytest.raises(DataError, match="nowhere is not a folder: put the images there"):
        folder.load(path=str(tmp_path / "nowhere"), **CROP)


def test_a_table_labels_a_few_of_many(tmp_path: Path) -> None:
    """Images that the table does not list have no label; folders mean nothing then."""
    zoo(tmp_path, 2)
    (tmp_path / "labels.csv").write_text("file,label\ndog/01.png,wet\ncat/00.png,dry\n")
    images = folder.load(path=str(tmp_path), **CROP | {"labels": "labels.csv"})
    assert images.classes == ["dry", "wet"]
    assert dict(zip(images.ids, images.labels.tolist(), strict=True)) == {
        "cat/00.png": 0,
        "cat/01.png": -1,
        "dog/00.png": -1,
        "dog/01.png": 1,
    }


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        (None, "labels.csv is missing"),
        ("name,kind\ncat/00.png,dry\n", "needs a first line `file,label`"),
        ("file,label\n", "at least one label"),
        ("file,label\ncat/00.png,dry\ncat/77.png,dry\n", "line 3: there is no image 'cat/77.png'"),
        ("file,label\ncat/00.png,\n", "line 2: cat/00.png has an empty label"),
        ("file,label\ncat/00.png,dry\ncat/00.png,wet\n", "line 3: cat/00.png already has the label 'dry'"),
    ],
)
def test_a_wrong_table_is_refused(tmp_path: Path, table: str | None, sentence: str) -> None:
    """Each mistake in a table of labels is named with its line."""
    zoo(tmp_path, 1)
    if table is not None:
        (tmp_path / "labels.csv").write_text(table)
    with pytest.raises(DataError, match=sentence):
        folder.load(path=str(tmp_path), **CROP | {"labels": "labels.csv"})


def test_only_what_can_be_downloaded_has_a_fetcher() -> None:
    """`contrail fetch` finds CIFAR-10's, and says of digits that there is nothing to do."""
    assert plugins.fetcher("cifar10") is cifar10.fetch
    with pytest.raises(ParamsError, match="digits has nothing to download"):
        plugins.fetcher("digits")
