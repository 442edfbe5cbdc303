"""What to label next: `usl` by its paper, the stage `select`, and the verbs that make a list and merge it.

Claims:
- of every cluster the densest image is picked, other picks and labeled images drive it apart, nothing is picked twice;
- only train images without a label are candidates.
"""

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from pipeline import paths
from pipeline.errors import Refusal
from pipeline.params import arguments
from stages.select import select
from stages.selectors import usl
from stages.selectors._picked import Picked

SETTINGS = {
    "neighbors": 5,
    "iterations": 50,
    "rounds": 10,
    "weight": 0.5,
    "momentum": 0.9,
    "horizon": 4.0,
    "alpha": 0.5,
}
NONE = torch.empty(0, 8)


def blobs(n: int = 40, centers: int = 2, spread: float = 0.1) -> Tensor:
    """Features (n, 8) around as many axes as there are centers, in turn; each blob is densest at its first row."""
    random = torch.Generator().manual_seed(0)
    noise = torch.randn(n, 8, generator=random) * spread
    noise[:centers] = 0
    return torch.eye(8)[torch.arange(n) % centers] + noise


def pick(features: Tensor, images: int, known: Tensor = NONE, seed: int = 0, **changes: float) -> Picked:
    return usl.select(features, known, seed, images, **SETTINGS | changes)  # type: ignore[arg-type]


def test_one_pick_of_each_blob_where_it_is_densest() -> None:
    """Two blobs and two labels: the middles of both."""
    assert sorted(pick(blobs(), 2, neighbors=19).positions.tolist()) == [0, 1]


def test_density_is_one_over_the_mean_squared_distance_to_the_neighbors() -> None:
    """As written down, with numpy."""
    x = normalize(blobs()).double().numpy()
    squared = ((x[:, None] - x[None]) ** 2).sum(2)
    expected = 1 / np.sort(squared, axis=1)[:, 1:6].mean(1)
    picked = pick(blobs(), 2)
    np.testing.assert_allclose(picked.density, expected[picked.positions], rtol=1e-4)
    np.testing.assert_allclose(1 / usl.distances(normalize(blobs()), 5), expected, rtol=1e-4)


def test_a_weight_of_zero_is_the_densest_of_each_cluster() -> None:
    """λ = 0: nothing but density counts, the densest first."""
    features = blobs(60, 3, 0.4)
    picked = pick(features, 7, weight=0.0)
    density, cluster = 1 / usl.distances(normalize(features), 5), usl.clusters(normalize(features), 7, 50, 0)
    expected = {int(density.masked_fill(cluster != c, 0).argmax()) for c in range(7)}
    assert set(picked.positions.tolist()) == expected
    assert (picked.density.diff() <= 0).all()
    assert torch.equal(picked.density, picked.score)


def test_rounds_follow_the_equation() -> None:
    """Two rounds with a horizon, written down with numpy in float64."""
    features = blobs(30, 3, 0.4)
    x = normalize(features).double().numpy()
    cluster = usl.clusters(normalize(features), 5, 50, 0).numpy()
    squared = ((x[:, None] - x[None]) ** 2).sum(2)
    density = 1 / np.sort(squared, axis=1)[:, 1:6].mean(1)
    repulsion, score = np.zeros(30), density
    for _ in range(2):
        picked = [max(np.flatnonzero(cluster == c), key=lambda i: score[i]) for c in range(5)]
        near = np.zeros(30)
        for i in range(30):
            for s in picked:
                if cluster[i] != cluster[s] and squared[i, s] < 1.5:
                    near[i] += squared[i, s] ** -0.7
        repulsion = 0.8 * repulsion + 0.2 * near
        score = density - 3.0 * repulsion
    expected = {int(max(np.flatnonzero(cluster == c), key=lambda i: score[i])) for c in range(5)}
    found = pick(features, 5, rounds=2, weight=3.0, momentum=0.8, horizon=1.5, alpha=0.7)
    assert set(found.positions.tolist()) == expected
    np.testing.assert_allclose(found.score, score[found.positions], rtol=1e-3)


