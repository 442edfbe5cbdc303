"""Splits and subsets: pure functions of content, ids and seed.

Claims:
- shares hold within chance, additions and labels move nobody, equal images stay together;
- a source's own test set is kept as it is, and what leaks out of it is counted;
- a subset is as balanced as the classes allow and keeps the proportions of the source;
- a group is in one split, the same one whoever else is there; an own split that tears one is refused;
- data that no encoder could be judged on is said to be such, an empty split is refused.
"""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.datasets import _split, digits
from stages.datasets._images import DataError, Images


def noise(n: int, seed: int = 0) -> list[str]:
    """Hashes of n different images."""
    return [f"{seed}-{row}" for row in range(n)]


def groups(names: list[str]) -> pa.Array:
    """The groups of images, as `assign` takes them."""
    return pa.array(names, pa.string())


def hashes(images: Images) -> list[str]:
    """The content hashes of images."""
    return [images.record(row).sha256 for row in range(len(images))]


def toy(n: int = 60, classes: int = 3, **changes) -> Images:
    """N different images, classes in turn."""
    pixels = np.random.default_rng(0).integers(0, 256, (n, 4, 4, 3), dtype=np.uint8)
    fields = {
        "pixels": pixels,
        "ids": [f"toy/{row}" for row in range(n)],
        "labels": np.arange(n) % classes,
        "classes": [f"class {label}" for label in range(classes)],
        "split": None,
    }
    return Images(**fields | changes)


def test_shares_are_kept_within_chance() -> None:
    """Each split has its share of 20 000 images within four standard deviations."""
    splits = _split.assign(groups(noise(20_000)), None, validation=0.15, test=0.3, seed=0)
    for name, share in (("validation", 0.15), ("test", 0.3), ("train", 0.55)):
        assert abs((splits == name).sum() - 20_000 * share) < 4 * (20_000 * share * (1 - share)) ** 0.5


def test_classes_keep_their_shares_within_chance() -> None:
    """A split that knows no labels is still fair to each class of the digits."""
    images = digits.load(path="")
    splits = _split.assign(groups(hashes(images)), None, validation=0.2, test=0.2, seed=0)
    for label in range(10):
        own = splits[images.labels == label]
        for name, share in (("validation", 0.2), ("test", 0.2)):
            assert abs((own == name).sum() - len(own) * share) < 4 * (len(own) * share * (1 - share)) ** 0.5


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 80), st.integers(0, 80), st.integers(0, 9), st.sampled_from([0.1, 0.4]))
def test_additions_move_nobody(n: int, more: int, seed: int, test: float) -> None:
    """An image has the same split alone, among others, and in any order."""
    shares = {"validation": 0.2, "test": test, "seed": seed}
    before = _split.assign(groups(noise(n)), None, **shares)
    after = _split.assign(groups(noise(more, seed=1) + noise(n)[::-1]), None, **shares)
    np.testing.assert_array_equal(before, after[more:][::-1])


def test_a_larger_test_share_keeps_the_test_images() -> None:
    """Raising the share of test only adds to it."""
    small, large = (_split.assign(groups(noise(500)), None, validation=0.1, test=test, seed=0) for test in (0.1, 0.3))
    assert (large[small == "test"] == "test").all()
    assert (large == "test").sum() > (small == "test").sum()


def test_equal_images_share_a_split() -> None:
    """Exact duplicates under different ids never face each other across splits."""
    images = toy()
    twice = toy(pixels=np.concatenate([images.pixels[:30]] * 2))
    splits = _split.assign(groups(hashes(twice)), None, validation=0.3, test=0.3, seed=0)
    np.testing.assert_array_equal(splits[:30], splits[30:])


def test_a_hash_knows_every_pixel_and_the_shape() -> None:
    """Another last byte or another shape of the same bytes is another image."""
    pixels = np.zeros((2, 4, 4, 3), dtype=np.uint8)
    pixels[1, -1, -1, -1] = 1
    found = {*hashes(toy(2, 2, pixels=pixels)), *hashes(toy(2, 2, pixels=pixels.reshape(2, 2, 8, 3)))}
    assert len(found) == 4


def test_seeds_split_differently() -> None:
    """The seed of a split is not ignored."""
    zero, one = (_split.assign(groups(noise(100)), None, validation=0.2, test=0.2, seed=seed) for seed in (0, 1))
    assert (zero != one).any()


def test_a_source_keeps_its_own_test_set() -> None:
    """With test: own, exactly the source's test images are tested on, and validation is a share of the others."""
    own = np.repeat(["train", "test"], [4000, 1000])
    splits = _split.assign(groups(noise(5000)), own, validation=0.25, test="own", seed=0)
    np.testing.assert_array_equal(splits == "test", own == "test")
    assert abs((splits == "validation").sum() - 1000) < 4 * (4000 * 0.25 * 0.75) ** 0.5


def test_own_is_refused_where_there_is_none() -> None:
    """A source without a test set cannot keep it."""
    with pytest.raises(DataError, match=r"no test images of its own: set `split.test` to a share"):
        _split.assign(groups(noise(9)), None, validation=0.2, test="own", seed=0)


@settings(max_examples=30, deadline=None)
@given(st.integers(6, 60))
def test_a_subset_is_balanced(n: int) -> None:
    """The classes of a subset differ by at most one image, and a larger subset holds the smaller."""
    images = toy(60)
    rows = _split.subset(images, n)
    assert len(rows) == n
    assert np.ptp(np.bincount(images.labels[rows])) <= 1
    assert set(rows) >= set(_split.subset(images, n - 1))


def test_a_subset_takes_all_of_a_rare_class() -> None:
    """What a rare class cannot give, the others do."""
    labels = np.repeat([0, 1], [57, 3])
    rows = _split.subset(toy(60, 2, labels=labels), 20)
    assert np.bincount(labels[rows]).tolist() == [17, 3]


