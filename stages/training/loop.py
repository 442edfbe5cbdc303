"""How any method is trained. The loop knows no method; a method knows no device, optimizer or logger.

    rows of this epoch → this rank's of a batch → views (on the device) → method → loss ┐
                                    optimizer → after_step  ←  gradients, summed over ranks ┘

State is a checkpoint: method, optimizer, random streams, step, curves; it is the same on every rank. Everything else
(order of the images, draws of the views, learning rate) is a pure function of seed and step, so a resumed training ends
in the same bits.
"""

import io
import signal
import sys
from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol

import torch
from pydantic import model_validator
from torch import Tensor
from tqdm import tqdm

from pipeline.errors import Stopped, TrainingError
from pipeline.params import Block, Count, NonNegative
from stages.methods._method import Batch, Learner
from stages.networks.gathering import rank, ranks
from stages.training import guards, memory
from stages.training.batches import Batches, Beside
from stages.training.checkpoints import Checkpoints
from stages.training.distributed import agreed, handed_out, own, share_buffers, sum_gradients
from stages.training.feed import Feed, Store
from stages.training.optimizers import Optimizer, make_optimizer
from stages.training.schedules import Schedule, rate
from stages.views._draws import Source
from stages.views._operations import Pixels

HOST = torch.device("cpu")
LOG_EVERY = 20  # steps between two looks at the loss: each costs a sync with the device

Curves = list[dict[str, float]]


class Training(Block):
    """What every training sets; learning rates are per 256 images of the batch, computed in `accumulate` pieces."""

    batch_size: Count
    accumulate: Count
    optimizer: Optimizer
    warmup_epochs: NonNegative

    @model_validator(mode="after")
    def _has_equal_pieces(self) -> "Training":
        if self.batch_size % self.accumulate:
            near = nearest(self.batch_size, self.accumulate)
            raise ValueError(f"accumulate {self.accumulate} does not divide batch_size {self.batch_size}, but {near}")
        return self


class Images(NamedTuple):
    """A data set, and what of it a training may see."""

    store: Store  # where its batches come from
    labels: Tensor  # int64 (n,) on the device: −1 where there is none
    rows: Tensor  # int64, on the host
    beside: Beside | None = None  # what it sees beside them, without labels


class Plan(NamedTuple):
    """One training: what is fixed before its first step."""

    name: str  # "seed-0", for messages and metrics
    seed: int
    epochs: int
    settings: Training
    make_views: Callable[[Pixels, Source], list[Tensor]]  # normalized views
    precision: str
    look: Callable[[int], dict[str, float]] | None  # epoch → scalars to watch; changes no bit
    plain: Callable[[], Iterable[Tensor]] | None  # all images it may see, in order, as the encoder is given them
    schedule: Schedule = "cosine"  # of the learning rate


class Host(Protocol):
    """What the loop asks of the stage that it runs in."""

    @property
    def stopping(self) -> bool: ...
    def check(self) -> None: ...
    def log(self, metrics: dict[str, float], step: int | None = None) -> None: ...


