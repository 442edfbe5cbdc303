"""The probes against their definitions, against scikit-learn, and against values worked out by hand.

Claims: kNN is exact and settles ties by position; the linear probe is the optimum of its loss and depends on nothing
but the geometry of the features; the geometry measures have their known values; accuracies are scikit-learn's; the
interval is that of whole groups.
"""

import math

import numpy as np
import pytest
import torch
from probe_tables import digits_table, make_table
from pydantic import ValidationError
from sklearn import metrics as sklearn_metrics
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from pipeline import plugins
from pipeline.errors import Refusal
from pipeline.params import arguments
from stages.probes import _logistic, _metrics, geometry, knn, linear
from stages.probes._table import JUDGED, Table

PARAMETERS: dict[str, dict[str, object]] = {
    "knn": {"k": 5, "temperature": 0.07},
    "linear": {"penalties": {"low": 1e-4, "high": 1e-1, "steps": 3}},
    "geometry": {},
    "retrieval": {"gallery": "train"},
    "layers": {"penalties": {"low": 1e-4, "high": 1e-1, "steps": 3}},
    "few_labels": {"budget": "some", "folds": 3, "penalties": {"low": 1e-3, "high": 1e-1, "steps": 3}},
}


@pytest.fixture(scope="module")
def digits() -> Table:
    return digits_table()


@pytest.fixture
def blobs() -> Table:
    """Three classes around three points, 40 images each, not separable."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(120) % 3
    features = torch.randn(120, 6, generator=generator) + 2 * torch.eye(3, 6)[labels]
    return make_table(features, labels, classes=3, train=60, val=30)


# ---- every probe


@pytest.mark.parametrize("name", plugins.names("probes"))
def test_a_probe_is_a_pure_function(name: str, blobs: Table) -> None:
    """Asked twice, a probe says the same, and it leaves the table and the global random state alone."""
    spec = plugins.specify("probes", {"name": name, **PARAMETERS[name]}, "probes")
    before, state = blobs.features.clone(), torch.get_rng_state()
    first, second = spec.make(blobs), spec.make(blobs)
    assert first.values == second.values
    assert first.chosen == second.chosen
    assert all(torch.equal(first.predictions[split], second.predictions[split]) for split in first.predictions)
    assert torch.equal(blobs.features, before)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", sorted({*plugins.names("probes")} - {"retrieval", "layers"}))  # these tell accuracies
def test_test_labels_change_no_answer(name: str, blobs: Table) -> None:
    """Predictions, choices and measures do not depend on the labels of the test images."""
    spec = plugins.specify("probes", {"name": name, **PARAMETERS[name]}, "probes")
    before = spec.make(blobs)
    blobs.labels[blobs.rows["test"]] = (blobs.labels[blobs.rows["test"]] + 1) % 3
    after = spec.make(blobs)
    assert (before.values, before.chosen, before.protocol) == (after.values, after.chosen, after.protocol)
    assert all(torch.equal(before.predictions[split], after.predictions[split]) for split in before.predictions)
    assert all(torch.equal(before.draws[split], after.draws[split]) for split in before.draws)


@pytest.mark.parametrize("name", ["knn", "linear", "retrieval"])
def test_a_classifier_answers_for_labeled_images_only(name: str, blobs: Table) -> None:
    """Images without a label are neither fitted on nor predicted."""
    blobs.labels[[0, 60, 90, 91]] = -1
    verdict = plugins.specify("probes", {"name": name, **PARAMETERS[name]}, "probes").make(blobs)
    assert verdict.labels_used == 59
    assert [len(verdict.predictions[split]) for split in JUDGED] == [29, 28]
    assert "59 labeled training images" in verdict.protocol


@pytest.mark.parametrize("name", ["knn", "linear", "retrieval"])
def test_a_class_without_labels_is_refused(name: str, blobs: Table) -> None:
    """A class that cannot be fitted is named, with its split."""
    rows = blobs.rows["train"]
    blobs.labels[rows[blobs.labels[rows] == 2]] = -1
    spec = plugins.specify("probes", {"name": name, **PARAMETERS[name]}, "probes")
    with pytest.raises(Refusal, match="the train split has no labeled image of class '2'"):
        spec.make(blobs)


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_split_without_labels_is_refused(split: str, blobs: Table) -> None:
    """Without a labeled validation or test image there is no number."""
    blobs.labels[blobs.rows[split]] = -1
    with pytest.raises(Refusal, match="nothing can be measured"):
        knn.score(blobs, k=1, temperature=1.0)


# ---- kNN


@pytest.mark.parametrize(("temperature", "winner"), [(0.07, 0), (0.1, 0), (0.14426, 0), (0.14428, 1), (1.0, 1)])
def test_one_near_neighbor_against_two_farther_ones(temperature: float, winner: int) -> None:
    """One at .9 outvotes two at .8 until T = .1 / ln 2 = .144270."""
    votes = knn.votes(torch.tensor([[0.9, 0.8, 0.8]]), torch.tensor([[0, 1, 1]]), 2, temperature)
    assert votes.argmax() == winner
    assert votes[0, 0] / votes[0, 1] == pytest.approx(math.exp(0.1 / temperature) / 2, rel=1e-5)


@pytest.mark.parametrize("block", [knn.BLOCK, (7, 3)])
@pytest.mark.parametrize("k", [1, 7, 40, 1000])
def test_knn_is_exact(k: int, block: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Predictions equal a plain loop with a stable sort, many ties included, and any k above n means all n."""
    monkeypatch.setattr(knn, "BLOCK", block)
    generator = torch.Generator().manual_seed(k)
    gallery, queries = (torch.eye(8)[torch.randint(8, (n,), generator=generator)] for n in (40, 30))
    gallery, queries = gallery + gallery.roll(1, 1), queries + queries.roll(2, 1)
    labels = torch.randint(4, (40,), generator=generator)
    predicted = knn.predict(queries, gallery, labels, classes=4, k=k, temperature=0.5)
    for query, answer in zip(torch.nn.functional.normalize(queries), predicted, strict=True):
        similarity = torch.nn.functional.normalize(gallery) @ query
        nearest = similarity.sort(descending=True, stable=True).indices[:k]
        votes = [similarity[nearest][labels[nearest] == c].div(0.5).exp().sum().item() for c in range(4)]
        assert votes[answer] == pytest.approx(max(votes), rel=1e-6)


