"""How any method is trained. The loop knows no method; a method knows no device, optimizer or logger.

    rows of this epoch → batch → views (on the device) → method → loss → optimizer → after_step

State is a checkpoint: method, optimizer, random streams, step, curves. Everything else (order of the images, draws of
the views, learning rate) is a pure function of seed and step, so a resumed training ends in the same bits.
"""

import sys
from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from tqdm import tqdm

from pipeline.errors import TrainingError
from pipeline.params import Block, Count, NonNegative
from stages.methods._method import Batch, Learner
from stages.training import guards
from stages.training.checkpoints import Checkpoints
from stages.training.optimizers import Optimizer, make_optimizer
from stages.training.randomness import shuffled
from stages.training.schedules import warmup_cosine
from stages.views._draws import Source

LOG_EVERY = 20  # steps between two looks at the loss: each costs a sync with the device

Curves = list[dict[str, float]]


class Training(Block):
    """What every training sets; learning rates are per 256 images of the batch."""

    batch_size: Count
    optimizer: Optimizer
    warmup_epochs: NonNegative


class Images(NamedTuple):
    """A data set on the device, and what of it a training may see."""

    pixels: Tensor  # uint8 (n, h, w, 3)
    labels: Tensor  # int64 (n,): −1 where there is none
    rows: Tensor  # int64, on the host


class Plan(NamedTuple):
    """One training: what is fixed before its first step."""

    name: str  # "seed-0", for messages and metrics
    seed: int
    epochs: int
    settings: Training
    make_views: Callable[[Tensor, Source], list[Tensor]]  # uint8 (n, h, w, 3) → normalized views
    precision: str
    look: Callable[[int], dict[str, float]] | None  # epoch → scalars to watch; changes no bit


class Host(Protocol):
    """What the loop asks of the stage that it runs in."""

    @property
    def stopping(self) -> bool: ...
    def check(self) -> None: ...
    def log(self, metrics: dict[str, float], step: int | None = None) -> None: ...


class Trainer:
    """Trains `method` in place, from its last checkpoint or from the start.

    TrainingError for a batch larger than the data, or a loss that is not finite twice at the same step.
    """

    def __init__(self, method: Learner, images: Images, plan: Plan, checkpoints: Checkpoints, host: Host) -> None:
        self.method, self.images, self.plan, self.checkpoints, self.host = method, images, plan, checkpoints, host
        self.device = images.pixels.device
        self.size = plan.settings.batch_size
        self.per_epoch = len(images.rows) // self.size
        if not self.per_epoch:
            raise TrainingError(
                f"{plan.name}: batch_size {self.size} is larger than the {len(images.rows)} images it may see; "
                f"make it {len(images.rows)} or less"
            )
        self.steps = plan.epochs * self.per_epoch
        self.optimizer = make_optimizer(method, plan.settings.optimizer)
        self.step = 0
        self.curves: Curves = []
        self._sums: dict[str, Tensor] = {}
        self._order, self._order_of = images.rows, -1  # the order of an epoch is drawn once
        self._suspect = -1  # a step up to which every loss is looked at, after one was not finite
        if not self._load():
            self._save()

    def run(self) -> Curves:
        """All remaining steps; one row of curves an epoch."""
        self.method.train()
        with self._bar() as bar:
            while self.step < self.steps:
                scalars, rows = self._advance()
                at_end = self.step % self.per_epoch == 0
                if at_end or self.step % LOG_EVERY == 0 or self.step <= self._suspect:
                    if not bool(torch.isfinite(self._sums["loss"] + scalars["loss"].detach())):
                        self._replay(rows)
                        bar.n = self.step * self.size
                        continue
                    bar.set_postfix_str(f"loss {scalars['loss'].item():.4f}", refresh=False)
                bar.update(self.size)
                if at_end:
                    self._close_epoch(bar)
                if self.host.stopping or self.checkpoints.due or self.step == self.steps:
                    self._save()
                self.host.check()
        return self.curves

    def _advance(self) -> tuple[dict[str, Tensor], Tensor]:
        """One optimizer step; its scalars and the rows of its batch."""
        epoch, position = divmod(self.step, self.per_epoch)
        if self._order_of != epoch:
            self._order_of, self._order = epoch, shuffled(self.images.rows, seed=self.plan.seed, epoch=epoch)
        rows = self._order[position * self.size : (position + 1) * self.size].to(self.device)
        self._set_rate()
        source = Source(seed=self.plan.seed, epoch=epoch, index=rows)
        views = self.plan.make_views(self.images.pixels[rows], source)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.plan.precision == "bf16"):
            scalars = self.method(Batch(views, rows, self.images.labels[rows]))
        self.optimizer.zero_grad(set_to_none=True)
        scalars["loss"].backward()
        self.optimizer.step()
        self.step += 1
        self.method.after_step(self.step / self.steps)
        for name, value in scalars.items():
            self._sums[name] = self._sums.get(name, 0) + value.detach().double()
        return scalars, rows

    def _set_rate(self) -> None:
        warmup = round(self.plan.settings.warmup_epochs * self.per_epoch)
        factor = warmup_cosine(self.step, steps=self.steps, warmup=warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = self.plan.settings.optimizer.learning_rate * self.size / 256 * factor

    def _close_epoch(self, bar: tqdm) -> None:
        epoch = len(self.curves)
        means = {name: float(total) / self.per_epoch for name, total in self._sums.items()}
        self.curves.append({"epoch": epoch, "learning_rate": self.optimizer.param_groups[0]["lr"]} | means)
        self._sums = {}
        seen = self.plan.look(epoch) if self.plan.look else {}
        if seen:
            short = " ".join(f"{name.rpartition('.')[2]} {value:.3f}" for name, value in seen.items())
            bar.set_postfix_str(f"loss {means['loss']:.4f} {short}", refresh=False)
        self.host.log({f"{self.plan.name}.{name}": value for name, value in (means | seen).items()}, epoch)

    def _bar(self) -> tqdm:
        return tqdm(
            total=self.steps * self.size,
            initial=self.step * self.size,
            unit="images",
            unit_scale=True,
            desc=self.plan.name,
            mininterval=0.5 if sys.stderr.isatty() else 10,
            disable=self.step >= self.steps,
        )

    def _save(self) -> None:
        if self._sums and not bool(torch.isfinite(self._sums["loss"])):
            return  # never keep a state that is already lost
        self.checkpoints.save(
            self.step,
            {
                "step": self.step,
                "method": self.method.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "random": torch.get_rng_state(),
                "random_device": torch.cuda.get_rng_state_all() if self.device.type == "cuda" else [],
                "curves": self.curves,
                "sums": self._sums,
            },
        )

    def _load(self) -> bool:
        state = self.checkpoints.load(self.device)
        if state is None:
            return False
        self.method.load_state_dict(state["method"])
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"].cpu())
        if state["random_device"]:
            torch.cuda.set_rng_state_all([s.cpu() for s in state["random_device"]])
        self.step, self.curves, self._sums = state["step"], state["curves"], state["sums"]
        return True

    def _replay(self, rows: Tensor) -> None:
        """A loss that is not finite: once back to the last checkpoint, looking at every step; then give up."""
        if self.step <= self._suspect:
            raise guards.not_finite(self.plan.name, self.step, rows)
        print(f"{self.plan.name}: the loss is not finite at step {self.step}; again from the checkpoint", flush=True)
        self._suspect = self.step
        self._load()