class Trainer:
    """Trains `method` in place, from its last checkpoint or from the start.

    TrainingError for a batch larger than the data, or that ranks and pieces do not divide, or that does not fit into
    memory, or for a loss that is not finite twice at the same step.
    """

    def __init__(self, method: Learner, images: Images, plan: Plan, checkpoints: Checkpoints, host: Host) -> None:
        self.method, self.images, self.plan, self.checkpoints, self.host = method, images, plan, checkpoints, host
        self.device = images.labels.device
        self.size, self.pieces = plan.settings.batch_size, plan.settings.accumulate
        self.batches = Batches(
            images.rows, images.beside, images=len(images.labels), size=self.size, pieces=self.pieces, seed=plan.seed
        )
        self.per_epoch = self.batches.per_epoch
        if not self.per_epoch:
            raise TrainingError(
                f"{plan.name}: batch_size {self.size} is larger than the {len(images.rows)} images it may see; "
                f"make it {len(images.rows)} or less"
            )
        require_parts(plan.name, self.size, self.pieces)
        self.steps = plan.epochs * self.per_epoch
        self.optimizer = make_optimizer(method, plan.settings.optimizer)
        self.step = 0
        self.curves: Curves = []
        self._sums: dict[str, Tensor] = {}
        self._kept = 0  # step of the last checkpoint
        self._suspect = -1  # a step up to which every loss is looked at, after one was not finite
        if not self._load():
            self._save()

    def run(self) -> Curves:
        """All remaining steps; one row of curves an epoch."""
        self.method.train()
        with self._bar() as bar, Feed(self.images.store, self.rows_of, self.device) as feed:
            while self.step < self.steps:
                if self.step % self.per_epoch == 0:
                    self.method.on_epoch_start(self.step / self.steps, self._represented)
                    share_buffers(self.method)
                scalars = self._advance(feed)
                at_end = self.step % self.per_epoch == 0
                looked = at_end or self.step % LOG_EVERY == 0 or self.step <= self._suspect
                lost = looked and not bool(torch.isfinite(self._sums["loss"] + scalars["loss"]))
                lost, save, stop = agreed(lost, not rank() and self.checkpoints.due, self.host.stopping)
                if lost:
                    self._replay()
                    bar.n = self.step * self.batches.count
                    continue
                if looked:
                    bar.set_postfix_str(f"loss {scalars['loss'].item():.4f}", refresh=False)
                bar.update(self.batches.count)
                if at_end:
                    self._close_epoch(bar)
                if save or stop or self.step == self.steps:
                    self._save()
                if stop or not self.host.stopping:  # a signal since then: the next step saves first
                    self.host.check()
                if stop:  # rank 0 has left by now
                    raise Stopped(signal.SIGTERM)
        return self.curves

    def rows_of(self, step: int) -> Tensor:
        """The rows of a step's batch that this rank sees, int64 on the host; none after the last step."""
        if step >= self.steps:
            return self.images.rows[:0]
        return self.batches.row(own(self.batches.at(step, HOST), self.pieces))

    def _advance(self, feed: Feed) -> dict[str, Tensor]:
        """One optimizer step; its scalars."""
        self._set_rate()
        sightings = own(self.batches.at(self.step, self.device), self.pieces)
        pixels = feed.take(self.step, self.batches.row(sightings))
        try:
            scalars = self._update(pixels, sightings)
        except (RuntimeError, MemoryError) as error:
            if not memory.exhausted(error):
                raise
        else:
            self.step += 1
            self.method.after_step(self.step / self.steps)
            for name, value in scalars.items():
                self._sums[name] = self._sums.get(name, 0) + value
            return scalars
        raise self._too_large(pixels, sightings)  # out here, where what the step held is free again

    def _update(self, pixels: Pixels, sightings: Tensor) -> dict[str, Tensor]:
        """Forward and backward of every piece, and the step; scalars are means over pieces."""
        self.optimizer.zero_grad(set_to_none=True)
        count = len(sightings) // self.pieces
        found = [self._gradients(*piece) for piece in zip(pixels.split(count), sightings.split(count), strict=True)]
        sum_gradients(self.method)
        self.optimizer.step()
        return {name: torch.stack([scalars[name] for scalars in found]).mean(0) for name in found[0]}

    def _gradients(self, pixels: Pixels, sightings: Tensor) -> dict[str, Tensor]:
        """Add the gradients of one piece to those there are; its scalars."""
        source = Source(seed=self.plan.seed, epoch=self.step // self.per_epoch, index=sightings)
        views = self.plan.make_views(pixels, source)
        rows = self.batches.row(sightings)
        labels = self.batches.hidden(self.images.labels[rows])
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.plan.precision == "bf16"):
            scalars = self.method(Batch(views, rows, labels, self.step / self.steps))
        (scalars["loss"] / self.pieces).backward()
        return {name: value.detach().double() for name, value in scalars.items()}

    def _represented(self) -> tuple[Tensor, Tensor]:
        """The rows of all images it may see, and what the method makes of them: every rank goes over all."""
        assert self.plan.plain, "only a pretraining looks at all images"
        self.method.eval()
        with torch.no_grad(), torch.autocast(self.device.type, torch.bfloat16, enabled=self.plan.precision == "bf16"):
            found = torch.cat([self.method.represent(images) for images in self.plan.plain()])
        self.method.train()
        return self.images.rows.to(self.device), found

    def _too_large(self, pixels: Pixels, sightings: Tensor) -> TrainingError:
        """What would fit, found out by trying; with several ranks the others wait for the step, so nothing is tried."""
        self.optimizer.zero_grad(set_to_none=True)
        count, fits = len(sightings) // self.pieces, None
        if ranks() == 1:
            fits = memory.most_that_fits(lambda n: self._gradients(pixels.split(n)[0], sightings[:n]), count)
        return memory.out_of_memory(self.plan.name, self.step, count, fits, self.pieces, self._kept)

    def _set_rate(self) -> None:
        warmup = round(self.plan.settings.warmup_epochs * self.per_epoch)
        factor = rate(self.step, steps=self.steps, warmup=warmup, schedule=self.plan.schedule)
        for group in self.optimizer.param_groups:
            group["lr"] = self.plan.settings.optimizer.learning_rate * self.size / 256 * factor

    def _close_epoch(self, bar: tqdm) -> None:
        epoch = len(self.curves)
        means = {name: float(total) / self.per_epoch for name, total in self._sums.items()}
        self.curves.append({"epoch": epoch, "learning_rate": self.optimizer.param_groups[0]["lr"]} | means)
        self._sums = {}
        seen = self.plan.look(epoch) if self.plan.look and not rank() else {}
        if seen:
            short = " ".join(f"{name.rpartition('.')[2]} {value:.3f}" for name, value in seen.items())
            bar.set_postfix_str(f"loss {means['loss']:.4f} {short}", refresh=False)
        self.host.log({f"{self.plan.name}.{name}": value for name, value in (means | seen).items()}, epoch)

    def _bar(self) -> tqdm:
        return tqdm(
            total=self.steps * self.batches.count,
            initial=self.step * self.batches.count,
            unit="images",
            unit_scale=True,
            desc=self.plan.name,
            mininterval=0.5 if sys.stderr.isatty() else 10,
            disable=self.step >= self.steps or rank() > 0,
        )

    def _save(self) -> None:
        if rank() or not self._sound():
            return  # never keep a state that is already lost
        state = {
            "step": self.step,
            "method": self.method.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "random": torch.get_rng_state(),
            "random_device": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
            "curves": self.curves,
            "sums": self._sums,
        }
        self.checkpoints.save(self.step, state)
        self._kept = self.step

    def _sound(self) -> bool:
        """Whether loss and weights are finite."""
        weights: list[Tensor] = list(self.method.parameters())
        norms = torch.stack(torch._foreach_norm(weights)).double()
        return bool(torch.isfinite(norms.sum() + self._sums.get("loss", 0)))

    def _load(self) -> bool:
        content = handed_out(None if rank() else self.checkpoints.newest())
        if content is None:
            return False
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)  # step counts stay on the host
        self.method.load_state_dict(state["method"])
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(state["random_device"], self.device)
        self.step, self.curves = state["step"], state["curves"]
        self._sums = {name: total.to(self.device) for name, total in state["sums"].items()}
        self._kept = self.step
        return True

    def _replay(self) -> None:
        """A loss that is not finite: once back to the last checkpoint, looking at every step; then give up."""
        if self.step <= self._suspect:
            if rank():  # rank 0 says it
                raise Stopped(signal.SIGTERM)
            rows = self.batches.row(self.batches.at(self.step - 1, HOST))
            raise guards.not_finite(self.plan.name, self.step, rows)
        print(f"{self.plan.name}: the loss is not finite at step {self.step}; again from the checkpoint", flush=True)
        self._suspect = self.step
        self._load()


def require_parts(name: str, size: int, pieces: int) -> None:
    """TrainingError unless a batch of `size` gives every rank equally many images of every piece."""
    parts = ranks() * pieces
    if size % parts:
        raise TrainingError(
            f"{name}: batch_size {size} cannot be shared among {ranks()} rank(s) in {pieces} piece(s) (hardware.ranks, "
            f"training.accumulate); the nearest that can is {nearest(size, parts)}"
        )


def nearest(size: int, parts: int) -> int:
    """The batch size nearest to `size` that `parts` divide."""
    return max(parts, round(size / parts) * parts)
