"""Probes beyond the features themselves: every layer of encoder and projector, and linear probes on few labels."""

import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from encoder_cases import SIDE, images, leave, network
from probe_tables import make_table
from safetensors.torch import load_file, save_file

from pipeline import plugins
from pipeline.errors import MissingInput, Refusal
from stages import embed, evaluate
from stages.datasets._storage import Packed
from stages.encoders import _model
from stages.figures import _rows
from stages.figures import layers as figure
from stages.networks.heads import Projection, Projector
from stages.probes import few_labels, layers, linear
from stages.probes._logistic import Penalties
from stages.probes._table import Table, Verdict

PENALTIES = Penalties(low=1e-4, high=1e-1, steps=4)
PROJECTION: dict[str, Any] = {"layers": 2, "hidden": 12, "out": 5, "norm": "all"}


@pytest.fixture
def blobs() -> Table:
    """Three classes around three points, 60 images each: the first layer tells them less well than the last."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(180) % 3
    features = torch.randn(180, 6, generator=generator) + 2 * torch.eye(3, 6)[labels]
    table = make_table(features, labels, classes=3, train=90, val=45)
    table.budgets["few"] = [torch.arange(0, 18), torch.arange(30, 48)]
    return table


# ---- taps of encoders


@pytest.mark.parametrize("name", plugins.names("encoders"))
def test_taps_are_met_in_their_order(name: str) -> None:
    """Every tap of an encoder runs once, in the order that `taps` gives, and looking changes no bit of the features."""
    encoder, given = network(name), torch.randn(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    taps, met = encoder.taps(), []  # type: ignore[operator]
    for tap, layer in taps.items():
        layer.register_forward_hook(lambda *_, tap=tap: met.append(tap))
    with torch.inference_mode():
        plain = network(name)(given)
        with embed.tapped(taps) as found:
            assert torch.equal(encoder(given), plain)
    assert met == list(taps)
    assert all(part.ndim == 2 and len(part) == 3 for [part] in found.values())


def test_looking_ends_with_the_block() -> None:
    """After the block nothing is kept any more, also after an error in it."""
    encoder, given = network("small_resnet"), torch.zeros(2, 3, SIDE, SIDE)
    with pytest.raises(ZeroDivisionError), embed.tapped(encoder.taps()) as found:  # type: ignore[operator]
        raise ZeroDivisionError
    encoder(given)
    assert found == {"stem": [], "layer1": [], "layer2": []}


def test_a_tap_is_the_mean_over_the_image() -> None:
    """Positions of a map and tokens are averaged; vectors stay as they are."""
    maps = torch.arange(24.0).view(2, 3, 2, 2)
    assert embed.averaged(maps)[1].tolist() == [13.5, 17.5, 21.5]
    assert embed.averaged(maps.flatten(2))[1].tolist() == [16.0, 17.0, 18.0, 19.0]
    assert torch.equal(embed.averaged(maps[:, :, 0, 0]), maps[:, :, 0, 0])


def kept(tmp_path: Path, projection: dict[str, Any] | None) -> tuple[Path, np.ndarray]:
    """The folder of features with the taps of seven images, as `embed` leaves it, and the features."""
    folder = leave(tmp_path / "run", "small_resnet", SIDE)
    model = _model.load(folder, "seed-0/encoder.safetensors")
    if projection:
        projector = Projector(model.features, Projection(**projection))
        save_file(projector.state_dict(), folder / "seed-0" / "projector.safetensors")
        config = json.loads((folder / "config.json").read_text()) | {"projector": projection}
        (folder / "config.json").write_text(json.dumps(config))
    out = tmp_path / "features"
    out.mkdir()
    with embed.tapped(model.encoder.taps()) as found:  # type: ignore[operator]
        features = embed.features(model, Packed(images(7)), lambda: None)
    np.save(out / "seed-0.npy", features)
    embed.save_taps(out, 0, found, embed.projected(folder, 0, features))
    return out, features


def test_layers_are_read_as_they_were_kept(tmp_path: Path) -> None:
    """From the stem over pool, which is the features, to the end of the projector, one row an image."""
    out, features = kept(tmp_path, PROJECTION)
    taps = evaluate.read_taps(out, 0)
    assert {name: tuple(tap.shape) for name, tap in taps.items()} == {
        "stem": (7, 4),
        "layer1": (7, 4),
        "layer2": (7, 8),
        "pool": (7, 16),
        "projector.1": (7, 12),
        "projector.2": (7, 5),
    }
    assert list(taps) == json.loads((out / "taps.json").read_text())
    assert np.array_equal(taps["pool"].numpy(), features)
    assert (taps["projector.1"] >= 0).all()  # after its ReLU


def test_the_last_layer_is_the_embedding(tmp_path: Path) -> None:
    """The end of the projector is what the projector in eval mode makes of the features."""
    out, features = kept(tmp_path, PROJECTION)
    projector = Projector(16, Projection(**PROJECTION)).eval()
    projector.load_state_dict(load_file(tmp_path / "run" / "seed-0" / "projector.safetensors"))
    with torch.inference_mode():
        embedding = projector(torch.from_numpy(features))
    torch.testing.assert_close(evaluate.read_taps(out, 0)["projector.2"], embedding)


def test_a_run_without_a_projector_ends_with_pool(tmp_path: Path) -> None:
    """No projector, no layer after the features."""
    assert list(evaluate.read_taps(kept(tmp_path, None)[0], 0))[-1] == "pool"


def test_without_taps_there_is_nothing_to_read(tmp_path: Path) -> None:
    """Features that were kept alone have no layers."""
    assert evaluate.read_taps(tmp_path, 0) == {}


# ---- layers


def test_pool_is_the_linear_probe_to_the_digit(blobs: Table) -> None:
    """With the same penalties, the accuracy of pool is that of `linear`, where it matters which penalty is chosen."""
    noise = torch.randn(180, 57, generator=torch.Generator().manual_seed(2))
    table = make_table(torch.cat([blobs.features, noise], 1), blobs.labels, classes=3, train=90, val=45)
    wide = Penalties(low=1e-6, high=1.0, steps=7)
    values, verdict = layers.score(table, penalties=wide).values, linear.score(table, penalties=wide)
    weakest = linear.score(table, penalties=Penalties(low=1e-6, high=1e-6, steps=1))
    for split in ("val", "test"):
        labels = table.examples(split)[1]
        hits, others = ((found.predictions[split] == labels).double().mean().item() for found in (verdict, weakest))
        assert values[split]["pool.top1"] == hits
        assert hits > others


def test_every_layer_has_its_own_accuracy(blobs: Table) -> None:
    """A layer that holds the classes is told from one that holds noise; names and order are those of the taps."""
    generator = torch.Generator().manual_seed(2)
    blobs.taps.clear()
    blobs.taps.update(noise=torch.randn(180, 4, generator=generator), pool=blobs.features)
    values = layers.score(blobs, penalties=PENALTIES).values["test"]
    assert list(values) == ["noise.top1", "pool.top1"]
    assert values["noise.top1"] < 0.6 < 0.75 < values["pool.top1"]


def test_layers_without_taps_are_refused(blobs: Table) -> None:
    """An evaluation that kept the features alone is told which key it lacks."""
    blobs.taps.clear()
    with pytest.raises(Refusal, match="set `taps: true`"):
        layers.score(blobs, penalties=PENALTIES)


# ---- few labels


def asked(table: Table, **changed: object) -> Verdict:
    return few_labels.score(table, **{"budget": "few", "folds": 3, "penalties": PENALTIES, **changed})  # type: ignore


def test_a_budget_is_fitted_on_its_labels_alone(blobs: Table) -> None:
    """Other training labels and the validation labels, whatever they are, change no prediction; the draw's own do."""
    before = asked(blobs)
    assert before.labels_used == 18
    assert before.draws["test"].shape == (2, 45)
    outside = torch.cat([torch.arange(18, 30), torch.arange(48, 135)])
    blobs.labels[outside] = (blobs.labels[outside] + 1) % 3
    assert torch.equal(asked(blobs).draws["test"], before.draws["test"])
    blobs.labels[:18] = (blobs.labels[:18] + 1) % 3
    changed = asked(blobs).draws["test"]
    assert not torch.equal(changed[0], before.draws["test"][0])
    assert torch.equal(changed[1], before.draws["test"][1])


