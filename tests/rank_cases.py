"""What test_ranks.py compares between one rank and several: the same work on the same whole batch.

As a script it is one of the ranks: it does the work and leaves what came out in the file that it is given.
"""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from method_cases import UNTRAINED, batch, method
from torch import Tensor, nn

from pipeline import plugins
from pipeline.errors import Stopped
from stages.datasets._storage import Packed
from stages.encoders.small_resnet import SmallResNet
from stages.methods._method import Batch, Learner
from stages.networks.gathering import all_rows, gather, rank, ranks
from stages.networks.normalization import share_normalization
from stages.training.checkpoints import Checkpoints
from stages.training.distributed import joined, own, sum_gradients
from stages.training.loop import Images, Plan, Trainer, Training
from stages.training.optimizers import Sgd
from stages.training.randomness import seeded
from stages.views._draws import Source
from stages.views._operations import Pixels

Outcome = dict[str, Tensor]
EXAMPLES = ["simclr", "supervised"]  # of what single precision keeps
VARIANTS: dict[str, dict[str, object]] = {"npid with drawn negatives": {"negatives": 4}}  # other ways of a method
TRAINED = sorted({*plugins.names("methods"), *VARIANTS} - UNTRAINED)
NORMALIZATIONS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "rows": (lambda: nn.BatchNorm1d(5), (8, 5)),
    "sequences": (lambda: nn.BatchNorm1d(5), (8, 5, 3)),
    "maps": (lambda: nn.BatchNorm2d(5), (8, 5, 3, 3)),
    "no weights": (lambda: nn.BatchNorm1d(5, affine=False), (8, 5)),
    "all batches alike": (lambda: nn.BatchNorm1d(5, momentum=None), (8, 5)),
    "no running statistics": (lambda: nn.BatchNorm2d(5, track_running_stats=False), (8, 5, 3, 3)),
    "fixed shift": (lambda: fixed(nn.BatchNorm1d(5)), (8, 5)),
}
SGD = Sgd(name="sgd", learning_rate=2.0, momentum=0.9, nesterov=False, weight_decay=0.01)


def whole(rows: Tensor) -> Tensor:
    """The rows of all ranks, without gradient."""
    return rows if ranks() == 1 else all_rows(rows)


def fixed(layer: nn.BatchNorm1d) -> nn.BatchNorm1d:
    """As the last layer of a projector has it."""
    layer.bias.requires_grad_(False)
    return layer


def shared(module: nn.Module) -> nn.Module:
    if ranks() > 1:
        share_normalization(module)
    return module


def gathered() -> Outcome:
    """Value and gradient of a function of all rows."""
    x = torch.randn(8, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mine = own(torch.arange(8), 1)
    rows = x[mine].requires_grad_()
    z = gather(rows)
    (z @ z.T).softmax(1).diagonal().prod().backward()
    assert rows.grad is not None
    return {"rows": z.detach(), "index": gather(mine), "gradient": whole(rows.grad)}


def normalized(name: str, dtype: torch.dtype) -> Outcome:
    """Two steps of one layer, far from zero mean: outputs, gradients, running statistics, and a look in eval mode."""
    make, shape = NORMALIZATIONS[name]
    layer = shared(make().to(dtype))
    found: Outcome = {}
    for step in range(2):
        generator = torch.Generator().manual_seed(step)
        x = (torch.randn(*shape, generator=generator, dtype=torch.float64) + 30).to(dtype)
        target = torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)
        rows = x[own(torch.arange(8), 1)].requires_grad_()
        out = layer(rows)
        layer.zero_grad()
        (gather(out.relu()) * target).sum().square().backward()
        if list(layer.parameters()):
            sum_gradients(layer)
        assert rows.grad is not None
        found |= {f"{step}.out": whole(out.detach()), f"{step}.gradient": whole(rows.grad)}
        found |= {f"{step}.{n}": p.grad for n, p in layer.named_parameters() if p.grad is not None}
    found |= {f"buffer.{n}": buffer.clone() for n, buffer in layer.named_buffers()}
    if layer.running_mean is not None:
        found["eval"] = layer.eval()(x).detach()
    return found


