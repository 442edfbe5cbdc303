"""A perceptual hash of images, and all pairs of hashes that are near to one another.

pHash (Zauner 2010, "Implementation and benchmarking of perceptual image hash functions"): gray, 32×32, the 64 lowest
frequencies of a cosine transform, each above or not above the median of all but the mean. Re-encoding, resizing and
slight changes of color move a few of the 64 bits; two unrelated images differ in about 32.

Two hashes that differ in d bits differ in few of them in at least one of four bands of 16 bits, so only those with such
a band are compared (Norouzi et al. 2012, arXiv:1307.2982). Memory does not grow with the number of pairs.
"""

from collections.abc import Iterator
from functools import cache
from itertools import combinations

import numpy as np

SIDE = 32  # pixels of the gray image
LOW = 8  # frequencies of each axis
FLAT = 0  # the hash of an image without structure: it is near to none
LEVELS = 8  # of 256: an image whose gray values differ by less has none
BAND, BANDS = 16, 4  # bits
CHUNK = 1 << 20  # pairs that are compared at once

Pairs = tuple[np.ndarray, np.ndarray, np.ndarray]  # positions a < b, int64 (k,) each, and their distance, uint8 (k,)


@cache
def _cosines() -> np.ndarray:
    """The lowest rows of the cosine transform, in integers: the hash is the same on every machine."""
    angles = np.pi / SIDE * np.outer(np.arange(LOW), np.arange(SIDE) + 0.5)
    return np.rint(np.cos(angles) * 2**14).astype(np.int64)


def phash(pixels: np.ndarray) -> int:
    """The perceptual hash of an image, uint8 (h, w, 3): 64 bits, FLAT where nothing differs from the mean."""
    from PIL import Image

    small = Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BILINEAR, reducing_gap=1.0)
    gray = np.asarray(small.convert("L"), dtype=np.int64)
    if np.ptp(gray) < LEVELS:
        return FLAT
    waves = (_cosines() @ gray @ _cosines().T).ravel()
    above = waves > np.partition(waves[1:], LOW**2 // 2 - 1)[LOW**2 // 2 - 1]
    above[0] = False  # the mean says how bright, not what
    return int.from_bytes(np.packbits(above).tobytes(), "big")


def pairs(hashes: np.ndarray, distance: int) -> Iterator[Pairs]:
    """Every pair of different hashes, uint64 (n,), within `distance` bits: some at a time, each once or a few times."""
    for band in range(BANDS):
        keys = (hashes >> np.uint64(band * BAND)).astype(np.uint16)
        order = np.argsort(keys, kind="stable")
        starts = np.searchsorted(keys[order], np.arange(2**BAND + 1))
        for mask in _masks((distance + 1 + BANDS - 1 - band) // BANDS - 1):
            for one, other in _candidates(keys, order, starts, mask):
                apart = np.bitwise_count(hashes[one] ^ hashes[other])
                near = np.flatnonzero(apart <= distance)
                if len(near):
                    ends = one[near], other[near]
                    yield np.minimum(*ends), np.maximum(*ends), apart[near]


def _masks(radius: int) -> list[int]:
    """The differences of two bands that are within `radius` bits; none where it is negative."""
    bits = [1 << bit for bit in range(BAND)]
    return [sum(chosen) for count in range(radius + 1) for chosen in combinations(bits, count)]


def _candidates(
    keys: np.ndarray, order: np.ndarray, starts: np.ndarray, mask: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Positions of the pairs whose bands differ by `mask`, at most CHUNK (or one bucket) at a time.

    keys (n,), order: positions sorted by key; starts (2**BAND + 1,): where each key starts in `order`.
    """
    partner = keys[order] ^ np.uint16(mask)
    first = starts[partner] if mask else np.arange(1, len(order) + 1)
    counts = starts[partner + np.int64(1)] - first
    counts[partner < keys[order]] = 0  # the other one of the two finds this pair
    done = np.concatenate([[0], np.cumsum(counts)])
    begin = 0
    while begin < len(order):
        end = max(begin + 1, int(np.searchsorted(done, done[begin] + CHUNK, side="right")) - 1)
        some = counts[begin:end]
        if total := done[end] - done[begin]:
            offset = np.arange(total) - np.repeat(done[begin:end] - done[begin], some)
            yield np.repeat(order[begin:end], some), order[np.repeat(first[begin:end], some) + offset]
        begin = end
