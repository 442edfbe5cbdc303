"""Claims about training.

- LARS is the paper's update; biases and normalization get neither decay nor a trust ratio, under SGD and AdamW as well
- the learning rate warms up linearly and falls as a half cosine
- a training interrupted or killed anywhere ends in the bits of the uninterrupted one, monitor or not
- a damaged checkpoint is passed over, a loss that is not finite is replayed once, then named
- a batch that cannot be shared or does not fit into memory is refused with one that can
"""

import os
import random
import re
import signal
import threading
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from tqdm import tqdm
from training_cases import SGD, Host, make_views, same

from pipeline.errors import Stopped, TrainingError
from pipeline.params import ParamsError, arguments
from stages.datasets._storage import Packed
from stages.methods._method import Batch, Learner, Method, Setting
from stages.pretrain import compile_encoder
from stages.training import guards, loop, monitor
from stages.training.checkpoints import Checkpoints
from stages.training.loop import Images, Plan, Trainer, Training
from stages.training.optimizers import LARS, AdamW, Lars, Optimizer, make_optimizer
from stages.training.randomness import seeded, shuffled
from stages.training.schedules import warmup_cosine

ADAMW = AdamW(name="adamw", learning_rate=0.1, betas=(0.9, 0.999), weight_decay=0.05)


class Noisy(Learner):
    """Learns the mean of its images under batch normalization and dropout: weights, buffers and random draws matter.

    Its loss is not finite at the calls `bad_at`; there is memory for `room` images.
    """

    def __init__(self, bad_at: tuple[int, ...] = (), room: int = 1000) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(48, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 1))
        self.bad_at, self.room, self.calls = list(bad_at), room, 0

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        self.calls += 1
        if len(batch.index) > self.room:
            torch.empty(2**60, dtype=torch.uint8)
        loss = (self.net(batch.views[0]) - batch.views[0].mean((1, 2, 3))[:, None]).square().mean()
        if self.calls in self.bad_at:
            loss = loss * float("nan")
        return {"loss": loss, "calls": torch.tensor(1.0)}

    def after_step(self, progress: float) -> None:
        self.progress = progress


