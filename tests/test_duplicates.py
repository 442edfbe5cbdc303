"""Equal and nearly equal images, and what of the test leaks into training.

Claims:
- the perceptual hash stays where a picture is only re-encoded, resized or lightened, and is the same on every machine;
- all pairs within a distance are found, as by comparing all with all, and in bounded memory;
- leaks are pairs across the test's border, equal or near; groups of near duplicates are chains;
- `prepare` tells of them, and excludes them where it is told to.
"""

import json
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from prepared_data import prepared
from scipy.fft import dctn

from stages.datasets import _perceptual
from stages.datasets._duplicates import Components, Examples, Findings, find, warnings
from stages.datasets._perceptual import FLAT, pairs, phash


def bits(one: int, other: int) -> int:
    return (one ^ other).bit_count()


def photo(seed: int, side: int = 96) -> np.ndarray:
    """A picture of large and small shapes, uint8 (side, side, 3)."""
    draws = np.random.default_rng(seed)
    layers = [draws.normal(size=(cells, cells, 3)) / cells for cells in (3, 6, 12, 24)]
    sizes = [
        np.stack(
            [np.asarray(Image.fromarray(layer[..., c].astype(np.float32)).resize((side, side), 3)) for c in range(3)], 2
        )
        for layer in layers
    ]
    total = sum(sizes)
    return ((total - total.min()) / np.ptp(total) * 255).astype(np.uint8)


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    stream = BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream))


def test_a_copy_of_a_picture_has_nearly_its_hash() -> None:
    """Re-encoded, resized, lightened: at most 6 bits of 64 differ; other pictures differ in 12 and more."""
    photos = [photo(seed) for seed in range(40)]
    hashes = [phash(image) for image in photos]
    for image, own in zip(photos, hashes, strict=True):
        small = np.asarray(Image.fromarray(image).resize((41, 41)))
        lighter = np.clip(image.astype(int) * 0.8 + 40, 0, 255).astype(np.uint8)
        for copy in (jpeg(image, 60), small, lighter):
            assert bits(phash(copy), own) <= 6
    apart = [bits(one, other) for row, one in enumerate(hashes) for other in hashes[:row]]
    assert min(apart) >= 12
    assert 28 < np.mean(apart) < 34


def test_the_hash_is_the_sign_of_low_frequencies() -> None:
    """Against a cosine transform in floating point: the same bits, but where a frequency is at the median."""
    for seed in range(10):
        gray = np.asarray(Image.fromarray(photo(seed, 32)).convert("L"), float)
        waves = dctn(gray)[:8, :8].ravel()
        median = np.sort(waves[1:])[31]
        found = np.array([int(bit) for bit in f"{phash(photo(seed, 32)):064b}"])
        clear = abs(waves - median) > 1e-3 * abs(waves[1:]).max()
        clear[0] = False
        np.testing.assert_array_equal(found[clear], (waves > median)[clear])
        assert found[0] == 0


