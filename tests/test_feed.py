"""The images of every batch: where they come from changes no bit, how far they are read ahead is bounded.

Claims:
- resident, mapped and streamed give the same images for the same rows, in any order of the steps;
- what a thread meets reaches the training; no thread is left behind, however it ends;
- a few batches are held, however many there are;
- packed and encoded, the same pictures train to the same bits.
"""

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from stored_images import keep, noise, record
from torch import Tensor
from torch.nn.functional import cosine_similarity

from pipeline.plugins import specify
from stages.datasets._storage import DataError, Encoded, Packed
from stages.encoders._model import Model
from stages.encoders._viewer import viewer
from stages.encoders.small_resnet import SmallResNet
from stages.methods._method import Batch, Learner
from stages.training import feed
from stages.training.checkpoints import Checkpoints
from stages.training.feed import Feed, Reader, Resident, in_order
from stages.training.loop import Images, Plan, Trainer, Training
from stages.training.optimizers import Sgd
from stages.training.randomness import seeded, shuffled

CPU = torch.device("cpu")
BATCH, STEPS = 20, 9


def pictures(count: int = 60, side: int = 8) -> np.ndarray:
    return np.stack([noise(side, side, seed) for seed in range(count)])


def encoded(folder: Path, pixels: np.ndarray) -> Encoded:
    return keep(folder, [record(image) for image in pixels])


def damaged(folder: Path) -> Encoded:
    """Images of which none can be read."""
    encoded(folder, pictures())
    (folder / "shard-00000.bin").write_bytes(b"damaged")
    return Encoded(folder)


def rows_of(step: int) -> Tensor:
    """Three batches an epoch of 60 images."""
    if step >= STEPS:
        return torch.arange(0)
    epoch, position = divmod(step, 3)
    return shuffled(torch.arange(60), seed=0, epoch=epoch)[position * BATCH :][:BATCH]


class Watched:
    """Packed images that note which rows are read; the row `bad` cannot be."""

    def __init__(self, pixels: np.ndarray, bad: int = -1) -> None:
        self.images = Packed(pixels)
        self.canvas = self.images.canvas
        self.bad = bad
        self.read: list[int] = []

    def fill(self, rows: np.ndarray, canvases: np.ndarray) -> None:
        self.read += rows.tolist()
        if self.bad in rows:
            raise DataError(f"image {self.bad} is damaged")
        self.images.fill(rows, canvases)


def test_resident_mapped_and_streamed_are_equal(tmp_path: Path) -> None:
    """Every step's images are those of its rows, whichever way they take; encoded ones come with their extents."""
    pixels = pictures()
    streamed = Reader(Packed(pixels), pinned=False)
    with (
        Feed(Resident(torch.from_numpy(pixels)), rows_of, CPU) as resident,
        Feed(Packed(pixels), rows_of, CPU) as mapped,
        Feed(encoded(tmp_path / "images", pixels), rows_of, CPU) as decoded,
    ):
        for step in range(STEPS):
            expected = torch.from_numpy(pixels[rows_of(step).numpy()])
            for found in (resident.take(step), mapped.take(step), streamed.take(step, rows_of)):
                assert torch.equal(found.values, expected)
                assert found.extents is None
            found = decoded.take(step)
            assert torch.equal(found.values, expected)
            assert found.extents.tolist() == [[8, 8]] * BATCH
    streamed.close()


def test_steps_come_in_any_order(tmp_path: Path) -> None:
    """A resume in the middle, a replay and a jump give what each step would have had."""
    pixels = pictures()
    with Feed(encoded(tmp_path / "images", pixels), rows_of, CPU) as found:
        for step in (5, 6, 4, 5, 6, 7, 8, 0, 0, 1, 8):
            assert torch.equal(found.take(step).values, torch.from_numpy(pixels[rows_of(step).numpy()]))


def test_images_in_order_are_all_of_them(tmp_path: Path) -> None:
    """Chunks of 512 or of 7, the last one smaller, in the order that is asked for."""
    pixels, rows = pictures(), torch.arange(59, -1, -1)
    for images in (Packed(pixels), encoded(tmp_path / "images", pixels)):
        for count in (7, 512):
            parts = [part.values for part in in_order(images, rows, count, CPU)]
            assert {len(part) for part in parts[:-1]} <= {count}
            assert torch.equal(torch.cat(parts), torch.from_numpy(pixels[::-1].copy()))


def test_a_damaged_image_stops_the_step_that_needs_it() -> None:
    """The steps before it are served; its own raises what the thread met."""
    rows = rows_of(4)
    reader = Reader(Watched(pictures(), bad=int(rows[-1])), pinned=False)
    first = next(step for step in range(STEPS) if rows[-1] in rows_of(step))
    for step in range(first):
        reader.take(step, rows_of)
    with pytest.raises(DataError, match=f"image {int(rows[-1])} is damaged"):
        reader.take(first, rows_of)
    reader.close()