def trainer(
    folder: Path,
    host: Host,
    *,
    images: int = 40,
    batch: int = 8,
    pieces: int = 1,
    epochs: int = 6,
    look=None,
    bad=(),
    room=1000,
    optimizer=SGD,
):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        method = Noisy(bad, room)
    pixels = torch.randint(0, 256, (images, 4, 4, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    settings = Training(batch_size=batch, accumulate=pieces, optimizer=optimizer, warmup_epochs=1)
    plan = Plan("seed-0", 0, epochs, settings, make_views, "fp32", look, None)
    data = Images(Packed(pixels.numpy()), torch.full((images,), -1), torch.arange(images))
    return Trainer(method, data, plan, Checkpoints(folder), host)


def trained(folder: Path, *stops: int, **options) -> tuple[dict[str, Tensor], list]:
    """The final weights and curves of a training stopped and resumed at the given checks of each attempt."""
    for stop in stops:
        with seeded(0, torch.device("cpu")), pytest.raises(Stopped):
            trainer(folder, Host(stop), **options).run()
    with seeded(0, torch.device("cpu")):
        run = trainer(folder, Host(), **options)
        curves = run.run()
    return run.method.state_dict(), curves


def test_lars_is_the_published_update() -> None:
    """The check of the paper's rule: w = (3, 4), g = (.6, .8), wd .01, eta .001, lr 1 gives w = (2.997, 3.996)."""
    weight = nn.Parameter(torch.tensor([[3.0, 4.0]], dtype=torch.float64))
    weight.grad = torch.tensor([[0.6, 0.8]], dtype=torch.float64)
    LARS([{"params": [weight], "weight_decay": 0.01}], momentum=0.9, trust=0.001, lr=1.0).step()
    assert torch.allclose(weight, torch.tensor([[2.997, 3.996]], dtype=torch.float64), atol=1e-12)


def test_lars_momentum_holds_the_scaled_step() -> None:
    """The second step adds 0.9 of the first: v <- m v + lr r g'."""
    weight = nn.Parameter(torch.tensor([[3.0, 4.0]], dtype=torch.float64))
    optimizer = LARS([{"params": [weight], "weight_decay": 0.0}], momentum=0.9, trust=0.001, lr=1.0)
    weight.grad = torch.tensor([[0.6, 0.8]], dtype=torch.float64)
    optimizer.step()
    first = torch.tensor([[3.0, 4.0]], dtype=torch.float64) - weight.detach()
    ratio = 0.001 * float(weight.detach().norm()) / 1.0
    before = weight.detach().clone()
    optimizer.step()
    expected = before - (0.9 * first + ratio * torch.tensor([[0.6, 0.8]], dtype=torch.float64))
    assert torch.allclose(weight, expected, atol=1e-12)


def test_lars_takes_ratio_one_where_a_norm_is_zero() -> None:
    """Zero weights move by lr * g, and zero gradients leave the weight alone but for decay."""
    weight = nn.Parameter(torch.zeros(1, 2))
    weight.grad = torch.ones(1, 2)
    LARS([{"params": [weight], "weight_decay": 0.0}], momentum=0.9, trust=0.001, lr=0.5).step()
    assert torch.equal(weight.detach(), torch.full((1, 2), -0.5))


@pytest.mark.parametrize(
    "settings", [SGD, Lars(name="lars", learning_rate=1.0, momentum=0.9, weight_decay=0.01, trust=0.001)]
)
def test_one_dimensional_parameters_are_excluded(settings) -> None:
    """Biases and normalization get no weight decay, and under LARS no trust ratio: they move by lr * g."""
    module = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    optimizer = make_optimizer(module, settings)
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    for p in module.parameters():
        p.grad = torch.full_like(p, 0.5)
    optimizer.step()
    for name, p in module.named_parameters():
        moved_plainly = torch.allclose(before[name] - p.detach(), torch.full_like(p, 0.05))
        assert moved_plainly == (p.ndim == 1), name


def test_adamw_decays_weights_apart_from_the_gradient() -> None:
    """The first step is lr · sign(g), after a decay by lr · wd of the weights alone, apart from the gradient."""
    module = nn.Linear(3, 2)
    optimizer = make_optimizer(module, ADAMW)
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    for p in module.parameters():
        p.grad = torch.full_like(p, -0.5)
    optimizer.step()
    torch.testing.assert_close(module.weight.detach(), before["weight"] * (1 - 0.1 * 0.05) + 0.1)
    torch.testing.assert_close(module.bias.detach(), before["bias"] + 0.1)


def test_adamw_goes_on_to_the_same_bits(tmp_path) -> None:
    """Its moments and its count of steps are part of the state."""
    weights, curves = trained(tmp_path / "whole", optimizer=ADAMW)
    again, resumed = trained(tmp_path / "parts", 3, 7, optimizer=ADAMW)
    assert same(weights, again)
    assert curves == resumed


def test_an_unknown_optimizer_names_the_known_ones() -> None:
    """`optimizer: {name: rmsprop}` says which optimizers there are."""

    def settings(*, optimizer: Optimizer) -> None: ...

    with pytest.raises(ParamsError, match=r"optimizer.*sgd.*lars.*adamw"):
        arguments(settings, {"optimizer": {"name": "rmsprop", "learning_rate": 1.0}}, "runs.simclr")


def test_learning_rate_warms_up_and_falls_as_a_cosine() -> None:
    """Linear from 1/warmup to 1, half of the peak half-way down, near zero at the end."""
    factors = [warmup_cosine(step, steps=110, warmup=10) for step in range(110)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[9] == factors[10] == 1.0
    assert factors[60] == pytest.approx(0.5)
    assert 0 < factors[-1] < 0.001
    assert factors[10:] == sorted(factors[10:], reverse=True)


def test_every_epoch_has_its_own_order_of_the_same_rows() -> None:
    """An epoch visits each row once, in an order that depends on seed and epoch only."""
    rows = torch.arange(100, 200)
    orders = {(seed, epoch): shuffled(rows, seed=seed, epoch=epoch) for seed in (0, 1) for epoch in (0, 1)}
    assert all(torch.equal(order.sort().values, rows) for order in orders.values())
    assert len({tuple(order.tolist()) for order in orders.values()}) == 4
    assert torch.equal(shuffled(rows, seed=1, epoch=1), orders[1, 1])


@pytest.mark.parametrize("stops", [(1,), (7,), (5,), (3, 4, 9), (29,)])
def test_interrupted_training_ends_in_the_same_bits(tmp_path, stops) -> None:
    """Stopped in mid-epoch, at an epoch's end, several times: weights and curves equal the uninterrupted ones."""
    weights, curves = trained(tmp_path / "whole")
    again, resumed = trained(tmp_path / "parts", *stops)
    assert same(weights, again)
    assert curves == resumed
    assert len(curves) == 6
    assert curves[-1]["loss"] < curves[0]["loss"]


def test_a_killed_training_goes_on_from_its_last_checkpoint(tmp_path, monkeypatch) -> None:
    """Without a chance to save (kill -9), the state is an older checkpoint, and the end is the same."""
    weights, curves = trained(tmp_path / "whole")
    monkeypatch.setattr(Host, "stopping", False)
    monkeypatch.setattr(Checkpoints, "due", property(lambda self: True))
    with seeded(0, torch.device("cpu")), pytest.raises(Stopped):
        trainer(tmp_path / "killed", Host(11)).run()
    newest = max((tmp_path / "killed").glob("*.pt"))
    newest.unlink()
    again, resumed = trained(tmp_path / "killed")
    assert same(weights, again)
    assert curves == resumed


def test_a_training_killed_at_random_instants_ends_in_the_same_bits(tmp_path, monkeypatch) -> None:
    """Twenty SIGKILLs, each at any instant of a process that goes on where the last one was killed."""
    monkeypatch.setattr(Checkpoints, "due", property(lambda self: True))
    weights, curves = trained(tmp_path / "whole", epochs=12)
    draws = random.Random(0)
    steps = []
    for _ in range(20):
        child = os.fork()
        if not child:
            tqdm.set_lock(threading.RLock())  # the parent's is shared: killed while it holds it, all would wait
            threading.Timer(draws.uniform(0.01, 0.15), os.kill, [os.getpid(), signal.SIGKILL]).start()
            trained(tmp_path / "killed", epochs=12)
            signal.pause()  # it was faster
        draws.random()
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        steps.append(max((file.stem for file in (tmp_path / "killed").glob("*.pt")), default="0"))
    assert steps == sorted(steps)
    again, resumed = trained(tmp_path / "killed", epochs=12)
    assert same(weights, again)
    assert curves == resumed


def test_a_damaged_checkpoint_is_passed_over(tmp_path, capsys) -> None:
    """A truncated newest checkpoint is named, and the one before it gives the same end."""
    weights, _ = trained(tmp_path / "whole")
    with seeded(0, torch.device("cpu")), pytest.raises(Stopped):
        trainer(tmp_path / "damaged", Host(11)).run()
    newest = max((tmp_path / "damaged").glob("*.pt"))
    newest.write_bytes(newest.read_bytes()[:-7])
    again, _ = trained(tmp_path / "damaged")
    assert same(weights, again)
    assert newest.name in capsys.readouterr().out


def test_the_monitor_changes_no_bit(tmp_path) -> None:
    """With a look after every epoch or none the weights are the same, and the looks are logged."""
    weights, _ = trained(tmp_path / "without")
    host, images, labels = Host(), torch.rand(20, 3, 4, 4), torch.arange(20) % 2
    with seeded(0, torch.device("cpu")):
        run = trainer(tmp_path / "with", host)
        encoder = run.method.net[:3]  # with its batch normalization
        run.plan = run.plan._replace(
            look=lambda epoch: monitor.look(encoder, monitor.Look(images, labels, images, labels))
        )
        run.run()
    assert same(weights, run.method.state_dict())
    assert [step for step, metrics in host.logged if "seed-0.monitor.knn" in metrics] == list(range(6))


def test_a_look_leaves_the_encoder_as_it_was() -> None:
    """Looking runs in eval mode: running statistics, weights and the training flag stay."""
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(12, 6), nn.BatchNorm1d(6))
    encoder.train()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    images = torch.rand(30, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(30) % 3
    seen = monitor.look(encoder, monitor.Look(images, labels, images, labels))
    assert same(before, encoder.state_dict())
    assert encoder.training
    assert seen["monitor.knn"] > 0.5
    assert 1 <= seen["monitor.rank"] <= 6


def test_a_passing_fault_is_replayed(tmp_path, capsys) -> None:
    """A loss that is not finite once (a hardware fault) is noted and leaves no trace in the result."""
    weights, curves = trained(tmp_path / "whole")
    with seeded(0, torch.device("cpu")):
        run = trainer(tmp_path / "fault", Host(), bad=(13,))
        assert run.run() == curves
    assert same(weights, run.method.state_dict())
    assert "not finite at step" in capsys.readouterr().out


def test_weights_that_are_lost_are_never_kept(tmp_path, monkeypatch) -> None:
    """A fault that leaves the loss finite and the weights not is no checkpoint, so the replay starts before it."""
    weights, curves = trained(tmp_path / "whole")
    monkeypatch.setattr(Checkpoints, "due", property(lambda self: True))
    with seeded(0, torch.device("cpu")):
        run = trainer(tmp_path / "fault", Host())
        faults = [7]

        def after_step(progress: float) -> None:
            if run.step in faults:
                faults.remove(run.step)
                run.method.net[1].weight.data.fill_(float("nan"))

        monkeypatch.setattr(run.method, "after_step", after_step)
        assert run.run() == curves
    assert same(weights, run.method.state_dict())


class Signaled(Host):
    """Stands in for a stage that a signal reached: it stops at every check from then on."""

    signaled = False

    @property
    def stopping(self) -> bool:
        return self.signaled

    def check(self) -> None:
        if self.signaled:
            raise Stopped(15)


def test_a_signal_at_any_time_leaves_the_state(tmp_path) -> None:
    """One that comes while the monitor looks is obeyed after the next step, when the state is saved."""
    weights, _ = trained(tmp_path / "whole")
    host = Signaled()
    with seeded(0, torch.device("cpu")), pytest.raises(Stopped):
        trainer(tmp_path / "stopped", host, look=lambda epoch: setattr(host, "signaled", epoch == 1) or {}).run()
    assert max(file.stem for file in (tmp_path / "stopped").glob("*.pt")) == "000000011"
    assert same(weights, trained(tmp_path / "stopped")[0])


def test_a_lasting_fault_names_step_and_images(tmp_path) -> None:
    """A loss that is not finite again stops the training with the step, the images and what to try."""
    with seeded(0, torch.device("cpu")), pytest.raises(TrainingError, match=r"step 13, twice.*rows\).*learning rate"):
        trainer(tmp_path, Host(), bad=(13, 28)).run()


def test_a_batch_larger_than_the_data_is_refused(tmp_path) -> None:
    """The error gives the number of images and what would be right."""
    with pytest.raises(
        TrainingError, match="batch_size 64 is larger than the 40 images it may see; make it 40 or less"
    ):
        trainer(tmp_path, Host(), batch=64)


def test_a_batch_that_has_no_equal_shares_is_refused(monkeypatch, tmp_path) -> None:
    """Three ranks cannot share 8 images: the error names the nearest batch that they can."""
    monkeypatch.setattr(loop, "ranks", lambda: 3)
    with pytest.raises(TrainingError, match=r"batch_size 8 .* 3 rank\(s\) in 1 piece\(s\) .* nearest that can is 9"):
        trainer(tmp_path, Host())


def test_a_batch_that_has_no_equal_pieces_is_refused() -> None:
    """`accumulate: 3` of 8 images is a wrong value of params.yaml, with one that is right."""

    def settings(*, training: Training) -> None: ...

    values = {"batch_size": 8, "accumulate": 3, "optimizer": SGD.model_dump(), "warmup_epochs": 1.0}
    with pytest.raises(ParamsError, match="accumulate 3 does not divide batch_size 8, but 9"):
        arguments(settings, {"training": values}, "runs.simclr")


@pytest.mark.parametrize(
    ("room", "pieces", "says"),
    [
        (3, 1, "step 0 with 8 images at once; 2 fit: training.accumulate 4 makes the same step in 4 pieces"),
        (2, 2, "step 0 with 4 images at once; 2 fit: training.accumulate 4 makes the same step in 4 pieces"),
        (0, 1, "step 0 with 8 images at once, and no part of them fits"),
    ],
)
def test_a_batch_that_memory_cannot_hold_is_refused(tmp_path, room: int, pieces: int, says: str) -> None:
    """The error says how many images fit, by trying, and how to train with them; the state is kept."""
    with seeded(0, torch.device("cpu")), pytest.raises(TrainingError, match=re.escape(says)):
        trainer(tmp_path, Host(), room=room, pieces=pieces).run()
    assert [file.name for file in tmp_path.glob("*.pt")] == ["000000000.pt"]


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_a_compiled_encoder_is_the_same_network(monkeypatch) -> None:
    """The names of its weights stay, what the compiler is given computes what the network does; a look goes past it."""
    given = []

    def backend(graph, inputs):
        given.append(graph)
        return graph

    compiler = torch.compile
    monkeypatch.setattr(torch, "compile", lambda what, mode, dynamic: compiler(what, backend=backend, dynamic=dynamic))
    learner = Method(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)), Setting(3, 8, torch.arange(8), 0, 8))
    names, images = list(learner.state_dict()), torch.randn(5, 4)
    expected = learner.encoder(images)
    compile_encoder(learner, torch.device("cpu"))
    torch.testing.assert_close(learner.encoder(images), expected)
    assert len(given) == 1
    learner.encoder.eval()
    learner.encoder(images[:2])
    assert len(given) == 1
    assert list(learner.state_dict()) == names


def test_collapse_is_said_aloud() -> None:
    """Features in one point trigger the warning, isotropic ones do not."""
    isotropic = torch.randn(500, 16, generator=torch.Generator().manual_seed(0))
    assert guards.spread(isotropic) == pytest.approx(1, abs=0.05)
    assert guards.collapse_warning("seed-0", guards.spread(isotropic)) is None
    collapsed = torch.ones(500, 16) + 0.01 * isotropic
    assert "collapsed" in (guards.collapse_warning("seed-0", guards.spread(collapsed)) or "")
