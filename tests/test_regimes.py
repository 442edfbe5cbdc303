"""Claims about learning from labeled and unlabeled images at once, and from another finetune.

- every step sees labeled images epoch by epoch as ever, and `ratio` times as many of a stream without an end
- a label that is not granted is never seen; every sighting of an unlabeled image has other views
- a training interrupted anywhere ends in the bits of the uninterrupted one, however the images are read
- weights that move over a training have their published values; averages of weights are what they say
- what fine-tuning leaves can be taken up again; what cannot be done is a sentence before anything is trained
"""

import copy
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pydantic
import pytest
import torch
from objective_cases import SETTINGS, objective
from params_study import FINETUNE, STUDY, planned, put, refused, written
from safetensors.torch import load_file
from torch import Tensor, nn
from training_cases import Host

from pipeline import graph, plugins
from pipeline.errors import ParamsError, Stopped
from stages import finetune
from stages.datasets._storage import Packed
from stages.encoders import _export, _model
from stages.methods._method import Batch, Learner
from stages.networks.heads import Projection, Projector
from stages.networks.schedule import Annealing, Growth
from stages.networks.teacher import Average, early
from stages.objectives._classifiers import keep, kept, pretrained
from stages.training.batches import Batches, Beside
from stages.training.checkpoints import Checkpoints
from stages.training.feed import Feed
from stages.training.loop import Images, Plan, Trainer, Training
from stages.training.optimizers import Sgd
from stages.training.randomness import seeded, shuffled
from stages.training.schedules import rate
from stages.views._operations import Pixels

CPU = torch.device("cpu")
SGD = Sgd(name="sgd", learning_rate=0.1, momentum=0.9, nesterov=False, weight_decay=0.01)
LABELED = torch.arange(0, 60, 3)  # 20 of 60 images
VISIBLE = torch.arange(60)[torch.arange(60) % 5 != 4]  # 48 of them


def batches(size: int = 6, ratio: int = 2, pieces: int = 1, seed: int = 0, visible: Tensor = VISIBLE) -> Batches:
    beside = Beside(visible, ratio) if ratio else None
    return Batches(LABELED, beside, images=60, size=size, pieces=pieces, seed=seed)


# ---- which images a step sees