def stepped(name: str, dtype: torch.dtype) -> Outcome:
    """Two steps of a method: losses, summed gradients of the first, everything in the state_dict at the end."""
    learner = method(name.split()[0], **VARIANTS.get(name, {})).to(dtype).train()
    shared(learner)
    torch.manual_seed(0)
    found: Outcome = {}
    for step in range(2):
        given, mine = batch(learner.views, seed=step), own(torch.arange(12), 1)
        part = Batch([view.to(dtype)[mine] for view in given.views], given.index[mine], given.labels[mine])
        learner.zero_grad()
        scalars = learner(part)
        scalars["loss"].backward()
        sum_gradients(learner)
        found |= {f"{step}.{n}": value.detach() for n, value in scalars.items()}
        with torch.no_grad():
            for n, p in learner.named_parameters():
                if p.grad is not None:
                    found |= {f"gradient.{n}": p.grad.clone()} if step == 0 else {}
                    p.sub_(0.1 * p.grad)
        learner.after_step((step + 1) / 2)
    return found | {f"state.{n}": value.clone() for n, value in learner.state_dict().items()}


class Contrast(Learner):
    """Two noisy copies of an image attract, all others repel; with batch normalization or without."""

    def __init__(self, norm: bool) -> None:
        super().__init__()
        torch.manual_seed(3)
        flat = nn.Sequential(nn.Flatten(), nn.Linear(192, 16), nn.ReLU())
        self.encoder = SmallResNet(width=4, blocks=1) if norm else flat
        self.norm = norm

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        h = gather(self.encoder(batch.views[0]))
        if not self.norm:  # a mean over images: pieces make up the whole
            return {"loss": (h.mean(1) - gather(batch.views[0]).mean((1, 2, 3))).square().mean()}
        return {"loss": torch.cdist(h, h).div(-4).exp().mean(), "spread": h.detach().std()}


def make_views(images: Pixels, source: Source) -> list[Tensor]:
    return [images.values.permute(0, 3, 1, 2).float() / 255 + source.view(0).uniform(0, 0.1)[:, None, None, None]]


class Host:
    """Stops the training at the given step."""

    def __init__(self, stop: int | None = None) -> None:
        self.stop, self.checks = stop, 0

    @property
    def stopping(self) -> bool:
        return not rank() and self.checks + 1 == self.stop

    def check(self) -> None:
        self.checks += 1

    def log(self, metrics: dict[str, float], step: int | None = None) -> None: ...


def trained(folder: Path, *, pieces: int, norm: bool = True, stop: int | None = None) -> Outcome:
    """Weights, statistics and losses after three epochs of five steps, from the folder's checkpoint if there is one."""
    with seeded(0, torch.device("cpu")):
        learner = Contrast(norm)
        shared(learner)
        pixels = torch.randint(0, 256, (40, 8, 8, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
        settings = Training(batch_size=8, accumulate=pieces, optimizer=SGD, warmup_epochs=1)
        plan = Plan("seed-0", 0, 3, settings, make_views, "fp32", look=None, plain=None)
        data = Images(Packed(pixels.numpy()), torch.full((40,), -1), torch.arange(40))
        curves = Trainer(learner, data, plan, Checkpoints(folder), Host(stop)).run()
    return learner.state_dict() | {f"{n}.{row['epoch']}": torch.tensor(row[n]) for row in curves for n in row}


def interrupted(folder: Path) -> Outcome:
    """The same training, stopped in the middle of its second epoch; only rank 0 has its checkpoint."""
    try:
        trained(folder, pieces=1, stop=7)
    except Stopped:
        return trained(folder, pieces=1)
    raise AssertionError("it was not stopped")


def all_outcomes(folder: Path) -> dict[str, Outcome]:
    """Everything; `folder` is this rank's own."""
    found = {"gather": gathered()}
    for dtype in (torch.float64, torch.float32):
        found |= {f"normalization {name} {dtype}": normalized(name, dtype) for name in NORMALIZATIONS}
        names = TRAINED if dtype == torch.float64 else EXAMPLES
        found |= {f"method {name} {dtype}": stepped(name, dtype) for name in names}
    for pieces in (1, 2):
        found[f"training in {pieces}"] = trained(folder / f"in-{pieces}", pieces=pieces)
    found["training without normalization in 1"] = trained(folder / "plain-1", pieces=1, norm=False)
    found["training without normalization in 4"] = trained(folder / "plain-4", pieces=4, norm=False)
    found["training interrupted"] = interrupted(folder / "interrupted")
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    with joined(torch.device("cpu")), tempfile.TemporaryDirectory() as own_folder:
        torch.save(all_outcomes(Path(own_folder)), sys.argv[1])
