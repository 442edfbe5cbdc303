"""Draws.

1. A draw is SplitMix64's output for (seed, epoch, view, image index), whatever the batch, its order or its stacking.
2. Draws are uniform, independent of each other, and orders of operations are equally likely.
"""

from itertools import permutations

import pytest
import torch
from scipy import stats

from stages.views._draws import Draws, Source, splitmix64

MASK = 2**64 - 1


def drawn(count):
    return Draws(0, 0, 0, torch.arange(count))


def mixed(state):
    """SplitMix64 in Python's unbounded integers."""
    z = (state + 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def test_splitmix64_matches_published_outputs():
    """The first outputs from states 0 and 1234567 are those of the reference implementation."""
    outputs = [value & MASK for value in splitmix64(torch.tensor([0, 1234567])).tolist()]
    assert outputs == [0xE220A8397B1DCDAF, 6457827717110365317]


def test_a_draw_is_splitmix64_of_what_it_is_for():
    """Draw k of an image is the k-th output from the state hashed from seed, epoch, view and image index."""
    seed, epoch, view, index = 2**40 + 7, 31, 2, [0, 5, 123_456_789]
    draws = Draws(seed, epoch, view, torch.tensor(index))
    draws.bernoulli(0.5)
    values = draws.uniforms(0, 1, 3)
    for row, image in enumerate(index):
        state = mixed(mixed(mixed(mixed(seed) ^ epoch) ^ view) ^ image)
        expected = [(mixed(state + k * 0x9E3779B97F4A7C15) >> 40) / 2**24 for k in (1, 2, 3)]
        assert values[row].tolist() == expected


def test_draws_do_not_depend_on_the_batch():
    """An image draws the same in a batch, in another order, and alone."""
    index = torch.tensor([7, 0, 99, 3, 12])
    whole = Draws(1, 2, 0, index).uniforms(0, 1, 4)
    order = torch.tensor([3, 0, 4, 2, 1])
    assert torch.equal(Draws(1, 2, 0, index[order]).uniforms(0, 1, 4), whole[order])
    assert torch.equal(Draws(1, 2, 0, index[2:3]).uniforms(0, 1, 4), whole[2:3])


@pytest.mark.parametrize("first", [0, 2])
def test_stacked_views_draw_like_single_ones(first):
    """Three stacked views from `first` on are `view(first)` and the two after it, one after the other."""
    batch = Source(seed=3, epoch=1, index=torch.tensor([4, 2, 8]))
    single = torch.cat([batch.view(first + view).uniform(0, 1) for view in range(3)])
    assert torch.equal(batch.views(3, first=first).uniform(0, 1), single)


@pytest.mark.parametrize("other", [(1, 0, 0), (0, 1, 0), (0, 0, 1)])
def test_seed_epoch_and_view_each_give_other_draws(other):
    """No image keeps its draws when the seed, the epoch or the view changes, and the two are not correlated."""
    index = torch.arange(4096)
    first, second = Draws(0, 0, 0, index).uniform(0, 1), Draws(*other, index).uniform(0, 1)
    assert not torch.equal(first, second)
    assert abs(stats.pearsonr(first, second).statistic) < 0.06  # 4 standard errors


def test_indices_must_be_int64():
    """Narrower indices would wrap around elsewhere and silently draw something else."""
    with pytest.raises(TypeError, match=r"must be torch.int64 of shape \(n,\), not torch.int32 \(3,\)"):
        Draws(0, 0, 0, torch.arange(3, dtype=torch.int32))


def test_uniforms_are_uniform_and_independent():
    """The draws of neighboring images and consecutive draws fill the interval evenly, without correlation."""
    values = drawn(20_000).uniforms(-1, 3, 2)
    assert values.min() >= -1
    assert values.max() <= 3
    for column in values.T:
        assert stats.kstest(column.numpy(), stats.uniform(-1, 4).cdf).pvalue > 0.01
        assert abs(stats.pearsonr(column[1:], column[:-1]).statistic) < 0.03
    assert abs(stats.pearsonr(*values.T).statistic) < 0.03


def test_integers_are_equally_likely():
    """Integers fall evenly on 0 … bound - 1, with one bound for all or one per image."""
    draws = drawn(14_000)
    assert stats.chisquare(draws.integers(7).bincount()).pvalue > 0.01
    bounds = torch.tensor([2, 7]).repeat(7_000)
    values = draws.integers(bounds)
    assert stats.chisquare(values[bounds == 2].bincount()).pvalue > 0.01
    assert stats.chisquare(values[bounds == 7].bincount()).pvalue > 0.01


def test_orders_are_equally_likely():
    """All 24 orders of four operations come up equally often."""
    rows = drawn(24_000).permutation(4).tolist()
    counts = [rows.count(list(order)) for order in permutations(range(4))]
    assert sum(counts) == 24_000
    assert stats.chisquare(counts).pvalue > 0.01


def test_bernoulli_keeps_its_probability():
    """True with the given probability; 0 is never and 1 is always."""
    draws = drawn(10_000)
    assert stats.binomtest(int(draws.bernoulli(0.2).sum()), 10_000, 0.2).pvalue > 0.01
    assert not draws.bernoulli(0.0).any()
    assert draws.bernoulli(1.0).all()


def test_stacked_views_can_have_probabilities_of_their_own():
    """The first of two probabilities is that of the first view, and the draws are those of a common one."""
    source = Source(seed=0, epoch=0, index=torch.arange(100))
    both, single = source.views(2, first=0).bernoulli(0.3, 0.8), [source.view(view) for view in (0, 1)]
    assert torch.equal(both, torch.cat([single[0].bernoulli(0.3), single[1].bernoulli(0.8)]))
