"""Images inside the page: pixels -> data URI, and the HTML that shows it."""

import base64
import io
from collections.abc import Iterable
from html import escape

import numpy as np
from PIL import Image

LARGEST = 64  # pixels a side kept in the page
LOSSLESS = 1 << 18  # sheets with more pixels than this are JPEG
TINY = 32  # pixels a side up to which pixels are shown as squares


def shrink(pixels: np.ndarray, largest: int = LARGEST) -> np.ndarray:
    """uint8 (h, w, 3) reduced so that no side is longer than `largest`, smaller images unchanged."""
    height, width = pixels.shape[:2]
    factor = largest / max(height, width)
    if factor >= 1:
        return pixels
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX))


def data_uri(pixels: np.ndarray) -> str:
    """uint8 (h, w, 3) -> data URI: PNG, or JPEG for large sheets."""
    stream = io.BytesIO()
    image = Image.fromarray(np.ascontiguousarray(pixels))
    if pixels.shape[0] * pixels.shape[1] > LOSSLESS:
        image.save(stream, "JPEG", quality=85)
        kind = "jpeg"
    else:
        image.save(stream, "PNG", optimize=True)
        kind = "png"
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode()}"


def tag(pixels: np.ndarray, words: str) -> str:
    """`<img>` of uint8 (h, w, 3) pixels; `words` say what it shows, on hover and aloud."""
    small = shrink(pixels)
    tiny = ' class="tiny"' if max(small.shape[:2]) <= TINY else ""
    words = escape(words)
    return f'<img{tiny} src="{data_uri(small)}" alt="{words}" title="{words}">'


def sheet(images: Iterable[np.ndarray], largest: int = TINY) -> tuple[np.ndarray, int]:
    """Images uint8 (h, w, 3) -> one image of tiles in a near-square grid, and the number of columns.

    A tile is as high and wide as the highest and widest image; smaller ones stand in its middle.
    """
    tiles = [shrink(image, largest) for image in images]
    height, width = np.max([tile.shape[:2] for tile in tiles], axis=0)
    columns = int(np.ceil(np.sqrt(len(tiles))))
    lines = -(-len(tiles) // columns)
    grid = np.zeros((lines * columns, height, width, 3), np.uint8)
    for place, tile in zip(grid, tiles, strict=False):
        top, left = (height - tile.shape[0]) // 2, (width - tile.shape[1]) // 2
        place[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    joined = grid.reshape(lines, columns, height, width, 3).swapaxes(1, 2)
    return joined.reshape(lines * height, columns * width, 3), columns
