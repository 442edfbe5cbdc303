"""How images are fitted to what is kept: pixels of one shape, or encoded files of their own shapes."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stages.datasets._fitting import OneShape, ShortSide, fitted
from stages.datasets._images import Record
from stages.datasets._storage import decode


def resized(root: Path, shape: tuple[int, int], fit: str = "crop") -> np.ndarray:
    """The pixels of all images below `root`, resized."""
    store = OneShape(shape=shape, fit=fit)
    return np.stack([fitted(file.read_bytes(), store).pixels for file in sorted(root.rglob("*.*"))])


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
    turned = resized(tmp_path, (4, 6))[0]
    assert (turned[0] == 255).all()
    assert (turned[1:] == 0).all()


def photo(height: int, width: int, seed: int = 0) -> Image.Image:
    """Smooth colors, as JPEG likes them."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encoded(root: Path, short_side: int = 32, quality: int = 90) -> list[Record]:
    """The records of all images below `root`, kept encoded."""
    store = ShortSide(short_side=short_side, quality=quality)
    return [fitted(file.read_bytes(), store) for file in sorted(root.rglob("*.*"))]


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


def test_a_record_says_how_it_was_treated(tmp_path: Path) -> None:
    """What decoding did to an image goes along, in either store."""
    (tmp_path / "a").mkdir()
    photo(20, 30).convert("L").save(tmp_path / "a/gray.png")
    photo(20, 30).save(tmp_path / "a/plain.png")
    content = (tmp_path / "a/gray.png").read_bytes()
    assert [record.treatment for record in encoded(tmp_path)] == [("gray",), ()]
    assert [record.treatment for record in encoded(tmp_path, short_side=8)] == [("gray",), ()]
    assert fitted(content, OneShape(shape=(4, 4), fit="stretch")).treatment == ("gray",)
