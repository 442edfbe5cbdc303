"""Retrieval: rankings worked out by hand, scikit-learn's average precision, and what must hold for any features."""

import json
import math
from functools import partial
from pathlib import Path

import jsonschema
import pytest
import torch
from probe_tables import digits_table, make_table
from sklearn.metrics import average_precision_score
from torch import Tensor

from pipeline.errors import Refusal
from stages.evaluate import judge
from stages.probes import retrieval
from stages.probes._table import JUDGED, Table


@pytest.fixture(scope="module")
def digits() -> Table:
    return digits_table()


def angles(*degrees: float) -> Tensor:
    """Unit rows in the plane."""
    radians = torch.tensor(degrees) * math.pi / 180
    return torch.stack([radians.cos(), radians.sin()], dim=1)


def found(features: Tensor, labels: list[int]) -> dict[str, list[float]]:
    """What each image finds among the others."""
    return {name: values.tolist() for name, values in retrieval.search(features, torch.tensor(labels), None)[1].items()}


def test_rankings_worked_out_by_hand() -> None:
    """Ten lists of yes and no, three of which are these; a list without a yes has nothing to find and is left out."""
    relevant = torch.tensor(
        [
            [True, False, True, False, False],  # of 2: at places 1 and 3
            [False, False, False, False, True],  # of 1: at place 5
            [False, False, False, False, False],
            [False, True, True, True, False],  # of 3: at places 2, 3 and 4
        ]
    )
    values = {name: each.tolist() for name, each in retrieval.measures(relevant).items()}
    assert values["recall_1"] == [1, 0, 0]
    assert values["recall_2"] == [1, 0, 1]
    assert values["recall_4"] == [1, 0, 1]
    assert values["recall_8"] == [1, 1, 1]
    assert values["map"] == pytest.approx([(1 + 2 / 3) / 2, 1 / 5, (1 / 2 + 2 / 3 + 3 / 4) / 3], abs=1e-12)
    assert values["r_precision"] == pytest.approx([1 / 2, 0, 2 / 3], abs=1e-12)


def test_largest_first_and_of_equal_ones_the_first() -> None:
    """As torch's stable sort, for values of both signs, equal ones, both zeros and −∞."""
    values = torch.randint(-3, 4, (50, 40), generator=torch.Generator().manual_seed(0)) / 3
    values[:, 5] = -0.0
    values[:, 9] = -torch.inf
    values[0] = torch.randn(40) * 1e-30
    order = values.sort(dim=1, descending=True, stable=True).indices
    assert torch.equal(retrieval._descending(values), order)


def test_five_images_in_the_plane() -> None:
    """Each ranks the four others by the angle; itself it does not find."""
    features = angles(0, 10, 25, 60, 200) * torch.tensor([1.0, 3, 0.5, 2, 1])[:, None]  # length does not matter
    labels = [0, 1, 0, 1, 2]
    # 0°: 10 (1), 25 (0), 60, 200    10°: 0, 25, 60 (1), 200    25°: 10, 0 (0), 60, 200    60°: 25, 10 (1), 0, 200
    values = found(features, labels)  # the only image of class 2 has nothing to find
    assert values["recall_1"] == [0, 0, 0, 0]
    assert values["recall_2"] == [1, 0, 1, 1]
    assert values["recall_4"] == [1, 1, 1, 1]
    assert values["map"] == pytest.approx([1 / 2, 1 / 3, 1 / 2, 1 / 2], abs=1e-12)
    assert values["r_precision"] == [0, 0, 0, 0]
    assert retrieval.search(features, torch.tensor(labels), None)[0].tolist() == [1, 0, 1, 0, 1]


def test_a_gallery_of_its_own() -> None:
    """Queries search it whole, in the order of its rows where images are equally near."""
    gallery, classes = angles(0, 90, 0, 45), torch.tensor([2, 0, 1, 1])
    first, values = retrieval.search(angles(0, 88), torch.tensor([1, 0]), (gallery, classes))
    assert first.tolist() == [2, 0]  # rows 0 and 2 are equally near
    assert values["recall_1"].tolist() == [0, 1]
    assert values["map"].tolist() == pytest.approx([(1 / 2 + 2 / 3) / 2, 1], abs=1e-12)
    assert values["r_precision"].tolist() == pytest.approx([1 / 2, 1], abs=1e-12)


@pytest.mark.parametrize("gallery", ["train", "split"])
def test_mean_average_precision_is_scikit_learn_s(gallery: str, digits: Table) -> None:
    """On digits' pixels, image by image."""
    value = retrieval.score(digits, gallery=gallery).values["test"]["map"]
    queries, labels = digits.examples("test")
    among, classes = digits.examples("train") if gallery == "train" else (queries, labels)
    similarity = (
        torch.nn.functional.normalize(queries.double()) @ torch.nn.functional.normalize(among.double()).T
    ).numpy()
    each = []
    for i, (row, label) in enumerate(zip(similarity, labels, strict=True)):
        keep = torch.arange(len(row)) != (i if gallery == "split" else -1)
        each.append(average_precision_score((classes == label)[keep].numpy(), row[keep.numpy()]))
    assert value == pytest.approx(sum(each) / len(each), abs=1e-5)