def test_hashes_are_what_they_were() -> None:
    """Known values: the arithmetic is in integers, so that another machine or version excludes the same images."""
    board = (np.indices((32, 32)) // 5).sum(0) % 2 * 200
    waves = 120 + 60 * (np.indices((32, 32)).prod(0) % 7 - 3) // 3
    found = [phash(np.repeat(image[..., None], 3, 2).astype(np.uint8)) for image in (board, waves)]
    assert found == [0x79A1F9A1A90101FE, 0x7D7D756175007D]


@pytest.mark.parametrize("level", [0, 7, 255])
def test_an_image_without_structure_is_near_to_none(level: int) -> None:
    """White tiles, and those with a little noise, are not copies of one another unless they are equal."""
    noise = np.random.default_rng(level).integers(0, 3, (40, 40, 3)).astype(np.uint8)
    assert phash(np.full((40, 40, 3), level, np.uint8)) == FLAT
    assert phash(np.clip(level + noise.astype(int), 0, 255).astype(np.uint8)) == FLAT


def clusters(seed: int, count: int = 12, size: int = 9, most: int = 14) -> np.ndarray:
    """Different hashes around `count` centers, up to `most` flips away, uint64."""
    draws = np.random.default_rng(seed)
    found = []
    for center in draws.integers(0, 2**63, count):
        for _ in range(size):
            flips = draws.choice(64, draws.integers(0, most), replace=False)
            found.append(int(center) ^ sum(1 << int(bit) for bit in flips))
    return np.unique(np.array(found, np.uint64))


def all_pairs(hashes: np.ndarray, distance: int) -> set[tuple[int, int]]:
    apart = np.bitwise_count(hashes[:, None] ^ hashes[None])
    return {(int(a), int(b)) for a, b in np.argwhere(apart <= distance) if a < b}


@pytest.mark.parametrize("distance", range(17))
def test_all_pairs_are_found(distance: int) -> None:
    """For every distance that params.yaml may ask for, the pairs are those of comparing all with all."""
    hashes = clusters(distance)
    found = set()
    for one, other, apart in pairs(hashes, distance):
        np.testing.assert_array_equal(apart, np.bitwise_count(hashes[one] ^ hashes[other]))
        found |= set(zip(one.tolist(), other.tolist(), strict=True))
    assert found == all_pairs(hashes, distance)
    assert distance < 2 or found


def test_a_pair_is_compared_once_a_band() -> None:
    """Two hashes that differ in one bit meet in the four bands, and no second time from the other end."""
    hashes = np.array([7 << 20, 7 << 20 | 1], np.uint64)
    assert [len(one) for one, _, _ in pairs(hashes, 4)] == [1, 1, 1, 1]
    assert [len(one) for one, _, _ in pairs(hashes, 3)] == [1, 1, 1]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 2**64 - 1), max_size=6), st.integers(0, 16), st.integers(0, 1000))
def test_no_bit_is_forgotten(centers: list[int], distance: int, seed: int) -> None:
    """A hash exactly `distance` bits away, whichever they are, is found; one more is not."""
    draws = np.random.default_rng(seed)
    flips = draws.permutation(64)[: distance + 1]
    near = [center ^ sum(1 << int(bit) for bit in flips[:distance]) for center in centers]
    far = [center ^ sum(1 << int(bit) for bit in flips) for center in centers]
    hashes = np.unique(np.array([*centers, *near, *far], np.uint64))
    found = {(int(a), int(b)) for one, other, _ in pairs(hashes, distance) for a, b in zip(one, other, strict=True)}
    assert found == all_pairs(hashes, distance)