def test_ties_are_settled_by_position() -> None:
    """Of equally near images the earlier is the neighbor; of equal votes the lower class wins."""
    gallery, query = torch.tensor([[1.0, 0.0]] * 3 + [[0.0, 1.0]]), torch.tensor([[2.0, 0.0]])
    assert knn.nearest(query @ gallery.T, 2)[1].tolist() == [[0, 1]]
    assert knn.predict(query, gallery, torch.tensor([2, 2, 1, 0]), classes=3, k=2, temperature=1.0).item() == 2
    assert knn.predict(query, gallery, torch.tensor([2, 1, 1, 0]), classes=3, k=2, temperature=1.0).item() == 1


@pytest.mark.parametrize("columns", [200, 640, 1000, 5000])
@pytest.mark.parametrize("k", [1, 3])
def test_neighbors_are_those_of_a_full_sort(columns: int, k: int) -> None:
    """However many columns, with many equal values, in the last columns too: the k largest, the first of equals."""
    generator = torch.Generator().manual_seed(0)
    similarity = torch.randint(0, 400, (60, columns), generator=generator) / 400
    similarity[:20, -3:] = 2
    expected = similarity.sort(dim=1, descending=True, stable=True).indices[:, :k].sort(1).values
    assert torch.equal(knn.nearest(similarity, k)[1], expected)


