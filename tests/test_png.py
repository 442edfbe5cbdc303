"""Plain PNG files are decoded with less of Pillow: no one can tell, but by the time it takes.

What is taken, and what is said of what is not, is compared with Pillow's own way through the same bytes.
"""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from stages.datasets import _decoding, _png


def encoded(pixels: np.ndarray, **options) -> bytes:
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", **options)
    return stream.getvalue()


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Waves and noise, so that every filter of PNG is used."""
    draws = np.random.default_rng(seed)
    waves = np.add.outer(np.arange(height) * 3, np.arange(width) * 5)[..., None] + np.array([0, 40, 90])
    return (waves + draws.integers(0, 30, waves.shape)).astype(np.uint8)


def outcome(content: bytes) -> tuple:
    """The pixels, or the kind of what is wrong."""
    try:
        found = _decoding.opened(content, 32)
    except _decoding.Unusable as error:
        return (error.kind, error.words)
    return (np.asarray(found.image).tobytes(), *found[1:])


@pytest.fixture
def compared(monkeypatch):
    """A function that asserts that both ways go to the same end."""

    def both(content: bytes) -> None:
        short = outcome(content)
        with monkeypatch.context() as patch:
            patch.setattr(_png, "plain", lambda content: None)
            assert short == outcome(content)

    return both


@pytest.mark.parametrize("size", [(2, 2), (1, 40), (7, 31), (32, 32), (300, 200)])
@pytest.mark.parametrize("level", [0, 1, 9])
def test_plain_images_are_those_of_pillow(compared, size: tuple[int, int], level: int) -> None:
    """Of any size and compression, pixel for pixel; and they are recognized."""
    content = encoded(noise(*size), compress_level=level)
    assert _png.plain(content) is not None
    compared(content)
    if min(size) > 1:
        np.testing.assert_array_equal(np.asarray(_decoding.opened(content, 32).image), noise(*size))


def test_anything_else_is_left_to_pillow() -> None:
    """Gray, palette, alpha, 16 bits, and whatever carries another chunk: a profile, EXIF, a text, a gamma."""
    pixels, exif, text = noise(9, 9), Image.Exif(), PngImagePlugin.PngInfo()
    exif[0x0112] = 6
    text.add_text("by", "me")
    others = [encoded(pixels[..., 0]), encoded(np.dstack([pixels, pixels[..., :1]])), encoded(pixels, exif=exif)]
    others += [encoded(pixels, pnginfo=text), encoded(pixels, icc_profile=b"profile"), encoded(pixels, dpi=(72, 72))]
    others += [encoded(pixels[..., 0].astype(np.uint16)), b"", b"\x89PNG", encoded(pixels).replace(b"IEND", b"IENX")]
    assert [_png.plain(content) for content in others] == [None] * len(others)


def test_damage_ends_as_it_does_without(compared) -> None:
    """Cut anywhere, any byte changed, a chunk left out or twice, more behind the end: the same, in the same words."""
    whole = encoded(noise(12, 10))
    draws = np.random.default_rng(0)
    for cut in range(0, len(whole), 7):
        compared(whole[:cut])
    for place in draws.integers(0, len(whole), 150):
        changed = bytearray(whole)
        changed[place] ^= 1 << int(draws.integers(8))
        compared(bytes(changed))
    header, rest = whole[8:33], whole[33:]
    for content in (whole[:8] + rest, whole[:8] + header + header + rest, whole + b"more", whole[:33] + whole[-12:]):
        compared(content)


def test_pixels_that_do_not_suffice_are_noticed(compared) -> None:
    """Chunks with right checksums around half a picture."""
    half = encoded(noise(20, 20))
    plain = _png.plain(half)
    assert plain is not None
    data = plain.data[: len(plain.data) // 2]
    stream = BytesIO()
    stream.write(half[:33])
    PngImagePlugin.putchunk(stream, b"IDAT", data)
    PngImagePlugin.putchunk(stream, b"IEND", b"")
    assert _png.decoded(_png.Plain(plain.size, data)) is None
    compared(stream.getvalue())
