"""Label budgets: balanced, nested, and a matter of seed and id alone.

Claims:
- a share takes max(1, round(share · n_c)) of every class, a count takes what it says or all there is;
- a total is spread over the classes as evenly as they allow, a long tail falls by its ratio, groups come whole;
- an official list is taken as it is, and what is not in train is refused;
- a smaller budget is part of a larger one of the same seed, across plug-ins too;
- neither the order of the images nor an image added to another class changes what is chosen.
"""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import ParamsError, Refusal
from pipeline.params import arguments
from stages.budgets import balanced, groups, long_tailed, official, per_class, total
from stages.budgets._permutation import Candidates

LABELS = st.lists(st.integers(0, 4), min_size=1, max_size=120).map(lambda values: np.array(values, dtype=np.int64))
SHARES = st.floats(0.001, 1)
few = settings(max_examples=50, deadline=None)


def of(labels: np.ndarray, ids: list[str] | None = None, groups: list[str] | None = None) -> Candidates:
    """Candidates with these labels, each a group by itself if nothing else is said."""
    ids = ids or [f"image/{position}" for position in range(len(labels))]
    return Candidates(labels, ids, pa.array(groups or ids, pa.string()), list("abcdefghij"))


@few
@given(LABELS, SHARES)
def test_a_share_is_taken_of_every_class(labels: np.ndarray, share: float) -> None:
    """Each class gives its rounded share, at least one image, and nothing is lacking."""
    selection = balanced.select(of(labels), 0, share=share)
    for label in np.unique(labels):
        assert (labels[selection.positions] == label).sum() == max(1, round(share * (labels == label).sum()))
    assert selection.shortfall == {}


@few
@given(LABELS, SHARES, SHARES, st.integers(1, 40))
def test_budgets_are_nested(labels: np.ndarray, one: float, other: float, images: int) -> None:
    """Of two budgets with one seed, the smaller is part of the larger in every class."""
    selections = [balanced.select(of(labels), 3, share=share) for share in (one, other)]
    selections.append(per_class.select(of(labels), 3, images=images))
    selections.append(total.select(of(labels), 3, images=images))
    selections.append(long_tailed.select(of(labels), 3, images=images, ratio=10.0))
    for label in np.unique(labels):
        chosen = [{p for p in selection.positions.tolist() if labels[p] == label} for selection in selections]
        ranked = sorted(chosen, key=len)
        assert all(small <= large for small, large in pairwise(ranked))


@few
@given(LABELS, st.integers(1, 40))
def test_a_short_class_gives_all_and_says_what_it_lacks(labels: np.ndarray, images: int) -> None:
    """Taken and lacking add up to what was asked for, in every class."""
    selection = per_class.select(of(labels), 0, images=images)
    for label in np.unique(labels).tolist():
        taken = (labels[selection.positions] == label).sum()
        assert taken == min(images, (labels == label).sum())
        assert taken + selection.shortfall.get(label, 0) == images


@few
@given(LABELS, st.integers(1, 150))
def test_a_total_is_spread_evenly(labels: np.ndarray, images: int) -> None:
    """All that were asked for or all there are; a class has fewer than another by two only if it gave all it has."""
    selection = total.select(of(labels), 0, images=images)
    assert len(selection.positions) == min(images, len(labels))
    present = np.unique(labels)
    counts = {label: int((labels[selection.positions] == label).sum()) for label in present.tolist()}
    for label, count in counts.items():
        assert count >= max(counts.values()) - 1 or count == (labels == label).sum()
        assert selection.shortfall.get(label, 0) == max(0, images // len(present) - count)


@few
@given(LABELS, st.integers(1, 60), st.integers(1, 60))
def test_a_larger_total_holds_the_smaller(labels: np.ndarray, one: int, other: int) -> None:
    """Totals of one seed are nested as a whole, not only class by class."""
    small, large = (total.select(of(labels), 5, images=images).positions for images in sorted((one, other)))
    assert set(small.tolist()) <= set(large.tolist())


def test_the_extra_labels_of_a_total_go_to_classes_by_chance() -> None:
    """Of 3 labels for 5 classes each class gets one under some seed."""
    labels = np.repeat(np.arange(5), 4)
    found = {int(x) for seed in range(30) for x in labels[total.select(of(labels), seed, images=3).positions]}
    assert found == set(range(5))


def test_a_long_tail_falls_by_its_ratio() -> None:
    """n_c = images · ratio^(-c / (C - 1)): 100, 32, 10, 3, 1 for a ratio of 100."""
    labels = np.repeat(np.arange(5), 120)
    selection = long_tailed.select(of(labels), 0, images=100, ratio=100.0)
    assert np.bincount(labels[selection.positions]).tolist() == [100, 32, 10, 3, 1]
    assert selection.shortfall == {}
    short = long_tailed.select(of(labels[:560]), 0, images=130, ratio=1.0)
    assert short.shortfall == {0: 10, 1: 10, 2: 10, 3: 10, 4: 50}


@few
@given(st.lists(st.integers(0, 9), min_size=1, max_size=80), SHARES, SHARES)
def test_groups_come_whole_and_nested(patients: list[int], one: float, other: float) -> None:
    """round(share · n) groups, one at the least, with all they have; a larger share has the groups of a smaller one."""
    candidates = of(np.arange(len(patients)) % 3, groups=[f"patient {patient}" for patient in patients])
    chosen = []
    for share in sorted((one, other)):
        positions = set(groups.select(candidates, 2, share=share).positions.tolist())
        found = {patients[at] for at in positions}
        assert len(found) == max(1, round(share * len(set(patients))))
        assert positions == {at for at, patient in enumerate(patients) if patient in found}
        chosen.append(found)
    assert chosen[0] <= chosen[1]


IMAGES = ["train/cat/a.jpg", "train/cat/b.jpg", "train/dog/c.jpg", "train/dog/same.jpg", "train/cat/same.jpg"]


def listed(folder: Path, *names: str, missing: float = 0.0) -> list[int]:
    """Positions of what a list of these names grants of IMAGES."""
    (folder / "list.txt").write_text("\n".join(names) + "\n")
    candidates = of(np.array([0, 0, 1, 1, 0]), IMAGES)
    found = official.select(candidates, 0, file=str(folder / "list.txt"), missing=missing)
    return found.positions.tolist()


def test_a_list_names_images_by_id_or_by_name(tmp_path: Path) -> None:
    """With or without the folders, in any order, blank lines and repetitions passed over."""
    assert listed(tmp_path, "c.jpg", "", "train/cat/a.jpg", "a.jpg ", "train/cat/same.jpg") == [0, 2, 4]


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (["a.jpg", "x.jpg", "y.jpg"], "2 of its 3 names are those of no labeled train image, the first is 'x.jpg'"),
        (["same.jpg"], r"the first is 'same.jpg' \(the name of several\)"),
        (["cat/a.jpg"], "1 of its 1 names"),
        ([], "names no image"),
    ],
)
def test_a_list_of_others_is_refused(tmp_path: Path, names: list[str], sentence: str) -> None:
    """Unknown names are counted and the first is told, as is a name of two images; an empty list is none."""
    with pytest.raises(Refusal, match=sentence):
        listed(tmp_path, *names)