def test_a_large_bucket_is_looked_at_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two thousand hashes that share a band: no piece is larger than CHUNK or one row, and none is lost."""
    monkeypatch.setattr(_perceptual, "CHUNK", 3000)
    hashes = np.arange(2000, dtype=np.uint64) << np.uint64(48)
    largest = 0

    def counted(*given: object) -> object:
        nonlocal largest
        for one, other in candidates(*given):
            largest = max(largest, len(one))
            yield one, other

    candidates = _perceptual._candidates
    monkeypatch.setattr(_perceptual, "_candidates", counted)
    found = {(int(a), int(b)) for one, other, _ in pairs(hashes, 1) for a, b in zip(one, other, strict=True)}
    assert found == all_pairs(hashes, 1)
    assert 1000 < largest <= 3000


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), max_size=40), st.integers(1, 5))
def test_components_are_the_same_in_any_portions(edges: list[tuple[int, int]], portion: int) -> None:
    """Joined some at a time, what hangs together is what a walk along all edges finds."""
    joined = Components(20)
    for start in range(0, len(edges), portion):
        joined.add(*np.array(edges[start : start + portion]).T)
        if start % 2:
            joined.numbers()
    numbers = joined.numbers()
    known = list(range(20))
    for _ in known:
        for a, b in edges:
            known[a] = known[b] = min(known[a], known[b])
    np.testing.assert_array_equal(numbers[:, None] == numbers, np.array(known)[:, None] == known)


def test_examples_are_a_few_of_each_distance() -> None:
    """The first two pairs of every distance, however many come and in whatever portions; none twice."""
    whole, portions = Examples(), Examples()
    one, other = np.arange(300), np.arange(300) + 1000
    apart = np.arange(300) % 3
    whole.add(one, other, apart)
    for start in (200, 100, 0, 100):
        portions.add(one[start:][:100], other[start:][:100], apart[start:][:100])
    ids, splits = [str(row) for row in range(2000)], np.full(2000, "train")
    assert whole.told(ids, splits) == portions.told(ids, splits)
    assert [(pair["ids"][0], pair["distance"]) for pair in whole.told(ids, splits)] == [
        ("0", 0), ("3", 0), ("1", 1), ("4", 1), ("2", 2), ("5", 2),
    ]  # fmt: skip


def look(near: int | None, *images: tuple[str, str, int, int]) -> Findings:
    """Findings in images of (split, sha256, perceptual hash, label), whose ids are a, b, c, …"""
    splits, hashes, perceptual, labels = zip(*images, strict=True)
    ids = [chr(97 + row) for row in range(len(images))]
    numbers = np.array(perceptual, np.uint64)
    return find(ids, pa.array(hashes), numbers, near, np.array(splits), np.array(labels))


def test_equal_images_across_the_border_leak() -> None:
    """With or without a perceptual hash; equal images on one side do not; the test image itself stays."""
    images = [
        ("test", "x", FLAT, 0), ("train", "x", FLAT, 0), ("validation", "x", FLAT, 0),
        ("train", "y", FLAT, 1), ("train", "y", FLAT, 1), ("test", "z", FLAT, 1), ("test", "z", FLAT, 1),
    ]  # fmt: skip
    for near in (None, 4):
        found = look(near, *images)
        assert found.leaking.tolist() == [False, True, True, False, False, False, False]
        assert (found.leaks["test"], found.leaks["equal"], found.leaks["others"]) == (1, 1, 2)
        assert found.duplicates["equal"] == {"groups": 3, "images": 7, "largest": 3}
        assert found.leaks["examples"] == [{"ids": ["a", "b"], "splits": ["test", "train"], "distance": None}]


def test_near_images_leak_as_pairs_and_group_as_chains() -> None:
    """A train image that is near to a near copy of a test image is in its group, but does not leak."""
    chain = [("test", "a", 0b1, 0), ("train", "b", 0b111, 0), ("train", "c", 0b11111, 0), ("train", "d", 2**40 - 1, 0)]
    found = look(2, *chain)
    assert found.leaking.tolist() == [False, True, False, False]
    assert (found.leaks["test"], found.leaks["equal"], found.leaks["others"]) == (1, 0, 1)
    assert found.duplicates["near"] == {"groups": 1, "images": 3, "largest": 3}
    assert found.leaks["examples"] == [{"ids": ["a", "b"], "splits": ["test", "train"], "distance": 2}]
    assert found.duplicates["examples"] == [{"ids": ["b", "c"], "splits": ["train", "train"], "distance": 2}]
    assert not look(None, *chain).leaking.any()
    assert look(None, *chain).duplicates["near"] is None


def test_an_equal_pair_is_one_example() -> None:
    """It is told as equal, not once more as 0 bits apart."""
    found = look(4, ("test", "x", 5, 0), ("train", "x", 5, 0))
    assert [pair["distance"] for pair in found.leaks["examples"]] == [None]


def test_images_of_one_perceptual_hash_are_near() -> None:
    """At a distance of 0, whether or not they are equal; those without structure are not."""
    found = look(
        0,
        ("test", "a", 5, 0),
        ("train", "b", 5, 0),
        ("train", "c", 5, 0),
        ("train", "d", FLAT, 0),
        ("test", "e", FLAT, 0),
    )
    assert found.leaking.tolist() == [False, True, True, False, False]
    assert found.duplicates["near"] == {"groups": 1, "images": 3, "largest": 3}
    assert [pair["ids"] for pair in found.leaks["examples"]] == [["a", "b"]]
    found = look(0, ("train", "b", 5, 0), ("train", "c", 5, 0), ("validation", "b", 5, 0))
    assert [pair["ids"] for pair in found.duplicates["examples"]] == [["a", "c"], ["a", "b"]]


@pytest.mark.parametrize("near", [0, 3, 8])
def test_leaks_are_those_of_comparing_all_with_all(near: int) -> None:
    """Some hundred images, many of them copies: the very rows that a slow and plain search finds."""
    draws = np.random.default_rng(near)
    pool = clusters(near, count=25, size=12, most=6)
    rows = draws.integers(0, len(pool), 400)
    perceptual, content = pool[rows], draws.integers(0, 3, 400)
    perceptual[:40] = FLAT
    splits = draws.choice(["train", "validation", "test"], 400)
    hashes = pa.array([f"{row}/{each}" for row, each in zip(rows, content, strict=True)])
    found = find([str(row) for row in range(400)], hashes, perceptual, near, splits, np.zeros(400, int))
    tested, known = splits == "test", np.array(hashes.to_pylist())
    close = (
        (np.bitwise_count(perceptual[:, None] ^ perceptual) <= near)
        & (perceptual != FLAT)
        & (perceptual != FLAT)[:, None]
    )
    close |= known[:, None] == known
    across = close & (tested[:, None] != tested)
    np.testing.assert_array_equal(found.leaking, across.any(1) & ~tested)
    assert found.leaks["test"] == (across.any(1) & tested).sum()


def test_different_labels_of_equal_images_are_counted() -> None:
    """Images, not pairs; an image without a label contradicts nobody."""
    found = look(
        None,
        *(("train", sha, FLAT, label) for sha, label in [("x", 0), ("x", 1), ("x", 1), ("y", 1), ("y", -1), ("z", 0)]),
    )
    assert found.duplicates["contradictions"] == 1
    assert any("different labels" in line for line in warnings(found, np.full(6, "train")))


def leaky(root: Path) -> Path:
    """A folder of its own split: of 12 test images one is in train as it is, one as a smaller JPEG."""
    for row in range(36):
        split, name = ("test", "train")[row >= 12], ("cat", "dog")[row % 2]
        path = root / split / name / f"{row:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photo(row)).save(path)
    Image.fromarray(photo(0)).save(root / "train/cat/copy.png")
    Image.fromarray(photo(1)).resize((80, 80)).save(root / "train/dog/near.jpg", quality=80)
    return root


def block(root: Path, **quality: object) -> dict:
    source = {"name": "folder", "path": str(root), "store": {"shape": [32, 32], "fit": "crop"}, "labels": None}
    return {
        "source": source | {"group": None, "split": "folders"},
        "split": {"validation": 0.2, "test": "own", "seed": 0},
        "quality": {"bad": 0.0, "near": None, "leaks": "report"} | quality,
        "budgets": {"all": {"select": {"name": "balanced", "share": 0.5}, "seeds": [0]}},
    }


@pytest.mark.parametrize(("near", "leaks"), [(None, ["cat/copy.png"]), (6, ["cat/copy.png", "dog/near.jpg"])])
def test_leaks_are_reported_and_removed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], near: int | None, leaks: list[str]
) -> None:
    """Reported, they stay where they were; removed, they are in no split that anybody learns from or is tested on."""
    root = leaky(tmp_path / "raw")
    told = prepared(tmp_path / "told", **block(root, near=near))
    said = capsys.readouterr().out
    words = "pixel for pixel" if near is None else "pixel for pixel or nearly"
    assert f"warning: {len(leaks)} test images are, {words}, also in train or validation\n" in said
    removed = prepared(tmp_path / "removed", **block(root, near=near, leaks="remove"))
    assert f"validation: {len(leaks)} images there are excluded\n" in capsys.readouterr().out
    assert removed.ids[removed.rows("excluded")].tolist() == [f"train/{name}" for name in leaks]
    before, after = (np.concatenate([data.rows(s) for s in ("train", "validation")]) for data in (told, removed))
    assert set(before) - set(after) == set(removed.rows("excluded"))
    assert not np.isin(removed.rows("excluded"), removed.pretrain).any()
    assert not np.isin(removed.rows("excluded"), removed.budget("all", 0)).any()
    assert not np.isin(removed.rows("excluded"), removed.pretrain_labels[0]).any()
    np.testing.assert_array_equal(told.rows("test"), removed.rows("test"))
    for data in (told, removed):
        summary = json.loads((data.folder / "summary.json").read_text())
        assert summary["leaks"]["test"] == summary["leaks"]["others"] == len(leaks)
        assert summary["leaks"]["equal"] == 1
        first = summary["leaks"]["examples"][0]
        assert first == {
            "ids": ["test/cat/00.png", "train/cat/copy.png"],
            "splits": ["test", first["splits"][1]],
            "distance": None,
        }


def test_nothing_is_said_where_nothing_is_wrong() -> None:
    """Images that are all different give no line."""
    found = look(4, ("test", "a", 0xFF00, 0), ("train", "b", 0xFF0000FF00FF, 1))
    assert warnings(found, np.array(["test", "train"])) == []
    assert found.duplicates["examples"] == found.leaks["examples"] == []
