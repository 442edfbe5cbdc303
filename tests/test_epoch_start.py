"""The look at all images before an epoch: when it happens, what a method is given, that a resume does not repeat it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from training_cases import SGD, Host, make_views, same

from pipeline.errors import Stopped
from stages.datasets._storage import Packed
from stages.methods._method import Batch, Learner
from stages.training.checkpoints import Checkpoints
from stages.training.loop import Images, Plan, Trainer, Training
from stages.training.randomness import seeded

ROWS = torch.tensor([11, 2, 3, 5, 7, 0, 13, 17, 1, 9])  # of 20 images; two batches of four, two images left over


class Follower(Learner):
    """Pulls its images towards the mean that all of them had before the epoch, and notes what it is given."""

    target: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(48, 4), nn.BatchNorm1d(4))
        self.register_buffer("target", torch.zeros(4))
        self.epochs: list[float] = []
        self.steps: list[float] = []
        self.modes: list[bool] = []

    def on_epoch_start(self, progress: float, represented: Callable[[], tuple[Tensor, Tensor]]) -> None:
        self.epochs.append(progress)
        self.index, self.rows = represented()
        self.target.copy_(self.rows.mean(0) + progress)

    def represent(self, images: Tensor) -> Tensor:
        self.modes.append(self.training)
        return self.net(images)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        self.steps.append(batch.progress)
        assert self.training
        return {"loss": (self.net(batch.views[0]) - self.target).square().mean()}


def trainer(folder: Path, host: Host, epochs: int = 3) -> Trainer:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        method = Follower()
    pixels = torch.randint(0, 256, (20, 4, 4, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))

    def plain() -> Iterator[Tensor]:
        return iter((pixels[ROWS].permute(0, 3, 1, 2).float() / 255).split(3))

    settings = Training(batch_size=4, accumulate=1, optimizer=SGD, warmup_epochs=0)
    plan = Plan("seed-0", 0, epochs, settings, make_views, "fp32", None, plain)
    return Trainer(method, Images(Packed(pixels.numpy()), torch.full((20,), -1), ROWS), plan, Checkpoints(folder), host)


def test_every_epoch_begins_with_it(tmp_path: Path) -> None:
    """Once an epoch, before its first step, with the share of the training that is done; so is every batch."""
    run = trainer(tmp_path, Host())
    run.run()
    assert run.method.epochs == [0, 1 / 3, 2 / 3]
    assert run.method.steps == pytest.approx([0, 1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6])


def test_all_visible_images_are_seen_as_they_are(tmp_path: Path) -> None:
    """Those it may see, also what no batch of the epoch holds, in eval mode, without gradient, and by their index."""
    run = trainer(tmp_path, Host(), epochs=1)
    twin = trainer(tmp_path / "twin", Host(), epochs=1)
    run.run()
    assert torch.equal(run.method.index, ROWS)
    expected = torch.cat([twin.method.eval().represent(part) for part in twin.plan.plain()])
    assert torch.equal(run.method.rows, expected)
    assert not run.method.rows.requires_grad
    assert not any(run.method.modes)


@pytest.mark.parametrize("stop", [1, 2, 3, 4, 5])
def test_a_resumed_epoch_keeps_what_was_found(tmp_path: Path, stop: int) -> None:
    """Stopped after any step it ends in the same bits; in mid-epoch it does not look again."""
    with seeded(0, torch.device("cpu")):
        whole = trainer(tmp_path / "whole", Host())
        whole.run()
    with seeded(0, torch.device("cpu")), pytest.raises(Stopped):
        trainer(tmp_path / "cut", Host(stop)).run()
    with seeded(0, torch.device("cpu")):
        resumed = trainer(tmp_path / "cut", Host())
        resumed.run()
    assert same(whole.method.state_dict(), resumed.method.state_dict())
    assert len(resumed.method.epochs) == 3 - (stop + 1) // 2
    assert whole.curves == resumed.curves