def test_as_many_as_there_are_is_all() -> None:
    """A budget of n, and a larger one, returns every candidate once."""
    assert sorted(pick(blobs(12), 12).positions.tolist()) == list(range(12))
    assert sorted(pick(blobs(12), 50).positions.tolist()) == list(range(12))


@pytest.mark.filterwarnings("ignore:Number of distinct clusters")
def test_a_duplicate_is_not_picked_twice() -> None:
    """Of images that are the same one is picked, even where the labels would do for all."""
    features = blobs(12)
    picked = pick(torch.cat([features, features]), 24).positions % 12
    assert sorted(picked.tolist()) == list(range(12))


def test_the_picks_are_a_matter_of_the_seed() -> None:
    """Same seed, same picks; over some seeds not all are equal."""
    features = blobs(60, 8, 0.5)
    picks = [pick(features, 5, seed=seed).positions.tolist() for seed in (0, 0, 1, 2, 3)]
    assert picks[0] == picks[1]
    assert len({tuple(one) for one in picks}) > 1


def test_what_has_a_label_repels() -> None:
    """With the densest image labeled, another one is picked where the weight allows, and never its double."""
    features = torch.cat([blobs(), blobs()[:1]])
    assert 0 in pick(features, 2, neighbors=19).positions.tolist()
    again = pick(features, 2, known=blobs()[:1], neighbors=19)
    assert not {0, 40} & set(again.positions.tolist())


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """One image at a time gives what all at once give."""
    features = blobs(60, 4, 0.4)
    whole = pick(features, 6, known=blobs(3))
    monkeypatch.setattr(usl, "CELLS", 1)
    pieces = pick(features, 6, known=blobs(3))
    assert torch.equal(whole.positions, pieces.positions)
    torch.testing.assert_close(whole.score, pieces.score)


# ---- the stage


class Stage:
    """A stand-in for the stage's frame."""

    item = "next"

    def __init__(self, root: Path) -> None:
        self.root = root

    def out(self, path: Path) -> Path:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        return self.root / path

    def device(self) -> nullcontext[None]:
        return nullcontext()


SPLITS = ["train"] * 40 + ["validation"] * 5 + ["test"] * 5 + ["excluded"] * 2
HARDWARE = {"device": "cpu", "threads": 1, "precision": "fp32", "deterministic": True, "ranks": 1, "compile": False}
BLOCK = {
    "hardware": HARDWARE,
    "evaluation": "simclr",
    "dataset": "pets",
    "seed": 3,
    "images": 6,
    "select": {"name": "usl", **SETTINGS},
}


def selected(root: Path, labeled: int) -> dict[str, list]:
    """The table of the stage, where the first `labeled` images have a label."""
    dataset, features = paths.dataset("pets"), paths.features("simclr")
    for folder in (dataset, features):
        folder.mkdir(parents=True, exist_ok=True)
    ids = [f"image-{row}" for row in range(52)]
    pq.write_table(pa.table({"id": ids, "split": SPLITS, "group": ids}), dataset / "splits.parquet")
    known = {"id": ids[:labeled], "label": [0] * labeled, "name": ["cat"] * labeled}
    pq.write_table(pa.table(known), dataset / "labels.parquet")
    np.save(features / "seed-3.npy", blobs(52, 4, 0.4).numpy())
    select(Stage(root), **arguments(select, BLOCK, "selections.next"))  # type: ignore[arg-type]
    return pq.read_table(root / paths.selection("next")).to_pydict()


def test_candidates_are_train_images_without_a_label(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a labeled image nor one of validation, test or what is excluded is selected; ranks count from 1."""
    monkeypatch.chdir(tmp_path)
    table = selected(tmp_path, labeled=34)
    assert sorted(table["id"]) == [f"image-{row}" for row in range(34, 40)]
    assert table["rank"] == [1, 2, 3, 4, 5, 6]
    assert table["score"] == sorted(table["score"], reverse=True)


def test_the_same_selection_is_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Selected twice, the table is equal byte for byte."""
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        selected(tmp_path / name, labeled=9)
    one, two = ((tmp_path / name / paths.selection("next")).read_bytes() for name in ("one", "two"))
    assert one == two


def test_nothing_left_to_label_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With every train image labeled the refusal says so."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Refusal, match="every train image of pets has a label"):
        selected(tmp_path, labeled=40)