@pytest.mark.parametrize("ratio", [0, 3])
def test_labeled_images_come_as_they_would_alone(ratio: int) -> None:
    """Each step's first images are the next of the epoch's order, whatever comes beside them."""
    found = batches(ratio=ratio)
    assert (found.per_epoch, found.count) == (3, 6 * (1 + ratio))
    for step in range(7):
        order = shuffled(LABELED, seed=0, epoch=step // 3)
        sightings = found.at(step, CPU)
        assert len(sightings) == found.count
        assert torch.equal(sightings[:6], order[step % 3 * 6 :][:6])
        assert torch.equal(found.row(sightings)[:6], sightings[:6])


@pytest.mark.parametrize(("size", "ratio"), [(6, 2), (5, 7), (20, 7)])
def test_unlabeled_images_are_a_stream(size: int, ratio: int) -> None:
    """One epoch after another, each image once in each, in another order; a step may reach over several epochs."""
    found = batches(size, ratio)
    stream = torch.cat([found.at(step, CPU)[size:] for step in range(30)])
    for epoch in range(len(stream) // 48):
        part = stream[48 * epoch : 48 * (epoch + 1)]
        assert torch.equal(found.row(part).sort().values, VISIBLE)
        assert torch.equal(part // 60, torch.full((48,), 1 + epoch))
    rows = [tuple(found.row(stream[48 * epoch :][:48]).tolist()) for epoch in range(3)]
    assert len(set(rows)) == 3


def test_no_two_sightings_are_one() -> None:
    """Over a whole training an unlabeled image has another number each time, and never a labeled one's."""
    found = batches(ratio=7)
    stream = torch.cat([found.at(step, CPU)[6:] for step in range(40)])
    assert len(stream.unique()) == len(stream)
    assert stream.min() >= 60


def test_a_step_is_a_pure_function() -> None:
    """Asked for in any order, by any reader, a step sees the same; another seed sees others."""
    one, other = batches(), batches()
    forward = [one.at(step, CPU) for step in range(9)]
    assert all(torch.equal(other.at(step, CPU), forward[step]) for step in (8, 0, 5, 5, 2))
    assert not torch.equal(batches(seed=1).at(0, CPU)[6:], forward[0][6:])
    assert not torch.equal(one.row(forward[0][6:12]), forward[0][:6])


def test_every_piece_has_its_share() -> None:
    """In pieces a batch has the same images, and each piece has labeled ones first."""
    whole, parts = batches(ratio=2).at(4, CPU), batches(ratio=2, pieces=3).at(4, CPU)
    assert torch.equal(parts.sort().values, whole.sort().values)
    for piece in parts.split(6):
        assert (piece < 60).tolist() == [True] * 2 + [False] * 4


def test_labels_are_hidden_from_the_rest() -> None:
    """Of a piece the labels of the labeled images stay, the others become −1; without others all stay."""
    labels = torch.arange(18)
    assert batches(ratio=2).hidden(labels.clone()).tolist() == [0, 1, 2, 3, 4, 5] + [-1] * 12
    assert torch.equal(batches(ratio=0).hidden(labels.clone()), labels)


# ---- the training


class Watching(Learner):
    """Learns from both kinds of images under batch normalization and dropout, and notes what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(48, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 4))
        self.average = Average(self.net, momentum=0.9)
        self.given: list[Batch] = []

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        self.given.append(batch)
        known = batch.labels >= 0
        logits = self.net(batch.views[0])
        apart = (logits - self.average(batch.views[0])).square().mean()
        return {"loss": nn.functional.cross_entropy(logits[known], batch.labels[known]) + apart}

    def after_step(self, progress: float) -> None:
        self.average.add(self.net)


def make_views(images: Pixels, source) -> list[Tensor]:
    return [images.values.permute(0, 3, 1, 2).float() / 255 + source.view(0).uniform(0, 0.1)[:, None, None, None]]


def trainer(folder: Path, host: Host, *, ratio: int = 2, pieces: int = 1, batch: int = 6) -> Trainer:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        method = Watching()
    pixels = torch.randint(0, 256, (60, 4, 4, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    labels = torch.full((60,), -1)
    labels[LABELED] = LABELED % 4
    settings = Training(batch_size=batch, accumulate=pieces, optimizer=SGD, warmup_epochs=0)
    plan = Plan("1pct", 0, 6, settings, make_views, "fp32", None, None, "cosine_7_16")
    images = Images(Packed(pixels.numpy()), labels, LABELED, Beside(VISIBLE, ratio) if ratio else None)
    return Trainer(method, images, plan, Checkpoints(folder), host)


def trained(folder: Path, *stops: int, **options: int) -> tuple[dict[str, Tensor], list]:
    for stop in stops:
        with seeded(0, CPU), pytest.raises(Stopped):
            trainer(folder, Host(stop), **options).run()
    with seeded(0, CPU):
        run = trainer(folder, Host(), **options)
        curves = run.run()
    return run.method.state_dict(), curves


@pytest.mark.parametrize("stops", [(1,), (5,), (3, 4, 9), (17,)])
@pytest.mark.parametrize("pieces", [1, 2])
def test_interrupted_training_ends_in_the_same_bits(tmp_path: Path, stops: tuple[int, ...], pieces: int) -> None:
    """Stopped in mid-epoch or several times: weights, averages and curves equal the uninterrupted ones."""
    weights, curves = trained(tmp_path / "whole", pieces=pieces)
    again, resumed = trained(tmp_path / "parts", *stops, pieces=pieces)
    assert all(torch.equal(value, again[name]) for name, value in weights.items())
    assert curves == resumed
    assert len(curves) == 6


def test_a_batch_shows_granted_labels_only(tmp_path: Path) -> None:
    """Labeled images first, with their labels; beside them images without, even where one has a label elsewhere."""
    with seeded(0, CPU):
        run = trainer(tmp_path, Host())
        run.run()
    for batch in run.method.given:
        assert torch.equal(batch.labels[:6], batch.index[:6] % 4)
        assert (batch.labels[6:] == -1).all()
        assert torch.isin(batch.index[:6], LABELED).all()
        assert torch.isin(batch.index[6:], VISIBLE).all()
    beside = torch.cat([batch.index[6:] for batch in run.method.given])
    assert torch.isin(LABELED[torch.isin(LABELED, VISIBLE)], beside).all()


def test_an_image_looks_different_every_time(tmp_path: Path) -> None:
    """Seen again within an epoch of the few labels, or beside itself with its label, it is drawn anew."""
    with seeded(0, CPU):
        run = trainer(tmp_path, Host(), batch=20, ratio=7)  # one step an epoch, nearly three of the stream
        run.run()
    [given, *_] = run.method.given
    for image in VISIBLE[:10]:
        views = given.views[0][given.index == image]
        assert len(views) >= 2
        assert len(views.flatten(1).unique(dim=0)) == len(views)


def test_reading_ahead_sees_what_the_training_sees(tmp_path: Path) -> None:
    """The rows that threads are given for a step are those of the batch that it trains on."""
    with seeded(0, CPU):
        run = trainer(tmp_path, Host(), pieces=2)
        rows = [run.rows_of(step) for step in range(run.steps + 2)]
        run.run()
    assert [len(r) for r in rows[-2:]] == [0, 0]
    seen = [torch.cat([a.index, b.index]) for a, b in zip(run.method.given[::2], run.method.given[1::2], strict=True)]
    assert all(torch.equal(a, b) for a, b in zip(rows, seen, strict=False))
    with Feed(run.images.store, run.rows_of, CPU) as feed:
        assert len(feed.take(3).values) == run.batches.count == 18


def test_the_learning_rate_is_that_of_the_labeled_images(tmp_path: Path) -> None:
    """Per 256 labeled images, by the schedule of the plan."""
    run = trainer(tmp_path, Host())
    run.step = 9
    run._set_rate()
    assert run.optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * 6 / 256 * math.cos(7 / 16 * math.pi / 2))


def test_fixmatchs_learning_rate() -> None:
    """0.03 becomes 0.023190 halfway and 0.005853 at the end, after a warmup if there is one."""
    found = [0.03 * rate(step, steps=1000, warmup=0, schedule="cosine_7_16") for step in (0, 500, 1000)]
    assert found == pytest.approx([0.03, 0.02319, 0.005853], abs=5e-7)
    assert rate(4, steps=110, warmup=10, schedule="cosine_7_16") == pytest.approx(0.5)
    assert rate(60, steps=110, warmup=10, schedule="cosine") == pytest.approx(0.5)


# ---- what moves over a training


@pytest.mark.parametrize(("shape", "values"), [("gaussian", [0.006738, 0.286505, 1, 1]), ("linear", [0, 0.5, 1, 1])])
def test_a_weight_grows(shape: Any, values: list[float]) -> None:
    """Laine and Aila's ramp, and Lee's, at 0, 1/2 and 1 of the way, and after it."""
    growth = Growth(weight=100.0, shape=shape, begin=0.2, end=0.6)
    assert [growth.at(p) / 100 for p in (0.2, 0.4, 0.6, 0.9)] == pytest.approx(values, abs=1e-6)
    assert growth.at(0.1) == growth.at(0.2)
    assert Growth(weight=3.0, shape=shape, begin=0.0, end=0.0).at(0.0) == 3
    at_once = Growth(weight=100.0, shape=shape, begin=0.5, end=0.5)
    assert [at_once.at(p) / 100 for p in (0.4, 0.5)] == pytest.approx([values[0], 1], abs=1e-6)


def test_a_weight_begins_to_grow_before_it_ends() -> None:
    """The other way around is refused where params.yaml is checked."""
    with pytest.raises(pydantic.ValidationError, match=r"begin 0\.6 comes after end 0\.2"):
        Growth(weight=1.0, shape="linear", begin=0.6, end=0.2)


@pytest.mark.parametrize(
    ("shape", "values"),
    [("linear", [0.1, 0.55, 1]), ("exp", [0.106064, 0.173876, 1]), ("log", [0.1, 0.926124, 0.993936])],
)
def test_the_signal_is_annealed(shape: Any, values: list[float]) -> None:
    """UDA's thresholds for ten classes at the start, in the middle and at the end."""
    assert [Annealing(shape=shape).at(p, 10) for p in (0, 0.5, 1)] == pytest.approx(values, abs=1e-6)


def test_a_teacher_starts_with_the_plain_mean() -> None:
    """The momentum is 0, 1/2 and 0.9 after steps 0, 1 and 9, and never more than it is told."""
    assert [early(step, 0.999) for step in (0, 1, 9)] == [0, 0.5, 0.9]
    assert early(9, 0.7) == 0.7


@pytest.mark.parametrize(("momentum", "expected"), [(1.0, 2.0), (0.5, 2.25)])
def test_an_average_of_weights(momentum: float, expected: float) -> None:
    """Of the weights 1, 2, 3 the plain mean (fast-SWA) is 2, with momentum 1/2 it is 2.25; how many is state."""
    module = nn.Linear(1, 1, bias=False)
    average, fresh = Average(module, momentum=momentum), Average(nn.Linear(1, 1, bias=False), momentum=momentum)
    for weight in (1.0, 2.0):
        nn.init.constant_(module.weight, weight)
        average.add(module)
    fresh.load_state_dict(average.state_dict())
    nn.init.constant_(module.weight, 3.0)
    for each in (average, fresh):
        each.add(module)
        assert next(each.parameters()).item() == pytest.approx(expected)
        assert each.steps == 3


def test_an_average_has_statistics_of_its_own() -> None:
    """Adding weights leaves them; they are those of the batches that the average sees, in train mode."""
    module = nn.Sequential(nn.BatchNorm1d(3))
    average = Average(module, momentum=0.9)
    module(torch.randn(8, 3) + 5)
    average.add(module)
    assert not average.copies[0][0].running_mean.any()
    average(torch.ones(8, 3))
    assert average.copies[0][0].running_mean.tolist() == pytest.approx([0.1] * 3)


# ---- what fine-tuning leaves


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run with a three-layer projector, as `pretrain` leaves it."""
    spec = plugins.specify("encoders", {"name": "small_resnet", "width": 4, "blocks": 1}, "runs.a.encoder")
    torch.manual_seed(0)
    projection, encoder = Projection(layers=3, hidden=6, out=5, norm="all"), spec.make()
    config = _export.describe(spec, 16, 8, (0.0,) * 3, (1.0,) * 3) | {"projector": projection.model_dump()}
    folder = tmp_path / "run"
    _export.write(folder, spec, config)
    (folder / "seed-0").mkdir()
    _export.save_weights(encoder, folder / "seed-0" / "encoder.safetensors")
    _export.save_weights(Projector(16, projection), folder / "seed-0" / "projector.safetensors")
    return folder


@pytest.mark.parametrize(("head", "width"), [("h", 16), ("projector.1", 6), ("projector.2", 6)])
def test_what_is_kept_is_taken_up_again(run: Path, tmp_path: Path, head: str, width: int) -> None:
    """A tuned network, from any layer of its projector, gives the same scores after it was written and read."""
    model, network, features = pretrained(run, 0, head)
    assert features == width
    learned = load_file(run / "seed-0" / "projector.safetensors")
    assert all(torch.equal(value, learned[f"layers.{name}"]) for name, value in network[1].state_dict().items())
    linear, images = nn.Linear(width, 3), torch.rand(4, 3, 8, 8)
    network.train()(images)  # statistics that are not those of the run
    result = nn.Sequential(network, linear)
    keep(tmp_path / "kept", "1pct-draw-0", run, result, head, ["a", "b", "c"])
    again = kept(tmp_path / "kept", "1pct-draw-0")
    assert not again.training
    assert torch.allclose(again(images), result.eval()(images), atol=1e-5)
    pixels = torch.randint(0, 256, (5, 8, 8, 3), dtype=torch.uint8)
    classify = _model.load_classifier(tmp_path / "kept", "1pct-draw-0")
    scores = again(classify.model.preprocess(pixels))
    assert torch.allclose(classify(pixels), scores.softmax(1), atol=1e-5)
    assert classify.classes == ["a", "b", "c"]
    config = json.loads((tmp_path / "kept" / "config.json").read_text())
    assert (config["head"], config["classes"]) == (head, ["a", "b", "c"])
    assert model.features == 16


def test_a_kept_network_has_the_same_bytes_every_time(run: Path, tmp_path: Path) -> None:
    """Writing it twice gives equal files, and nothing but the listed ones."""
    _, network, width = pretrained(run, 0, "projector.1")
    result = nn.Sequential(network, nn.Linear(width, 2))
    for name in ("one", "two"):
        keep(tmp_path / name, "b-draw-0", run, result, "projector.1", ["a", "b"])
    files = {path.relative_to(tmp_path / "one").as_posix() for path in (tmp_path / "one").rglob("*") if path.is_file()}
    weights = {"b-draw-0/encoder.safetensors", "b-draw-0/head.safetensors"}
    assert files == {"model.py", "encoder.py", "config.json"} | weights
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in files)


def test_a_student_may_be_smaller_than_its_teacher(run: Path, tmp_path: Path) -> None:
    """Another network with the same classes learns from what was kept."""
    _, network, width = pretrained(run, 0, "projector.2")
    keep(
        tmp_path / "kept", "b-draw-0", run, nn.Sequential(network, nn.Linear(width, 3)), "projector.2", ["a", "b", "c"]
    )
    taught = objective("distill")
    taught.teacher.network = kept(tmp_path / "kept", "b-draw-0")
    loss = taught(Batch([torch.rand(6, 3, 8, 8)], torch.arange(6), torch.tensor([0, 1, -1, -1, -1, -1])))["loss"]
    loss.backward()
    assert all(p.grad is None for p in taught.teacher.network.parameters())


# ---- what cannot be done


class Data(NamedTuple):
    """Stands in for a prepared data set."""

    folder: Path
    pretrain: np.ndarray
    labels: np.ndarray
    budget_summary: dict

    def budget(self, name: str, seed: int) -> np.ndarray:
        return np.array([1, 4])

    def rows(self, split: str) -> np.ndarray:
        return np.array([1, 2, 4, 5])


def data(visible: list[int] = [0, 1, 2, 4, 7], used: int = 2) -> Any:  # noqa: B006  # it is only read
    return Data(Path("digits"), np.array(visible, int), np.arange(9), {"1pct": {"0": {"labels_used": used}}})


CELL = finetune.Cell("1pct", 0, 0)


def granted(prepared: Any, name: str) -> Images:
    """What an objective would see."""
    beside = finetune.unlabeled(prepared, plugins.specify("objectives", {"name": name, **SETTINGS[name]}, "x"))
    return finetune.granted(prepared, CELL, Packed(np.zeros((9, 2, 2, 3), np.uint8)), CPU, beside)


def test_unlabeled_images_are_the_visible_ones_of_train() -> None:
    """Those that pretraining may see and that are in train; labels are those of the budget alone."""
    images = granted(data(), "fixmatch")
    assert images.beside
    assert images.beside.rows.tolist() == [1, 2, 4]
    assert images.beside.ratio == 2
    assert images.labels.tolist() == [-1, 1, -1, -1, 4, -1, -1, -1, -1]
    assert granted(data(), "supervised").beside is None


def test_no_unlabeled_images_are_refused() -> None:
    """Where pretraining may see no train image there is nothing to learn from without label."""
    with pytest.raises(ParamsError, match=r"the objective fixmatch needs images .* put train into its pretrain_on"):
        granted(data(visible=[0, 7]), "fixmatch")


def test_a_budget_without_labels_is_refused(tmp_path: Path) -> None:
    """Every objective needs some; the sentence names the budget."""
    with pytest.raises(ParamsError, match=r"the budget 1pct of digits grants no label \(seed 0\) and every objective"):
        finetune.cells_of(data(used=0), "1pct", tmp_path)


@pytest.mark.parametrize(("name", "given"), [("supervised", 2), ("fixmatch", 1), ("mean_teacher", 3)])
def test_a_wrong_number_of_views_is_refused(name: str, given: int) -> None:
    """The sentence says how many the objective takes, and of which roles."""
    tuned = objective(name)
    plan = Plan("1pct", 0, 1, None, lambda *_: [torch.zeros(1)] * given, "fp32", None, None)  # type: ignore[arg-type]
    wanted = f"make {given} .* the objective {name} takes {len(tuned.views)} \\({', '.join(tuned.views)}\\)"
    with pytest.raises(ParamsError, match=wanted):
        finetune.require_views(plan, tuned, granted(data(), name), name)


def test_the_protocol_says_what_was_learned_from() -> None:
    """Images without label and a teacher are named beside the objective; without either it is the objective alone."""
    some, own = Beside(torch.arange(1200), 7), "stages/objectives/supervised.py"
    distilled = plugins.specify("objectives", DISTILL, "x")
    said = "distill objective after simclr beside 1,200 images without label"
    assert finetune.taught(distilled, some, "data/classifiers/simclr") == said
    assert (
        finetune.taught(plugins.specify("objectives", {"name": "supervised"}, "x"), None, own) == "supervised objective"
    )


FIXMATCH = {"name": "fixmatch", "unlabeled": 7, "weight": 1.0, "threshold": 0.95, "momentum": 0.999}
WEAK_STRONG = {
    "name": "weak_strong",
    "roles": ["weak", "strong"],
    "crop": {"padding": 1},
    "flip": 0.0,
    "rotation": 15.0,
    "operations": 2,
    "magnitude": 1.0,
    "cutout": 0.5,
}
DISTILL = {"name": "distill", "unlabeled": 7, "alpha": 1.0, "temperature": 1.0}


@pytest.fixture
def study(tmp_path: Path) -> dict[str, Any]:
    """A study with a supervised finetune, one by FixMatch, and one that distils the first."""
    values = written(tmp_path, STUDY)
    semi = {"objective": FIXMATCH, "teacher": "stages/objectives/fixmatch.py", "views": WEAK_STRONG}
    pupil = {"objective": DISTILL, "teacher": "data/classifiers/tuned"}
    return values | {
        "finetunes": copy.deepcopy({"tuned": FINETUNE, "semi": FINETUNE | semi, "pupil": FINETUNE | pupil})
    }


def test_right_finetunes_are_accepted(study: dict[str, Any]) -> None:
    """The three as they are."""
    from pipeline import params

    params.check(study)


@pytest.mark.parametrize(
    ("place", "value", "says"),
    [
        (
            "semi/views/roles",
            ["strong", "weak"],
            "finetunes.semi.views: the objective fixmatch takes the views weak, strong of an image and the policy "
            "weak_strong makes strong, weak: write name: weak_strong with roles: [weak, strong]",
        ),
        (
            "semi/views",
            {"name": "identity"},
            "the policy identity does not tell its views apart: write name: weak_strong",
        ),
        (
            "tuned/views",
            WEAK_STRONG,
            "the objective supervised takes the views weak of an image and the policy weak_strong",
        ),
        ("semi/objective/threshold", 0.0, "finetunes.semi.objective.threshold: must be a number greater than 0 and"),
        ("semi/objective/unlabeled", 0, "finetunes.semi.objective.unlabeled: must be a whole number greater"),
        ("semi/teacher", "data/classifiers/tuned", "the objective fixmatch has no teacher, so this must be stages/obj"),
        ("tuned/teacher", "stages/objectives/fixmatch.py", "this must be stages/objectives/supervised.py, not stages"),
        ("pupil/teacher", "stages/objectives/distill.py", "must be data/classifiers/<finetune>, what another finetune"),
        ("pupil/teacher", "data/classifiers/tunedd", "there is no finetune 'tunedd'; did you mean 'tuned'? The others"),
        ("pupil/teacher", "data/classifiers/pupil", "pupil learns from pupil: one of them needs an objective without"),
        ("tuned/budgets", [], "finetunes.tuned.budgets"),
        ("tuned/training/schedule", "step", "'cosine' or 'cosine_7_16'"),
    ],
)
def test_wrong_finetunes_are_refused_in_a_sentence(study: dict[str, Any], place: str, value: Any, says: str) -> None:
    """The sentence names the place and what would be right."""
    assert says in refused(put(study, f"finetunes/{place}", value))


def test_finetunes_that_teach_each_other_are_refused(study: dict[str, Any]) -> None:
    """The whole circle is named."""
    study["finetunes"]["other"] = study["finetunes"]["pupil"] | {"teacher": "data/classifiers/pupil"}
    says = refused(put(study, "finetunes/pupil/teacher", "data/classifiers/other"))
    assert "finetunes.pupil.teacher: pupil learns from other learns from pupil: one of them" in says


def test_a_teacher_has_learned_the_same(study: dict[str, Any]) -> None:
    """Its classes, every budget, and images of the same size and normalization."""
    data = copy.deepcopy(study)
    data["datasets"]["other"] = data["datasets"]["digits"]
    says = refused(put(data, "finetunes/tuned/dataset", "other"))
    assert "finetunes.pupil.teacher: 'tuned' has learned the classes of other: name one of digits" in says
    budgets = copy.deepcopy(study)
    budgets["datasets"]["digits"]["budgets"]["10pct"] = budgets["datasets"]["digits"]["budgets"]["1pct"]
    says = refused(put(budgets, "finetunes/pupil/budgets", ["1pct", "10pct"]))
    assert "finetunes.pupil.teacher: 'tuned' has learned no budget '10pct': add it to its budgets" in says
    study["runs"]["lars"]["input"] = {"side": 16, "mean": [0, 0, 0], "std": [1, 1, 1]}
    says = refused(put(study, "finetunes/tuned/run", "lars"))
    assert "the run 'lars' of 'tuned' has another input than 'simclr'" in says


def test_a_teacher_is_tuned_first(study: dict[str, Any], tmp_path: Path) -> None:
    """The pupil's stage depends on what the teacher's leaves, and of the other stages only the report."""
    folder = planned(tmp_path / "project", study)
    nodes = {node.name: node for node in graph.read(folder)}
    assert "finetune@tuned" in nodes["finetune@pupil"].upstream
    assert [name for name, node in nodes.items() if "finetune@tuned" in node.upstream] == ["finetune@pupil", "report"]
    assert "data/classifiers/tuned" in nodes["finetune@tuned"].outs