def test_a_share_of_a_list_may_be_missing(tmp_path: Path) -> None:
    """Of four names one may be no train image where `missing` is a quarter, two may not."""
    assert listed(tmp_path, "a.jpg", "b.jpg", "c.jpg", "x.jpg", missing=0.25) == [0, 1, 2]
    with pytest.raises(Refusal, match="2 of its 4 names"):
        listed(tmp_path, "a.jpg", "b.jpg", "x.jpg", "y.jpg", missing=0.25)


def test_a_list_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """The sentence says what the file would be."""
    with pytest.raises(Refusal, match="a list of images, one name a line, inside the source's `path`"):
        official.select(of(np.array([0])), 0, file=str(tmp_path / "none.txt"), missing=0.0)


def test_without_labels_a_budget_grants_none() -> None:
    """Every budget of an unlabeled data set is empty."""
    none = Candidates(np.empty(0, np.int64), [], pa.array([], pa.string()), [])
    selections = [
        balanced.select(none, 0, share=0.1),
        per_class.select(none, 0, images=3),
        total.select(none, 0, images=3),
        groups.select(none, 0, share=0.1),
        long_tailed.select(none, 0, images=3, ratio=2.0),
    ]
    assert [len(selection.positions) for selection in selections] == [0] * 5


@few
@given(LABELS, SHARES, st.randoms(use_true_random=False))
def test_the_order_of_the_images_does_not_matter(labels: np.ndarray, share: float, random) -> None:
    """Shuffled images give the same ids."""
    ids = [f"image/{position}" for position in range(len(labels))]
    order = list(range(len(labels)))
    random.shuffle(order)
    straight = balanced.select(of(labels, ids), 0, share=share).positions
    shuffled = balanced.select(of(labels[order], [ids[i] for i in order]), 0, share=share).positions
    assert {ids[p] for p in straight} == {ids[order[p]] for p in shuffled}


def test_an_image_added_to_a_class_leaves_the_other_classes_alone() -> None:
    """The permutation is one per class."""
    labels = np.repeat(np.arange(3), 30)
    before = balanced.select(of(labels), 0, share=0.2).positions
    more = np.append(labels, 0)
    after = balanced.select(of(more), 0, share=0.2).positions
    np.testing.assert_array_equal(before[labels[before] > 0], after[more[after] > 0])


def test_positions_are_sorted_rows() -> None:
    """Positions are int64, rising and unique, so that a budget reads like a list of rows."""
    labels = np.arange(100) % 7
    positions = balanced.select(of(labels), 0, share=0.5).positions
    assert positions.dtype == np.int64
    assert (np.diff(positions) > 0).all()


def test_seeds_choose_differently() -> None:
    """Ten seeds give ten choices, and over many seeds every image has its turn."""
    labels = np.zeros(50, dtype=np.int64)
    chosen = [frozenset(balanced.select(of(labels), s, share=0.1).positions.tolist()) for s in range(100)]
    assert len(set(chosen[:10])) == 10
    assert frozenset().union(*chosen) == set(range(50))


@pytest.mark.parametrize(
    ("plugin", "values", "sentence"),
    [
        (balanced, {"share": 0.0}, "greater than 0"),
        (balanced, {"share": 1.5}, "less than or equal to 1"),
        (balanced, {"images": 3}, "share"),
        (per_class, {"images": 0}, "greater than or equal to 1"),
        (total, {"images": 0}, "greater than or equal to 1"),
        (groups, {"share": 0.0}, "greater than 0"),
        (long_tailed, {"images": 5, "ratio": 0.5}, "must be 1 or more, not 0.5"),
        (official, {"file": "data/raw/x.txt", "missing": 1.5}, "less than or equal to 1"),
    ],
)
def test_impossible_budgets_are_refused_in_params_yaml(plugin, values: dict, sentence: str) -> None:
    """A share outside ]0, 1], a count below one and a foreign key are errors before anything runs."""
    with pytest.raises(ParamsError, match=sentence):
        arguments(plugin.select, values, "datasets.x.budgets.y")