def test_of_draws_of_many_sizes_the_largest_is_said(blobs: Table) -> None:
    """A budget of whole groups grants more labels in one draw than in another."""
    blobs.budgets["few"][1] = torch.arange(24)
    assert asked(blobs).labels_used == 24


def test_the_penalty_is_that_of_the_least_held_out_loss(blobs: Table) -> None:
    """Where labels have nothing to do with the features the strongest wins, for separate classes a weak one."""
    labels = blobs.examples("train")[1]
    noise = torch.randn(90, 6, generator=torch.Generator().manual_seed(3))
    clear = 9 * torch.eye(3, 6)[labels] + noise
    wide = Penalties(low=1e-3, high=10.0, steps=5)
    assert few_labels.tuned((noise, labels), 3, 3, wide).penalty > 0.9
    assert few_labels.tuned((clear, labels), 3, 3, wide).penalty < 0.1


def test_parts_hold_as_many_of_each_class() -> None:
    """The labels of a class are dealt out in turn; every part has a third of them, rounded."""
    part = few_labels.parts(torch.tensor([0, 0, 0, 1, 1, 1, 1, 0]), 3)
    assert part.tolist() == [0, 1, 2, 0, 1, 2, 0, 0]


def test_one_label_of_a_class_is_refused(blobs: Table) -> None:
    """A penalty cannot be chosen inside a budget that shows a class once."""
    blobs.budgets["few"][0] = torch.tensor([0, 1, 3, 4, 5])  # classes 0 1 0 1 2
    with pytest.raises(Refusal, match="fewer than 2 labels"):
        asked(blobs)


