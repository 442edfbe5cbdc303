"""Sources of images: each gives the pixels it promises, or says in a sentence why it cannot."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from pipeline import plugins
from pipeline.errors import ParamsError
from stages.datasets import _writing, cifar10, digits, folder
from stages.datasets._images import DataError, Images, Record
from stages.datasets._storage import decode

CROP = {"store": folder.OneShape(shape=(4, 6), fit="crop"), "labels": None}


def kept(images: Images) -> np.ndarray:
    """The pixels of all images, of one shape."""
    return np.stack([images.record(row).pixels for row in range(len(images))])


def stored(images: Images, out: Path) -> dict:
    """What is written of the images, and the columns of their index."""
    out.mkdir()
    return _writing.write(out, images, lambda: None)


def resized(root: Path, shape: tuple[int, int], fit: str = "crop") -> np.ndarray:
    """The pixels of all images below `root`, resized."""
    return kept(folder.load(path=str(root), store=folder.OneShape(shape=shape, fit=fit), labels=None))


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
    assert kept(images)[:, 0, 0].tolist() == [[4, 5, 6], [1, 2, 3], [7, 8, 9]]


def test_an_image_of_the_right_size_is_taken_as_it_is(tmp_path: Path) -> None:
    """Neither fit touches a pixel where nothing is to be resized."""
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    (tmp_path / "a").mkdir()
    Image.fromarray(pixels).save(tmp_path / "a/x.png")
    for fit in ("crop", "stretch"):
        np.testing.assert_array_equal(resized(tmp_path, (4, 6), fit)[0], pixels)


def test_crop_cuts_both_sides_and_stretch_keeps_them(tmp_path: Path) -> None:
    """A wide image with red ends: cropped to its middle they are gone, stretched they are still there."""
    pixels = np.zeros((8, 32, 3), dtype=np.uint8)
    pixels[:, :8, 0] = pixels[:, -8:, 0] = 255
    (tmp_path / "a").mkdir()
    Image.fromarray(pixels).save(tmp_path / "a/x.png")
    cropped, stretched = (resized(tmp_path, (8, 8), fit)[0] for fit in ("crop", "stretch"))
    assert cropped.max() == 0
    assert stretched[:, [0, -1], 0].min() > 200


def test_shrinking_averages(tmp_path: Path) -> None:
    """A fine checkerboard becomes gray, not black or white: the resize is antialiased."""
    board = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    (tmp_path / "a").mkdir()
    Image.fromarray(board).save(tmp_path / "a/x.png")
    pixels = resized(tmp_path, (4, 4))
    assert abs(pixels.astype(int) - 127).max() < 10


@pytest.mark.parametrize("size", [(8, 12), (64, 96), (100, 150)])
def test_a_large_photograph_is_shrunk_faithfully(tmp_path: Path, size: tuple[int, int]) -> None:
    """A JPEG decoded at a lower scale is the one decoded in full, within a few levels of 255."""
    stripes = 128 + 100 * np.sin(np.add.outer(np.arange(512), np.arange(768)) * (2 * np.pi / 12))
    (tmp_path / "a").mkdir()
    Image.fromarray(stripes.astype(np.uint8)).save(tmp_path / "a/x.jpg", quality=95)
    pixels = resized(tmp_path, size)[0, ..., 0]
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
    turned = kept(folder.load(path=str(tmp_path), **CROP))[0]
    assert (turned[0] == 255).all()
    assert (turned[1:] == 0).all()


def photo(height: int, width: int, seed: int = 0) -> Image.Image:
    """Smooth colors, as JPEG likes them."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encoded(root: Path, short_side: int = 32, quality: int = 90) -> list[Record]:
    """The records of all images below `root`, kept encoded."""
    store = folder.ShortSide(short_side=short_side, quality=quality)
    images = folder.load(path=str(root), store=store, labels=None)
    return [images.record(row) for row in range(len(images))]


def test_a_small_jpeg_is_kept_byte_for_byte(tmp_path: Path) -> None:
    """Upright, RGB and small enough, or just so: what is kept is the file."""
    (tmp_path / "a").mkdir()
    photo(32, 48).save(tmp_path / "a/exact.jpg")
    photo(20, 20).save(tmp_path / "a/small.jpg")
    for record, file in zip(encoded(tmp_path), sorted(tmp_path.rglob("*.jpg")), strict=True):
        assert record.content == file.read_bytes()
        np.testing.assert_array_equal(record.pixels, np.asarray(Image.open(file)))


