"""The figures of the report as pure functions: what they count, choose and place, and what they make of it."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from stages.figures import (
    _images,
    _rows,
    _svg,
    accuracy_against_labels,
    confusion,
    feature_map,
    neighbors,
    results_table,
)


def test_rows_keep_their_color():
    """Trained rows take colors, untrained ones grays, each in its own order, and marks differ."""
    runs = {name: {"sees": "images", "init": "stages/encoders/resnet.py"} for name in "abcd"}
    uses = {name: {"run": name, "dataset": "d"} for name in "abcd"}
    rows = _rows.make({name: {} for name in "abcd"}, uses, runs, {"a", "c"})
    assert [row.style for row in rows] == ["hue-0", "gray-0", "hue-1", "gray-1"]
    assert len({row.shape for row in rows}) == 4


def test_weights_from_elsewhere_are_no_floor():
    """A row that was not trained here but started from weights has a color, says so, and is not called untrained."""
    weights, own = "data/raw/theirs.pth", "stages/encoders/resnet.py"
    runs = {name: {"sees": "images", "init": init} for name, init in zip("abc", (weights, own, weights), strict=True)}
    uses = {name: {"run": name, "dataset": "d"} for name in "abc"}
    scores = {name: {"knn.top1": {"val": {"mean": mean}}} for name, mean in zip("abc", (0.9, 0.5, 0.7), strict=True)}
    rows = _rows.make(scores, uses, runs, {"c"})
    assert [row.style for row in rows] == ["hue-0", "gray-0", "hue-1"]
    assert [row.start for row in rows] == [weights, None, weights]
    assert _rows.floor(rows) is rows[1]
    assert _rows.main(rows) is rows[2]
    kinds = (f"imported from {weights}", "untrained", f"without labels, from {weights}")
    assert all(f"<small>{kind}</small>" in results_table._name(row) for row, kind in zip(rows, kinds, strict=True))


def test_labels_of_an_earlier_run_count():
    """A row that starts from weights of a run with labels is shown with labels and is no main row."""
    weights = "data/encoders/labels/seed-0/encoder.safetensors"
    runs = {name: {"sees": "images", "dataset": "d", "init": weights} for name in ("after", "taken", "own", "labels")}
    runs["labels"] |= {"sees": "labels", "init": "stages/encoders/resnet.py"}
    runs["own"]["init"] = "stages/encoders/resnet.py"
    uses = {name: {"run": name, "dataset": "d"} for name in runs}
    scores = {name: {"knn.top1": {"val": {"mean": 0.5 if name == "own" else 0.9}}} for name in runs}
    rows = _rows.make(scores, uses, runs, {"after", "labels", "own"})
    assert _rows.main(rows).name == "own"
    kinds = [f"with labels, from {weights}", f"with labels, imported from {weights}", "without labels", "with labels"]
    for row, kind in zip(rows, kinds, strict=True):
        assert f"<small>{kind}</small>" in results_table._name(row)


def test_perfect_rows_are_drawn():
    """Accuracies that are all 100 % have an axis below them."""
    entry = {"test": {"mean": 1.0, "std": 0.0}, "labels_used": 10}
    runs = {"a": {"sees": "images", "init": "stages/encoders/resnet.py"}}
    rows = _rows.make({"a": {"linear.top1": entry}}, {"a": {"run": "a", "dataset": "d"}}, runs, {"a"})
    drawn = accuracy_against_labels.draw(rows, [])
    assert ">90</text>" in drawn
    assert ">100</text>" in drawn


def test_names_are_escaped():
    """A class called <b> cannot become markup."""
    matrix = confusion.count(np.array([0, 1]), np.array([1, 1]), 2)
    tile = np.zeros((2, 2, 3), np.uint8)
    drawn = confusion.draw(matrix, ["<b>", "&"], [(tile, 0, 1)])
    assert "<b>" not in drawn
    assert "&lt;b&gt; read as &amp;: 1 of 1" in drawn


def test_confusion_counts():
    """An image of class 1 read as class 0 is counted in line 1, column 0."""
    matrix = confusion.count(np.array([0, 1, 1]), np.array([0, 0, 1]), 3)
    assert matrix.tolist() == [[1, 0, 0], [1, 1, 0], [0, 0, 0]]


def test_neighbors_are_the_most_similar_by_cosine():
    """Length does not matter, direction does; equals keep their order."""
    gallery = np.array([[0, 1], [5, 0], [1, 1], [2, 0]], np.float32)
    places, cosines = neighbors.nearest(np.array([[3.0, 0.0]]), gallery)
    assert places.tolist() == [[1, 3, 2, 0]]
    np.testing.assert_allclose(cosines, [[1, 1, 2**-0.5, 0]], atol=1e-6)


def test_queries_are_one_per_class_and_some_errors():
    """Ten classes give eight queries of eight classes, three of them misread; two classes are asked again."""
    labels = np.arange(100) % 10
    wrong = np.isin(np.arange(100), [13, 23, 9, 19, 0])
    chosen = neighbors.choose(labels, wrong)
    assert len(set(labels[chosen])) == 8
    assert wrong[chosen].sum() == 3
    assert len(set(neighbors.choose(labels % 2, wrong))) == 8


def test_map_lies_in_its_frame_and_never_changes():
    """Places are inside the unit square and the same in every call."""
    features = np.random.default_rng(0).normal(size=(30, 5)).astype(np.float32)
    places = feature_map.project(features)
    assert places.shape == (30, 2)
    assert places.min() >= -1e-6
    assert places.max() <= 1 + 1e-6
    assert np.array_equal(places, feature_map.project(features))


@pytest.mark.parametrize(
    ("shape", "reason"),
    [((2, 5), "2 labeled test images"), ((30, 1), "its features have one dimension"), ((3, 2), "")],
)
def test_what_cannot_be_mapped_says_why(shape, reason):
    """Too few images, one dimension: t-SNE would raise an error."""
    features = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    assert feature_map.unmappable(features).startswith(reason)
    assert bool(feature_map.unmappable(features)) == bool(reason)
    if not reason:
        assert np.isfinite(feature_map.project(features)).all()


def test_a_collapsed_encoder_has_no_map():
    """Features that are one, or differ by rounding or length alone; t-SNE would end the process at the first."""
    random = np.random.default_rng(0)
    for each in (np.zeros((9, 4)), np.ones((9, 4)), np.ones((9, 4)) * random.uniform(1, 2, (9, 1))):
        assert feature_map.unmappable(each.astype(np.float32)) == "its features are the same for every image"
    assert feature_map.unmappable(np.repeat(np.eye(2, 4, dtype=np.float32), [8, 1], axis=0)) == ""


def test_image_survives_the_data_uri():
    """A small image comes back pixel for pixel; a large one is reduced."""
    pixels = np.random.default_rng(0).integers(0, 256, (8, 6, 3), dtype=np.uint8)
    text = _images.data_uri(pixels)
    back = Image.open(io.BytesIO(base64.b64decode(text.partition(",")[2])))
    assert np.array_equal(np.asarray(back), pixels)
    assert _images.shrink(np.zeros((200, 100, 3), np.uint8)).shape == (64, 32, 3)


def test_sheet_holds_every_tile_in_reading_order():
    """Tile i of the sheet lies at column i % columns, line i // columns."""
    images = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    sheet, columns = _images.sheet(images)
    assert columns == 3
    assert sheet.shape == (4, 6, 3)
    assert [int(sheet[i // 3 * 2, i % 3 * 2, 0]) for i in range(5)] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (0.03, 5.1, [2, 4]), (-7, -1, [-6, -4, -2])],
)
def test_ticks_are_round_numbers(low, high, expected):
    """Axis marks are multiples of 1, 2 or 5 inside the axis."""
    np.testing.assert_allclose(_svg.ticks(low, high, 5), expected, atol=1e-12)


def test_labels_are_spread_inside_the_axis():
    """Names that would collide move apart, keep their order and stay inside."""
    moved = _svg.spread([50, 48, 99, 98], 10, 0, 100)
    assert sorted(range(4), key=lambda i: moved[i]) == [1, 0, 3, 2]
    assert min(np.diff(sorted(moved))) >= 10
    assert max(moved) <= 100


def test_a_scale_without_extent_puts_everything_at_its_start():
    """Equal numbers, such as accuracies that are all perfect, are drawn and not divided by zero."""
    assert _svg.linear(1.0, 1.0, 300, 20)(1.0) == 300
