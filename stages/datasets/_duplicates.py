"""Images that are there more than once: equal ones by their sha256, nearly equal ones by a perceptual hash.

A train or validation image that equals or nearly equals a test image *leaks*: the test would ask for what was learned
by heart. Pairs count for that, not chains of them; groups of near duplicates are chains.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from stages.datasets._perceptual import FLAT, pairs

SHOWN = 2  # examples of each distance that are kept
EQUAL = -1  # the distance of images that are equal, pixel for pixel
NONE = np.iinfo(np.int64).max  # in place of a row
HELD = 1 << 20  # edges that wait to be joined


class Findings(NamedTuple):
    """What is there more than once.

    leaking: bool (n,), the train and validation images that equal or nearly equal a test image.
    duplicates, leaks: for summary.json.
    """

    leaking: np.ndarray
    duplicates: dict[str, Any]
    leaks: dict[str, Any]


def find(
    ids: Sequence[str],
    hashes: pa.Array,
    perceptual: np.ndarray | None,
    near: int | None,
    splits: np.ndarray,
    labels: np.ndarray,
) -> Findings:
    """Look at n images for equal ones, and for those within `near` bits; None: only for equal ones.

    hashes: the sha256 of each, str (n,). perceptual: uint64 (n,), not read without `near`. splits: (n,) of train,
    validation and test. labels: int64 (n,), -1 for none.
    """
    codes = hashes.dictionary_encode().indices.to_numpy()
    tested = splits == "test"
    across, within = Examples(), Examples()
    equal = _Keys(codes, np.arange(len(codes)), tested)
    across.add(equal.test, equal.other, EQUAL)
    within.add(equal.first, equal.second(tested), EQUAL)
    meets = (equal.test[codes] < NONE) & (equal.other[codes] < NONE)
    same, groups = int((meets & tested).sum()), None
    if near is not None:
        assert perceptual is not None
        nearly, groups = _near(perceptual, near, codes, tested, across, within)
        meets |= nearly
    duplicates = {
        "equal": _sizes(codes),
        "near": groups,
        "contradictions": _contradictions(codes, labels),
        "examples": within.told(ids, splits),
    }
    leaks = {
        "test": int((meets & tested).sum()),
        "equal": same,
        "others": int((meets & ~tested).sum()),
        "examples": across.told(ids, splits),
    }
    return Findings(meets & ~tested, duplicates, leaks)


class Examples:
    """The first SHOWN pairs of rows of each distance, of all that are added."""

    def __init__(self) -> None:
        self._pairs = np.empty((0, 3), dtype=np.int64)  # distance, row, row

    def add(self, one: np.ndarray, other: np.ndarray, distance: np.ndarray | int) -> None:
        """Rows (k,), NONE in either for no pair, and how far apart they are in bits, or EQUAL."""
        whole = np.flatnonzero((one < NONE) & (other < NONE))
        apart = np.broadcast_to(distance, one.shape)[whole]
        added = _first_of_each(np.stack([apart, one[whole], other[whole]], axis=1).astype(np.int64))
        self._pairs = _first_of_each(np.unique(np.concatenate([self._pairs, added]), axis=0))

    def told(self, ids: Sequence[str], splits: np.ndarray) -> list[dict[str, Any]]:
        """In words: the two ids, their splits, and the distance in bits, None for equal images."""
        return [
            {
                "ids": [ids[one], ids[other]],
                "splits": [str(splits[one]), str(splits[other])],
                "distance": None if apart == EQUAL else apart,
            }
            for apart, one, other in self._pairs.tolist()
        ]


def _first_of_each(lines: np.ndarray) -> np.ndarray:
    """The SHOWN lowest lines (k, 3) of each number in the first column, in order."""
    lines = lines[np.lexsort(lines.T[::-1])]
    return lines[np.arange(len(lines)) - np.searchsorted(lines[:, 0], lines[:, 0]) < SHOWN]


class _Keys:
    """The first row that has a key, the first test image and the first other image: int64 (keys,), NONE for none."""

    def __init__(self, keys: np.ndarray, rows: np.ndarray, tested: np.ndarray) -> None:
        self.keys, self.rows = keys, rows
        self.count = int(keys.max(initial=-1)) + 1
        self.first = self._first(np.ones(len(rows), bool))
        self.test = self._first(tested[rows])
        self.other = self._first(~tested[rows])

    def second(self, kind: np.ndarray) -> np.ndarray:
        """The first row after it that is of the same `kind` (n,) as the first row that has the key."""
        begin = self.first[self.keys]
        return self._first((self.rows != begin) & (kind[self.rows] == kind[begin]))

    def _first(self, chosen: np.ndarray) -> np.ndarray:
        found = np.full(self.count, NONE)
        np.minimum.at(found, self.keys[chosen], self.rows[chosen])
        return found


def _near(
    perceptual: np.ndarray, near: int, codes: np.ndarray, tested: np.ndarray, across: Examples, within: Examples
) -> tuple[np.ndarray, dict[str, int]]:
    """Whether a row is within `near` bits of one on the other side of the test, bool (n,); the sizes of groups."""
    rows = np.flatnonzero(perceptual != FLAT)
    hashes, of = np.unique(perceptual[rows], return_inverse=True)
    keys = _Keys(of, rows, tested)
    both = np.flatnonzero((keys.test < NONE) & (keys.other < NONE))
    both = both[codes[keys.test[both]] != codes[keys.other[both]]]
    across.add(keys.test[both], keys.other[both], 0)
    begin = keys.first[of]
    unlike = rows[(codes[rows] != codes[begin]) & (tested[rows] == tested[begin])]
    within.add(keys.first[of][np.isin(rows, unlike)], unlike, 0)
    has_test, has_other = keys.test < NONE, keys.other < NONE
    meets_test, meets_other = has_test.copy(), has_other.copy()
    joined = Components(len(hashes))
    for a, b, apart in pairs(hashes, near):
        for one, other in ((a, b), (b, a)):
            meets_test[one[has_test[other]]] = True
            meets_other[one[has_other[other]]] = True
            across.add(keys.test[one], keys.other[other], apart)
        alike = tested[keys.first[a]] == tested[keys.first[b]]
        within.add(keys.first[a][alike], keys.first[b][alike], apart[alike])
        joined.add(a, b)
    meets = np.zeros(len(perceptual), bool)
    meets[rows] = np.where(tested[rows], meets_other[of], meets_test[of])
    return meets, _sizes(joined.numbers()[of])


class Components:
    """What hangs together, of n nodes whose edges come some at a time and are not kept."""

    def __init__(self, count: int) -> None:
        self._numbers = np.arange(count)
        self._edges: list[np.ndarray] = []

    def add(self, one: np.ndarray, other: np.ndarray) -> None:
        """Edges between nodes (k,) and (k,)."""
        edges = self._numbers[np.stack([one, other])]
        self._edges.append(edges[:, edges[0] != edges[1]])
        if sum(waiting.shape[1] for waiting in self._edges) > HELD:
            self.numbers()

    def numbers(self) -> np.ndarray:
        """The number of the component of each node, int (n,)."""
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        if self._edges:
            edges, count = np.concatenate(self._edges, axis=1), len(self._numbers)
            graph = coo_array((np.ones(edges.shape[1], np.int8), (edges[0], edges[1])), shape=(count, count))
            self._numbers = connected_components(graph, directed=False)[1][self._numbers]
            self._edges = []
        return self._numbers


def _sizes(groups: np.ndarray) -> dict[str, int]:
    """Of groups (k,) by number: how many are of two or more images, of how many in all, and of how many at most."""
    sizes = np.bincount(groups)
    sizes = sizes[sizes > 1]
    return {"groups": len(sizes), "images": int(sizes.sum()), "largest": int(sizes.max(initial=0))}


def _contradictions(codes: np.ndarray, labels: np.ndarray) -> int:
    """How many images there are of which equal ones have different labels."""
    known = np.flatnonzero(labels >= 0)
    first = np.zeros(int(codes.max(initial=-1)) + 1, np.int64)
    first[codes[known[::-1]]] = labels[known[::-1]]
    return len(np.unique(codes[known][labels[known] != first[codes[known]]]))


def warnings(found: Findings, splits: np.ndarray) -> list[str]:
    """What the person who prepares the data should know, line by line; splits (n,), as they are now."""
    lines, leaks = [], found.leaks
    if leaks["test"]:
        nearly = "" if leaks["equal"] == leaks["test"] else " or nearly"
        told = f"warning: {leaks['test']} test images are, pixel for pixel{nearly}, also in train or validation"
        excluded = int((splits == "excluded").sum())
        lines.append(f"{told}: {excluded} images there are excluded" if excluded else told)
    if differing := found.duplicates["contradictions"]:
        lines.append(f"warning: {differing} images are there more than once, with different labels")
    return lines