def test_the_same_answer_however_many_at_a_time(digits: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of three images find what one block finds, and leave the right one out."""
    whole = retrieval.score(digits, gallery="split")
    monkeypatch.setattr(retrieval, "CELLS", 3 * len(digits.rows["test"]))
    parts = retrieval.score(digits, gallery="split")
    assert parts.values["test"] == pytest.approx(whole.values["test"], abs=1e-4)  # the last bit may turn a pair
    assert all(torch.equal(parts.predictions[split], whole.predictions[split]) for split in JUDGED)


def test_twins_find_each_other() -> None:
    """Where every image is there twice, among the others of its split all is found at once; without twins it is not."""
    generator = torch.Generator().manual_seed(0)
    once, labels = torch.randn(40, 8, generator=generator), torch.randint(0, 4, (40,), generator=generator)
    features, classes = once.repeat(3, 1), torch.arange(4).repeat(10).repeat(3)
    table = make_table(features, classes, classes=4, train=40, val=40)
    alone = retrieval.score(table, gallery="split").values["test"]["recall_1"]
    twins = make_table(torch.cat([once, once, once, once, once]), labels.repeat(5), classes=4, train=40, val=80)
    both = retrieval.score(twins, gallery="split")
    assert both.values["test"]["recall_1"] == 1
    assert torch.equal(both.predictions["test"], twins.examples("test")[1])
    assert alone < 0.7  # an image that found itself would have 1


def test_one_class_is_refused() -> None:
    """Every image would be found: that says nothing."""
    table = make_table(torch.randn(30, 4), torch.zeros(30, dtype=torch.int64), classes=1, train=10, val=10)
    with pytest.raises(Refusal, match="nothing to tell apart"):
        retrieval.score(table, gallery="train")


def test_a_perfect_ranking() -> None:
    """Classes that do not touch: everything is 1."""
    labels = torch.arange(60) % 3
    features = torch.eye(3, 6)[labels] + torch.randn(60, 6, generator=torch.Generator().manual_seed(0)) / 50
    verdict = retrieval.score(make_table(features, labels, classes=3, train=20, val=20), gallery="split")
    assert verdict.values["test"]["map"] == pytest.approx(1, abs=1e-12)
    assert verdict.values["test"]["r_precision"] == pytest.approx(1, abs=1e-12)


def test_features_that_say_nothing() -> None:
    """Balanced classes and random features: R@1 is about one in as many as there are classes."""
    features = torch.randn(3000, 16, generator=torch.Generator().manual_seed(0))
    table = make_table(features, torch.arange(3000) % 5, classes=5, train=500, val=500)
    assert retrieval.score(table, gallery="split").values["test"]["recall_1"] == pytest.approx(0.2, abs=0.03)


@pytest.mark.parametrize("gallery", ["train", "split"])
def test_a_rotation_changes_nothing(gallery: str, digits: Table) -> None:
    """Nor does a common scale."""
    before = retrieval.score(digits, gallery=gallery)
    rotation = torch.linalg.qr(torch.randn(64, 64, generator=torch.Generator().manual_seed(0))).Q
    turned = Table(**{**vars(digits), "features": 5 * digits.features @ rotation})
    after = retrieval.score(turned, gallery=gallery)
    assert after.values["test"] == pytest.approx(before.values["test"], abs=1e-3)


def test_the_gallery_of_the_split_uses_no_training_label(digits: Table) -> None:
    """It says so, and training labels change nothing; the gallery of training images counts its labels."""
    before = retrieval.score(digits, gallery="split")
    labels = digits.labels.clone()
    labels[digits.rows["train"]] = -1
    blind = Table(**{**vars(digits), "labels": labels})
    assert retrieval.score(blind, gallery="split").values == before.values
    assert before.labels_used == 0
    assert retrieval.score(digits, gallery="train").labels_used == 1080
    assert "1080 labeled training images" in retrieval.score(digits, gallery="train").protocol


@pytest.mark.parametrize("labels", [[0, 1, 2], [-1, -1, -1], [-1, -1, 0]])
def test_nothing_to_find_is_refused(labels: list[int]) -> None:
    """By a sentence that names the split, where no image shares its class with another."""
    table = make_table(torch.randn(9, 4), torch.tensor([0, 1, 2, 0, 0, 1, *labels]), classes=3, train=3, val=3)
    with pytest.raises(Refusal, match="the test split has another of its class"):
        retrieval.score(table, gallery="split")


@pytest.mark.parametrize("gallery", ["train", "split"])
def test_its_scores_follow_the_schema(gallery: str, digits: Table) -> None:
    """The accuracies of the first image found, with their intervals, and the values of the ranking."""
    scores, predictions = judge({0: digits}, {"retrieval": partial(retrieval.score, gallery=gallery)})
    schema = json.loads((Path(__file__).parent / "scores.schema.json").read_text())
    jsonschema.validate(scores, {**schema, "$ref": "#/$defs/scores"})
    ranking = {f"retrieval.{name}" for name in ("recall_1", "recall_2", "recall_4", "recall_8", "map", "r_precision")}
    assert set(scores) == ranking | {f"retrieval.{name}" for name in ("top1", "balanced_accuracy", "macro_f1")}
    assert scores["retrieval.recall_1"]["test"]["mean"] == pytest.approx(scores["retrieval.top1"]["test"]["mean"])
    assert len(predictions) == len(digits.rows["val"]) + len(digits.rows["test"])