@pytest.mark.parametrize(("held", "batches"), [(2**30, feed.LOOK_AHEAD + 1), (1, 2)])
def test_reading_ahead_is_bounded(monkeypatch: pytest.MonkeyPatch, held: int, batches: int) -> None:
    """LOOK_AHEAD batches besides the one that is asked for; one, where batches are large."""
    monkeypatch.setattr(feed, "HELD", held)
    images = Watched(pictures())
    reader = Reader(images, pinned=False)
    reader.take(0, rows_of)
    reader._pool.shutdown()  # waits for what has begun
    assert sorted(images.read) == sorted(row for step in range(batches) for row in rows_of(step).tolist())


def test_no_thread_outlives_its_feed(tmp_path: Path) -> None:
    """Closed after a step, after an error, or never used: the threads are gone, and nothing is read any more."""
    before = threading.active_count()
    images = encoded(tmp_path / "images", pictures())
    with Feed(images, rows_of, CPU):
        pass
    with Feed(images, rows_of, CPU) as some:
        some.take(0)
        assert threading.active_count() > before
    with pytest.raises(DataError), Feed(damaged(tmp_path / "damaged"), rows_of, CPU) as some:
        some.take(3)
    assert threading.active_count() == before


CTRL_C = "import signal as s; s.signal(s.SIGINT, s.default_int_handler); s.raise_signal(s.SIGINT)"


@pytest.mark.parametrize("end", ["pass", CTRL_C])
def test_a_process_ends_though_nobody_closed(tmp_path: Path, end: str) -> None:
    """The interpreter exits by itself while batches are being read, after Ctrl-C too."""
    encoded(tmp_path / "images", pictures())
    program = (
        "import sys, torch; from pathlib import Path; from stages.datasets._storage import stored\n"
        "from stages.training.feed import Feed\n"
        "feed = Feed(stored(Path(sys.argv[1])), lambda step: torch.arange(60).repeat(20), torch.device('cpu'))\n"
        f"feed.take(0)\n{end}\n"
    )
    command = [sys.executable, "-c", program, tmp_path / "images"]
    done = subprocess.run(command, check=False, timeout=120, capture_output=True)
    assert (b"KeyboardInterrupt" in done.stderr) == (end != "pass"), done.stderr


class Host:
    stopping = False

    def check(self) -> None: ...

    def log(self, metrics: dict[str, float], step: int | None = None) -> None: ...


VIEWS = {
    "name": "simclr",
    "crop": {"scale": [0.4, 1.0], "ratio": [0.75, 1.3333], "interpolation": "bilinear"},
    "flip": 0.5,
    "rotation": 0.0,
    "jitter": {"probability": 0.8, "brightness": 0.4, "contrast": 0.4, "saturation": 0.2, "hue": 0.1},
    "grayscale": 0.2,
    "blur": {"probability": 0.5, "kernel": 3, "sigma": [0.1, 1.0]},
}


class Alike(Learner):
    """Two views of an image shall point the same way."""

    def __init__(self) -> None:
        super().__init__()
        self.network = SmallResNet(width=4, blocks=1)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        a, b = map(self.network, batch.views)
        return {"loss": 1 - cosine_similarity(a, b).mean()}


def trained(folder: Path, images: Packed | Encoded, epochs: int = 3) -> tuple[list, dict[str, Tensor]]:
    """Curves and weights of a training on the images."""
    with seeded(0, torch.device("cpu")):
        learner = Alike()
        config = {"features": 16, "input": {"side": 8, "mean": [0.5] * 3, "std": [0.25] * 3}}
        views = viewer(specify("views", VIEWS, "views"), Model(learner.network, config))
        optimizer = Sgd(name="sgd", learning_rate=0.5, momentum=0.9, nesterov=False, weight_decay=1e-4)
        settings = Training(batch_size=BATCH, accumulate=1, optimizer=optimizer, warmup_epochs=0)
        plan = Plan("seed-0", 0, epochs, settings, views, "fp32", look=None, plain=None)
        data = Images(images, torch.full((len(images),), -1), torch.arange(len(images)))
        curves = Trainer(learner, data, plan, Checkpoints(folder), Host()).run()
    return curves, learner.state_dict()


def test_packed_and_encoded_train_to_the_same_bits(tmp_path: Path) -> None:
    """The same pictures as raw pixels and as lossless files: the same losses, the same weights."""
    pixels = pictures()
    one, one_weights = trained(tmp_path / "one", Packed(pixels))
    two, two_weights = trained(tmp_path / "two", encoded(tmp_path / "images", pixels))
    assert one == two
    assert all(torch.equal(one_weights[name], two_weights[name]) for name in one_weights)
    assert one[-1]["loss"] < one[0]["loss"]