def test_a_subset_keeps_the_proportions_of_splits_and_labels() -> None:
    """A fifth of the images has a fifth of the source's test images and a fifth of those without a label."""
    labels = np.where(np.arange(60) % 2, np.arange(60) % 3, -1)
    own = np.repeat(["train", "test"], [40, 20])
    rows = _split.subset(toy(labels=labels, split=own), 12)
    assert (own[rows] == "test").sum() == 4
    assert (labels[rows] == -1).sum() == 6


def test_a_subset_larger_than_the_source_is_all_of_it() -> None:
    """More images than there are means all of them, so that a trial on a sliver takes any source."""
    assert _split.subset(toy(), 61).tolist() == list(range(60))


def test_duplicate_ids_are_refused() -> None:
    """An id stands for one image."""
    with pytest.raises(DataError, match="1 ids occur more than once, 'toy/0' among them"):
        toy(2, 2, ids=["toy/0", "toy/0"])


@pytest.mark.parametrize(
    ("images", "splits", "sentence"),
    [
        (toy(6, 1), ["train", "validation", "test"] * 2, "fewer than 2 classes have a label"),
        (toy(6), ["train", "train", "test", "validation", "test", "test"], "class 'class 2' has no image with a label"),
        (toy(6, 2), ["train", "train", "test", "test", "test", "test"], "the validation split has no image"),
        (
            toy(6, 2, labels=np.array([0, 1, 0, -1, -1, -1])),
            ["train", "train", "validation", "train", "test", "test"],
            "the test split has no image with a label",
        ),
    ],
)
def test_what_cannot_be_judged_is_said(images: Images, splits: list[str], sentence: str) -> None:
    """One class, a class without a train label and a split without labels are a sentence, not an end."""
    assert sentence in str(_split.unjudged(images.labels, np.array(splits), images.classes))


def test_what_can_be_judged_is_not_talked_about() -> None:
    """Labels of every class in train and some in the others: nothing to say."""
    splits = np.array(["train", "train", "train", "validation", "test", "test"])
    assert _split.unjudged(np.arange(6) % 3, splits, ["a", "b", "c"]) is None


def test_an_empty_split_is_refused_with_what_would_help() -> None:
    """The sentence counts images and groups, and names seed and shares."""
    with pytest.raises(DataError, match=r"the test split is empty, as 3 images in 2 groups.*another `split.seed`"):
        _split.require_images(np.array(["train", "validation", "train"]), 2)


def test_classes_without_an_image_are_left_out() -> None:
    """The labels of the others move up, and no label stays none."""
    images = _split.occurring(toy(6, labels=np.array([2, -1, 0, 2, 0, -1])))
    assert images.classes == ["class 0", "class 2"]
    assert images.labels.tolist() == [1, -1, 0, 1, 0, -1]
    assert _split.occurring(toy(6, labels=np.full(6, -1))).classes == []


# ---- groups


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=80), st.integers(0, 60), st.integers(0, 5))
def test_a_group_never_straddles_splits_and_never_moves(patients: list[int], more: int, seed: int) -> None:
    """Whatever images come, of old groups and of new ones, every group is in one split, the one that it was in."""
    shares = {"validation": 0.3, "test": 0.3, "seed": seed}
    names = [f"patient {patient}" for patient in patients]
    added = [f"patient {number % 20}" for number in range(more)]
    before = dict(zip(names, _split.assign(groups(names), None, **shares), strict=True))
    after = list(zip(added + names, _split.assign(groups(added + names), None, **shares), strict=True))
    assert len(set(after)) == len(set(added + names))
    assert before.items() <= set(after)


def test_an_image_without_a_group_goes_by_its_content() -> None:
    """Where the source names no group the content hash stands in, for all or for some images."""
    assert _split.grouped(None, ["x", "y"]).to_pylist() == ["x", "y"]
    assert _split.grouped(np.array(["p1", "", "p1"]), ["x", "y", "z"]).to_pylist() == ["p1", "y", "p1"]


def test_an_own_split_may_have_three_parts() -> None:
    """Both parts kept; either kept, and the other a share of what is left; neither kept."""
    own = np.repeat(["train", "validation", "test"], 1000)
    names = groups(noise(3000))
    both = _split.assign(names, own, validation="own", test="own", seed=0)
    np.testing.assert_array_equal(both, own)
    one = _split.assign(names, own, validation="own", test=0.2, seed=0)
    np.testing.assert_array_equal(one == "validation", own == "validation")
    assert abs((one == "test").sum() - 400) < 4 * (2000 * 0.2 * 0.8) ** 0.5
    other = _split.assign(names, own, validation=0.2, test="own", seed=0)
    np.testing.assert_array_equal(other == "test", own == "test")
    assert abs((other == "validation").sum() - 400) < 4 * (2000 * 0.2 * 0.8) ** 0.5
    with pytest.raises(DataError, match=r"no validation images of its own: set `split.validation` to a share"):
        _split.assign(names, np.repeat(["train", "test"], 1500), validation="own", test="own", seed=0)


def test_a_group_in_two_splits_is_refused_by_name() -> None:
    """The source's own split may not tear a group; images without a group cannot be torn."""
    patients = np.array(["p2", "p1", "p2", "p1", "", ""])
    whole = np.array(["train", "test", "train", "test", "train", "test"])
    _split.require_whole(patients, whole)
    whole[3] = "train"
    with pytest.raises(DataError, match="group 'p1' has images in train and in test: correct"):
        _split.require_whole(patients, whole)
    whole[0] = "validation"
    with pytest.raises(DataError, match="group 'p1' has images in train and in test, and so are 1 other groups"):
        _split.require_whole(patients, whole)