def test_knn_does_not_depend_on_its_blocks(digits: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven queries and a hundred training images at a time or all at once, the predictions are the same."""
    whole = knn.score(digits, k=20, temperature=0.07)
    monkeypatch.setattr(knn, "BLOCK", (7, 100))
    parts = knn.score(digits, k=20, temperature=0.07)
    assert all(torch.equal(whole.predictions[split], parts.predictions[split]) for split in JUDGED)
    assert (whole.predictions["test"] == digits.examples("test")[1]).double().mean() > 0.95


def test_a_small_temperature_stays_finite() -> None:
    """Votes are finite where exp(s / T) overflows float32, and the nearest neighbor decides."""
    votes = knn.votes(torch.tensor([[0.9, 0.8, 0.8]]), torch.tensor([[0, 1, 1]]), 2, 0.001)
    assert votes.isfinite().all()
    assert votes.argmax() == 0


def test_the_protocol_names_the_neighbors_that_were_used(blobs: Table) -> None:
    """The sentence says how many neighbors voted: never more than there are training labels."""
    verdict = knn.score(blobs, k=200, temperature=0.1)
    assert verdict.protocol == "weighted 60-NN, cosine, T 0.1, 60 labeled training images"


# ---- linear


def scale(features: Tensor) -> float:
    """Root of the total variance, which the linear probe divides by."""
    return float(features.double().var(0, correction=0).sum().sqrt())


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Solve to the last digits: the solver can, and the default saves the time."""
    monkeypatch.setattr(_logistic, "GAP", 1e-14)


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("penalty", [1e-1, 1e-3, 1e-5])
def test_linear_equals_scikit_learn(penalty: float, digits: Table) -> None:
    """At C = 1 / (n λ scale²) the weights are those of LogisticRegression, and so are the predictions."""
    features, labels = (part.numpy() for part in digits.examples("train"))
    features = features.astype(np.float64)
    c = 1 / (len(labels) * penalty * scale(digits.examples("train")[0]) ** 2)
    reference = LogisticRegression(C=c, tol=1e-7, max_iter=5000).fit(features, labels)
    weight, bias = _logistic.fit(*digits.examples("train"), classes=10, penalties=torch.tensor([penalty]).double())
    assert np.abs(weight[0].T.numpy() - reference.coef_).max() < 1e-3 * np.abs(reference.coef_).max()
    test = digits.examples("test")[0].double()
    ours, theirs = (test @ weight[0] + bias[0]).argmax(1).numpy(), reference.predict(test.numpy())
    assert (ours == theirs).all()


@pytest.mark.parametrize("kept", [0, 2**20])
def test_linear_holds_a_block_of_rows(kept: int, digits: Table, exact: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits are made a block at a time, and kept only where all are few; the classifier is the same."""
    penalties = torch.tensor([1e-2, 1e-4]).double()
    weight, bias = _logistic.fit(*digits.examples("train"), classes=10, penalties=penalties)
    made, forth = [], _logistic._forth

    def counted(z: Tensor, w: Tensor) -> Tensor:
        made.append(forth(z, w))
        return made[-1]

    monkeypatch.setattr(_logistic, "_forth", counted)
    monkeypatch.setattr(_logistic, "CELLS", 7 * 20 * 10)
    monkeypatch.setattr(_logistic, "KEPT", kept)
    again, offset = _logistic.fit(*digits.examples("train"), classes=10, penalties=penalties)
    assert max(logits.numel() for logits in made) <= 7 * 20 * 10
    assert torch.allclose(again, weight, atol=1e-6)
    assert torch.allclose(offset, bias, atol=1e-6)


@pytest.mark.usefixtures("exact")
def test_every_penalty_is_solved_to_its_optimum(digits: Table) -> None:
    """The gradient of the loss as written in the docstring vanishes for the whole path, weakest penalty included."""
    features, labels = digits.examples("train")
    path = _logistic.Penalties(low=1e-8, high=1.0, steps=5).values()
    for weight, bias, penalty in zip(*_logistic.fit(features, labels, classes=10, penalties=path), path, strict=True):
        w = (weight * scale(features)).requires_grad_()
        b = bias.clone().requires_grad_()
        logits = features.double() / scale(features) @ w + b
        loss = torch.nn.functional.cross_entropy(logits, labels) + penalty / 2 * w.square().sum()
        loss.backward()
        assert w.grad.abs().max() < 1e-8
        assert b.grad.abs().max() < 1e-8


def test_the_default_gap_changes_no_prediction(digits: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    """Solved to a millionth of a nat or to the last digits: same penalty, and at most one test image differs."""
    penalties = _logistic.Penalties(low=1e-8, high=0.1, steps=8)
    default = linear.score(digits, penalties=penalties)
    monkeypatch.setattr(_logistic, "GAP", 1e-14)
    whole = linear.score(digits, penalties=penalties)
    assert default.chosen == whole.chosen
    assert (default.predictions["test"] != whole.predictions["test"]).sum() <= 1


@pytest.mark.parametrize("change", ["permute", "rotate", "repeat", "pad", "enlarge", "move"])
def test_linear_depends_on_nothing_but_the_geometry(change: str, blobs: Table) -> None:
    """Permuted, rotated, repeated, zero-padded, enlarged or moved features give the same choice and predictions."""
    x = blobs.features.double()
    rotation = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(1)).double()).Q
    changed = {
        "permute": x[:, [3, 1, 5, 0, 2, 4]],
        "rotate": x @ rotation,
        "repeat": torch.cat([x, x], 1),
        "pad": torch.cat([x, torch.zeros_like(x)], 1),
        "enlarge": 1000 * x,
        "move": x + 3,
    }[change]
    penalties = _logistic.Penalties(low=1e-6, high=1.0, steps=7)
    before = linear.score(blobs, penalties=penalties)
    after = linear.score(
        make_table(changed, blobs.labels, classes=3, train=60, val=30),
        penalties=penalties,
    )
    assert before.chosen == after.chosen
    assert all(torch.equal(before.predictions[split], after.predictions[split]) for split in JUDGED)


def test_separable_classes_are_separated() -> None:
    """A separable toy is solved without an error, by the strongest of the penalties that do equally well."""
    labels = torch.arange(60) % 3
    generator = torch.Generator().manual_seed(0)
    features = torch.eye(3)[labels] * 10 + torch.rand(60, 3, generator=generator)
    table = make_table(features, labels, classes=3, train=30, val=15)
    verdict = linear.score(table, penalties=_logistic.Penalties(low=1e-9, high=0.1, steps=9))
    assert all(torch.equal(verdict.predictions[split], table.examples(split)[1]) for split in JUDGED)
    assert verdict.chosen == {"penalty": pytest.approx(0.1)}


@pytest.mark.parametrize("value", [0.0, 0.1, 3e5])
def test_constant_features_tell_nothing(value: float) -> None:
    """Constant features give one class for every image: 1 / C where the classes are equal."""
    labels = torch.arange(80) % 4
    table = make_table(torch.full((80, 5), value), labels, classes=4, train=40, val=20)
    predicted = linear.score(table, penalties=_logistic.Penalties(low=1e-6, high=1.0, steps=3)).predictions["test"]
    assert _metrics.accuracies(table.examples("test")[1], predicted)["top1"] == 0.25


@pytest.mark.usefixtures("exact")
def test_a_huge_penalty_leaves_the_class_frequencies() -> None:
    """The bias is not penalized: without weights the probabilities are the shares of the classes."""
    labels = torch.tensor([0] * 6 + [1] * 3 + [2])
    features = torch.randn(10, 4, generator=torch.Generator().manual_seed(0))
    weight, bias = _logistic.fit(features, labels, classes=3, penalties=torch.tensor([1e9]).double())
    probability = (features.double() @ weight[0] + bias[0]).softmax(1)
    assert probability.numpy() == pytest.approx(np.tile([0.6, 0.3, 0.1], (10, 1)), abs=1e-6)


def test_validation_chooses_the_penalty(digits: Table) -> None:
    """The chosen penalty is the strongest of those with the highest validation accuracy."""
    penalties = _logistic.Penalties(low=1e-7, high=1.0, steps=8)
    features, labels = digits.examples("val")
    fitted = _logistic.fit(*digits.examples("train"), classes=10, penalties=penalties.values())
    right = [((features.double() @ w + b).argmax(1) == labels).sum().item() for w, b in zip(*fitted, strict=True)]
    verdict = linear.score(digits, penalties=penalties)
    assert verdict.chosen["penalty"] == penalties.values()[right.index(max(right))]
    assert (verdict.predictions["val"] == labels).sum() == max(right)


def test_penalties_run_from_strong_to_weak() -> None:
    """The path is evenly spaced in the logarithm, strongest first, and its ends are in the order they are named."""
    values = _logistic.Penalties(low=1e-4, high=1.0, steps=3).values()
    assert values.tolist() == pytest.approx([1.0, 1e-2, 1e-4])
    with pytest.raises(ValidationError, match="must not be above"):
        _logistic.Penalties(low=1.0, high=0.1, steps=3)


def test_an_unsolved_penalty_is_an_error(digits: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    """A probe that has not converged says so instead of giving a number."""
    monkeypatch.setattr(_logistic, "NEWTON_STEPS", 2)
    with pytest.raises(Refusal, match="did not converge at penalty 1e-05"):
        _logistic.fit(*digits.examples("train"), classes=10, penalties=torch.tensor([1.0, 1e-5]).double())


# ---- geometry

ROWS, COLUMNS = torch.arange(4).double()[:, None], torch.arange(8).double()
A, B = torch.sin(8 * ROWS + COLUMNS), torch.cos(0.7 * (8 * ROWS + COLUMNS))


def sphere(n: int, d: int) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(d)).double())


def test_golden_values() -> None:
    """Alignment, uniformity and RankMe of the fixture A = sin(8i + j), B = cos(.7 (8i + j))."""
    assert geometry.alignment(A, B).item() == pytest.approx(1.46457331, abs=1e-8)
    assert geometry.uniformity(A).item() == pytest.approx(-4.05594541, abs=1e-8)
    assert geometry.rankme(A).item() == pytest.approx(1.99910079, abs=1e-8)


@pytest.mark.parametrize(
    ("features", "value"),
    [
        (torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), -8.0),
        (torch.ones(5, 3), 0.0),
        (torch.eye(6), -4.0),
    ],
)
def test_uniformity_of_known_shapes(features: Tensor, value: float) -> None:
    """Antipodal points -8, identical ones 0, orthonormal ones -4."""
    assert geometry.uniformity(features.double()).item() == pytest.approx(value, abs=1e-9)


def test_geometry_wants_two_images(digits: Table) -> None:
    """One image has no pair: the split is named."""
    digits.rows["test"] = digits.rows["test"][:1]
    with pytest.raises(Refusal, match="the split test has one image"):
        geometry.score(digits)


@pytest.mark.parametrize(("d", "value"), [(2, -1.573), (128, -3.937), (512, -3.984)])
def test_uniformity_of_random_points(d: int, value: float) -> None:
    """Points drawn from the sphere come near the value of the uniform distribution."""
    assert geometry.uniformity(sphere(2000, d)).item() == pytest.approx(value, abs=0.01)


def test_uniformity_does_not_depend_on_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three rows at a time or all at once, the value is the same."""
    whole = geometry.uniformity(sphere(50, 7)).item()
    monkeypatch.setattr(geometry, "BLOCK", 3)
    assert geometry.uniformity(sphere(50, 7)).item() == pytest.approx(whole, rel=1e-12)


@pytest.mark.parametrize(
    ("features", "value"),
    [(torch.eye(8), 8.0), (torch.ones(6, 4), 1.0), (torch.diag(torch.tensor([3.0, 1.0])), 1.754765), (A * 0, 1.0)],
)
def test_rankme_of_known_shapes(features: Tensor, value: float) -> None:
    """The identity has all its directions, rank one (or nothing at all) has one."""
    assert geometry.rankme(features.double()).item() == pytest.approx(value, abs=2e-5)


def test_feature_std_is_one_where_all_directions_are_alike() -> None:
    """Random directions give 1, a single direction 0, whatever the length of the features."""
    assert geometry.feature_std(37 * sphere(4000, 32)).item() == pytest.approx(1, abs=0.01)
    assert geometry.feature_std(torch.arange(1, 9).double()[:, None] * torch.ones(1, 3)).item() == pytest.approx(0)


def test_alignment_is_that_of_the_pairs_of_the_split(blobs: Table) -> None:
    """Pairs of other splits do not enter."""
    values = geometry.score(blobs).values
    assert blobs.pairs is not None
    test = blobs.pairs[:, blobs.rows["test"]].double()
    assert values["test"]["alignment"] == geometry.alignment(test[0], test[1]).item()
    blobs.pairs[1, blobs.rows["val"]] = blobs.pairs[0, blobs.rows["val"]]
    after = geometry.score(blobs).values
    assert after["val"]["alignment"] == 0
    assert after["test"] == values["test"]


def test_geometry_reads_no_label(blobs: Table) -> None:
    """Without any label the measures are the same, and no label is counted as used."""
    before = geometry.score(blobs)
    blobs.labels.fill_(-1)
    assert geometry.score(blobs).values == before.values
    assert before.labels_used == 0


def test_geometry_without_pairs_is_refused(blobs: Table) -> None:
    """A table without two views of its images has no alignment."""
    bare = Table(**{name: value for name, value in vars(blobs).items() if not name.startswith("pair")})
    with pytest.raises(Refusal, match="no `pairs`"):
        geometry.score(bare)


def test_large_splits_are_thinned_out_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    """At most SAMPLES images enter, taken from the whole of the split."""
    monkeypatch.setattr(geometry, "SAMPLES", 4)
    assert geometry._sample(torch.arange(10)).tolist() == [0, 3, 6, 9]
    assert geometry._sample(torch.arange(4)).tolist() == [0, 1, 2, 3]


# ---- accuracies, intervals, summaries


@pytest.mark.parametrize("seed", range(4))
def test_accuracies_are_those_of_scikit_learn(seed: int) -> None:
    """top1, balanced accuracy and macro-F1, with classes that never occur or are never predicted."""
    random = np.random.default_rng(seed)
    labels, predicted = random.choice([0, 1, 4, 6], 50), random.choice([0, 1, 2, 6], 50)
    ours = _metrics.accuracies(labels, predicted)
    with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):
        balanced = sklearn_metrics.balanced_accuracy_score(labels, predicted)
    assert ours == {
        "top1": pytest.approx(sklearn_metrics.accuracy_score(labels, predicted)),
        "balanced_accuracy": pytest.approx(balanced),
        "macro_f1": pytest.approx(sklearn_metrics.f1_score(labels, predicted, average="macro", zero_division=0)),
    }


def outcome(n: int, share: float, seeds: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Labels of two classes and predictions of `seeds` classifiers that are right on about `share` of the images."""
    random = np.random.default_rng(n)
    labels = np.arange(n) % 2
    return labels, np.where(random.random((seeds, n)) < share, labels, 1 - labels)


def test_the_interval_is_that_of_a_proportion() -> None:
    """For one classifier and single images the interval of top1 is the familiar p ± 1.96 √(p (1-p) / n)."""
    labels, predicted = outcome(2000, 0.8)
    p = (labels == predicted[0]).mean()
    low, high = _metrics.intervals(labels, predicted, np.arange(2000))["top1"]
    half = 1.96 * math.sqrt(p * (1 - p) / 2000)
    assert (low, high) == (pytest.approx(p - half, abs=0.15 * half), pytest.approx(p + half, abs=0.15 * half))


def test_groups_are_drawn_as_one() -> None:
    """Fivefold copies tell nothing new as one group, and make the interval narrower as images of their own."""
    labels, predicted = outcome(100, 0.7, seeds=3)
    once = _metrics.intervals(labels, predicted, np.arange(100))
    copied, copies = labels.repeat(5), predicted.repeat(5, axis=1)
    grouped = _metrics.intervals(copied, copies, np.array([f"group-{row:03}" for row in range(100)]).repeat(5))
    single = _metrics.intervals(copied, copies, np.arange(500))
    for name, (low, high) in once.items():
        assert grouped[name] == pytest.approx([low, high], abs=1e-12)
        assert single[name][1] - single[name][0] < 0.6 * (high - low)


def test_the_interval_is_that_of_the_mean_over_seeds() -> None:
    """Errors that differ between seeds average out; the order of the seeds and a second call change nothing."""
    labels, predicted = outcome(400, 0.7, seeds=4)
    groups = np.arange(400)
    together = _metrics.intervals(labels, predicted, groups)["top1"]
    alone = _metrics.intervals(labels, predicted[:1], groups)["top1"]
    assert together[1] - together[0] < 0.7 * (alone[1] - alone[0])
    assert _metrics.intervals(labels, predicted[::-1].copy(), groups)["top1"] == pytest.approx(together)
    assert _metrics.intervals(labels, predicted, groups)["top1"] == together


def test_the_interval_does_not_depend_on_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """The resamples are the same however many are held at a time."""
    labels, predicted = outcome(50, 0.7)
    whole = _metrics.intervals(labels, predicted, np.arange(50))
    monkeypatch.setattr(_metrics, "CELLS", 50 * 300)
    assert _metrics.intervals(labels, predicted, np.arange(50)) == whole


def test_a_perfect_classifier_has_a_point_for_an_interval() -> None:
    """Where nothing is wrong no resample is wrong."""
    labels = np.arange(30) % 3
    assert _metrics.intervals(labels, labels[None], np.arange(30)) == {
        name: [1.0, 1.0] for name in ("top1", "balanced_accuracy", "macro_f1")
    }


def test_a_summary_holds_its_values() -> None:
    """Mean and sample deviation; a single value has no spread."""
    assert _metrics.summary([0.5, 0.7]) == {
        "mean": pytest.approx(0.6),
        "std": pytest.approx(0.1 * math.sqrt(2)),
        "n": 2,
        "values": [0.5, 0.7],
    }
    assert _metrics.summary([0.3]) == {"mean": 0.3, "std": 0.0, "n": 1, "values": [0.3]}


def test_signatures_are_strict() -> None:
    """What params.yaml may say of a probe is its signature: no k below 1, no temperature of 0."""
    with pytest.raises(Refusal, match=r"probes\.knn\.k: .*greater than or equal to 1, not 0"):
        arguments(knn.score, {"k": 0, "temperature": 0.07}, "probes.knn")
    with pytest.raises(Refusal, match=r"probes\.knn\.temperature: .*greater than 0"):
        arguments(knn.score, {"k": 1, "temperature": 0.0}, "probes.knn")
    with pytest.raises(Refusal, match=r"probes\.linear\.penalties: low \(1\) must not be above high \(0.1\)"):
        arguments(linear.score, {"penalties": {"low": 1.0, "high": 0.1, "steps": 3}}, "probes.linear")
