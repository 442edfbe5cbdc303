"""Label budgets: balanced, nested, and a matter of seed and id alone.

Claims:
- a share takes max(1, round(share · n_c)) of every class, a count takes what it says or all there is;
- a smaller budget is part of a larger one of the same seed, across plug-ins too;
- neither the order of the images nor an image added to another class changes what is chosen.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import ParamsError
from pipeline.params import arguments
from stages.budgets import balanced, per_class

LABELS = st.lists(st.integers(0, 4), min_size=1, max_size=120).map(lambda values: np.array(values, dtype=np.int64))
SHARES = st.floats(0.001, 1)
few = settings(max_examples=50, deadline=None)


def ids_of(labels: np.ndarray) -> list[str]:
    return [f"image/{position}" for position in range(len(labels))]


@few
@given(LABELS, SHARES)
def test_a_share_is_taken_of_every_class(labels: np.ndarray, share: float) -> None:
    """Each class gives its rounded share, at least one image, and nothing is lacking."""
    selection = balanced.select(labels, ids_of(labels), 0, share=share)
    for label in np.unique(labels):
        assert (labels[selection.positions] == label).sum() == max(1, round(share * (labels == label).sum()))
    assert selection.shortfall == {}


@few
@given(LABELS, SHARES, SHARES, st.integers(1, 40))
def test_budgets_are_nested(labels: np.ndarray, one: float, other: float, images: int) -> None:
    """Of two budgets with one seed, the smaller is part of the larger in every class."""
    ids = ids_of(labels)
    selections = [balanced.select(labels, ids, 3, share=share) for share in (one, other)]
    selections.append(per_class.select(labels, ids, 3, images=images))
    for label in np.unique(labels):
        chosen = [{p for p in selection.positions.tolist() if labels[p] == label} for selection in selections]
        small, middle, large = sorted(chosen, key=len)
        assert small <= middle <= large


@few
@given(LABELS, st.integers(1, 40))
def test_a_short_class_gives_all_and_says_what_it_lacks(labels: np.ndarray, images: int) -> None:
    """Taken and lacking add up to what was asked for, in every class."""
    selection = per_class.select(labels, ids_of(labels), 0, images=images)
    for label in np.unique(labels).tolist():
        taken = (labels[selection.positions] == label).sum()
        assert taken == min(images, (labels == label).sum())
        assert taken + selection.shortfall.get(label, 0) == images


@few
@given(LABELS, SHARES, st.randoms(use_true_random=False))
def test_the_order_of_the_images_does_not_matter(labels: np.ndarray, share: float, random) -> None:
    """Shuffled images give the same ids."""
    ids = ids_of(labels)
    order = list(range(len(labels)))
    random.shuffle(order)
    straight = balanced.select(labels, ids, 0, share=share).positions
    shuffled = balanced.select(labels[order], [ids[i] for i in order], 0, share=share).positions
    assert {ids[p] for p in straight} == {ids[order[p]] for p in shuffled}


def test_an_image_added_to_a_class_leaves_the_other_classes_alone() -> None:
    """The permutation is one per class."""
    labels = np.repeat(np.arange(3), 30)
    before = balanced.select(labels, ids_of(labels), 0, share=0.2).positions
    more = np.append(labels, 0)
    after = balanced.select(more, ids_of(more), 0, share=0.2).positions
    np.testing.assert_array_equal(before[labels[before] > 0], after[more[after] > 0])


def test_positions_are_sorted_rows() -> None:
    """Positions are int64, rising and unique, so that a budget reads like a list of rows."""
    labels = np.arange(100) % 7
    positions = balanced.select(labels, ids_of(labels), 0, share=0.5).positions
    assert positions.dtype == np.int64
    assert (np.diff(positions) > 0).all()


def test_seeds_choose_differently() -> None:
    """Ten seeds give ten choices, and over many seeds every image has its turn."""
    labels = np.zeros(50, dtype=np.int64)
    chosen = [frozenset(balanced.select(labels, ids_of(labels), s, share=0.1).positions.tolist()) for s in range(100)]
    assert len(set(chosen[:10])) == 10
    assert frozenset().union(*chosen) == set(range(50))


@pytest.mark.parametrize(
    ("plugin", "values", "sentence"),
    [
        (balanced, {"share": 0.0}, "greater than 0"),
        (balanced, {"share": 1.5}, "less than or equal to 1"),
        (balanced, {"images": 3}, "share"),
        (per_class, {"images": 0}, "greater than or equal to 1"),
    ],
)
def test_impossible_budgets_are_refused_in_params_yaml(plugin, values: dict, sentence: str) -> None:
    """A share outside ]0, 1], a count below one and a foreign key are errors before anything runs."""
    with pytest.raises(ParamsError, match=sentence):
        arguments(plugin.select, values, "datasets.x.budgets.y")