def test_other_small_images_keep_their_pixels(tmp_path: Path) -> None:
    """A PNG, a gray JPEG, a palette and a JPEG held sideways become PNGs, pixel for pixel what they show."""
    (tmp_path / "a").mkdir()
    sideways = Image.Exif()
    sideways[0x0112] = 6
    shown = {
        "gray.jpg": photo(20, 30).convert("L"),
        "palette.png": photo(20, 30).quantize(16),
        "plain.png": photo(20, 30),
        "sideways.jpg": photo(20, 30),
    }
    for name, image in shown.items():
        image.save(tmp_path / "a" / name, **({"exif": sideways} if name == "sideways.jpg" else {}))
    for record, name in zip(encoded(tmp_path), shown, strict=True):
        pixels = np.asarray(Image.open(tmp_path / "a" / name).convert("RGB"))
        assert record.content.startswith(b"\x89PNG")
        np.testing.assert_array_equal(record.pixels, np.rot90(pixels, -1) if name == "sideways.jpg" else pixels)
        np.testing.assert_array_equal(record.pixels, decode(record.content))


@pytest.mark.parametrize(("suffix", "size"), [("png", (100, 64)), ("jpg", (64, 100)), ("jpg", (700, 800))])
def test_a_large_image_is_resized_to_its_short_side(tmp_path: Path, suffix: str, size: tuple[int, int]) -> None:
    """It becomes a JPEG of that quality with the proportions it had, and looks as the original does."""
    (tmp_path / "a").mkdir()
    photo(*size).save(tmp_path / f"a/x.{suffix}", quality=95)
    [record] = encoded(tmp_path, quality=95)
    assert record.content.startswith(b"\xff\xd8")
    height, width = (round(side * 32 / min(size)) for side in size)
    assert record.pixels.shape == (height, width, 3)
    expected = np.asarray(photo(*size).resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    assert abs(record.pixels - expected).mean() < 6
    [worse] = encoded(tmp_path, quality=30)
    assert len(worse.content) < len(record.content)


@pytest.mark.parametrize("size", [(10, 90), (200, 40)])
def test_a_long_image_is_cut_to_twice_its_short_side(tmp_path: Path, size: tuple[int, int]) -> None:
    """Its middle is kept, so that one panorama does not make the canvas of every image long."""
    (tmp_path / "a").mkdir()
    pixels = np.zeros((*size, 3), dtype=np.uint8)
    kept_sides = [min(side, 2 * min(size)) for side in size]
    middle = (slice((side - left) // 2, (side + left) // 2) for side, left in zip(size, kept_sides, strict=True))
    pixels[tuple(middle)] = 255
    Image.fromarray(pixels).save(tmp_path / "a/x.png")
    [record] = encoded(tmp_path)
    short = min(*size, 32)
    assert sorted(record.pixels.shape[:2]) == [short, 2 * short]
    assert record.pixels.min() > 240


def test_unreadable_files_are_named_all_at_once(tmp_path: Path) -> None:
    """The first damaged file is named with the reason, then the others, and what to do."""
    zoo(tmp_path, 3)
    for name in ("cat/01.png", "dog/00.png"):
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    (tmp_path / "dog/02.png").write_text("no image at all")
    with pytest.raises(DataError, match=r"cat/01.png cannot be read \(.+\), nor can 2 others: dog/00.png, dog/02.png"):
        stored(folder.load(path=str(tmp_path), **CROP), tmp_path / "out")


def test_deep_pixels_are_refused_rather_than_clipped(tmp_path: Path) -> None:
    """A 16-bit image would turn white without a word."""
    (tmp_path / "a").mkdir()
    Image.fromarray(np.full((4, 6), 60_000, dtype=np.uint16)).save(tmp_path / "a/x.png")
    with pytest.raises(DataError, match=r"a/x.png cannot be read \(more than 8 bits per channel"):
        stored(folder.load(path=str(tmp_path), **CROP), tmp_path / "out")


def test_an_empty_class_is_refused(tmp_path: Path) -> None:
    """A class folder without images is more likely a mistake than a class."""
    zoo(tmp_path, 2)
    (tmp_path / "bird").mkdir()
    with pytest.raises(DataError, match="class 'bird' has no images"):
        folder.load(path=str(tmp_path), **CROP)


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    """The error says what counts as an image."""
    with pytest.raises(DataError, match=r"has no images: it holds none of .bmp .jpeg"):
        folder.load(path=str(tmp_path), **CROP)


@pytest.mark.parametrize(
    ("store", "sentence"),
    [
        ({"shape": [8, 8]}, r"store.*fit"),
        ({"short_side": 64}, r"store.*quality"),
        ({"short_side": 64, "quality": 101}, r"store.*quality.*101"),
        ({"short_side": 64, "quality": 95, "fit": "crop"}, r"store.*fit"),
    ],
)
def test_a_store_is_one_or_the_other(store: dict, sentence: str) -> None:
    """Its keys say which, and the error speaks of that one."""
    source = {"name": "folder", "path": "data/raw/birds", "store": store, "labels": None}
    with pytest.raises(ParamsError, match=sentence):
        plugins.specify("datasets", source, "datasets.birds.source")


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