def test_an_unknown_budget_is_named(blobs: Table) -> None:
    """The sentence says which budgets there are."""
    with pytest.raises(MissingInput, match="no budget 'many', only some, few"):
        asked(blobs, budget="many")


def test_draws_count_as_repeats(blobs: Table) -> None:
    """Two seeds of two draws give four values, their mean, their spread and an interval; no prediction is kept."""
    other = make_table(blobs.features.flip(1), blobs.labels, classes=3, train=90, val=45)
    other.budgets["few"] = blobs.budgets["few"]
    scores, predictions = evaluate.judge({0: blobs, 1: other}, {"linear_few": asked})
    score = scores["linear_few.top1"]
    assert score["test"]["n"] == 4
    assert len(score["test"]["values"]) == 4
    assert score["test"]["std"] > 0
    low, high = score["test"]["interval"]
    assert low < score["test"]["mean"] < high
    assert score["labels_used"] == 18
    assert len(predictions) == 0


# ---- the figure


def row(name: str, **top1: float) -> _rows.Row:
    scores = {
        f"layers.{tap.replace('_', '.')}.top1": {"test": {"mean": value}, "val": {"mean": value}}
        for tap, value in top1.items()
    }
    return _rows.Row(name, name, "pets", "images", True, None, "hue-0", "circle", scores)


def test_lines_are_aligned_at_pool() -> None:
    """Pool is step 0 whatever is before it; a tap names its step, or steps are numbers where encoders differ."""
    long = row("long", stem=0.3, pool=0.6, projector_1=0.5)
    short = row("short", pool=0.4)
    depth = figure.depths(long, ["stem", "pool", "projector.1"])
    assert depth == {-1: ("stem", 0.3, 0.3), 0: ("pool", 0.6, 0.6), 1: ("projector.1", 0.5, 0.5)}
    drawn = figure.draw([(long, depth), (short, figure.depths(short, ["pool"]))])
    assert "long, projector.1: 50.0 %" in drawn
    assert drawn.count("<svg") == 1
    other = row("other", block1=0.2, pool=0.4)
    mixed = figure.draw([(long, depth), (other, figure.depths(other, ["block1", "pool"]))])
    assert ">-1<" in mixed
    assert ">stem<" not in mixed


@pytest.mark.parametrize("top1", [0.0, 0.4, 1.0])
def test_equal_accuracies_are_drawn(top1: float) -> None:
    """An axis has a length also where all points lie at one height."""
    assert f"flat, pool: {100 * top1:.1f} %" in figure.draw([(row("flat", pool=top1), {0: ("pool", top1, top1)})])


class Shown:
    """In place of a study: two rows, one of which was judged layer by layer."""

    rows: ClassVar = [row("plain"), row("deep", stem=0.3, pool=0.6)]
    main = rows[1]

    def taps(self, row: _rows.Row) -> list[str]:
        return ["stem", "pool"]


def test_rows_without_layers_are_left_out() -> None:
    """The figure shows the rows that have the scores, and there is none where no row has them."""
    shown: Any = Shown()
    found = figure.section(shown)
    assert found is not None
    assert "deep, stem: 30.0 %" in found.body
    assert "plain" not in found.body
    assert found.caption.endswith("By validation deep is best at pool.")
    shown.rows = [row("plain")]
    assert figure.section(shown) is None


def test_the_cut_is_told_by_validation() -> None:
    """A row says where it is best and what the layers after it lose."""
    depth = figure.depths(row("a", pool=0.6, projector_1=0.45), ["pool", "projector.1"])
    assert figure._cut("a", depth) == "By validation a is best at pool, 15.0 points above projector.1."
