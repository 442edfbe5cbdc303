"""Files on their way into a data set.

Claims:
- the same files are the same bytes, whatever the number of processes, whatever was there before, however often it was
  killed;
- what was decoded once is not decoded again, unless the file, how it is kept or the code that reads it has changed;
- what was put out before is never written to;
- files in = images out + quarantined.
"""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image
from prepared_data import paint

from pipeline import paths, scratch
from stages.datasets import _arriving, _ledger, _reading, _writing, digits, folder
from stages.datasets._decoding import Unusable
from stages.datasets._fitting import OneShape, ShortSide
from stages.datasets._images import Files, Images, Record
from stages.datasets._reading import Reading
from stages.datasets._storage import stored
from stages.datasets._writing import Written

ROOT = Path(__file__).resolve().parent.parent


class Counting:
    """A source of the files below `root` that remembers which were decoded."""

    def __init__(self, root: Path, encoded: bool = False, shape: tuple[int, int] = (4, 6), stop: int = 0) -> None:
        store = ShortSide(short_side=32, quality=90) if encoded else OneShape(shape=shape, fit="crop")
        self.images = folder.load(path=str(root), store=store, labels=None, group=None, split=None)
        self.decoded: list[str] = []
        self.checks, self.stop = 0, stop  # at which check it is stopped

    def write(self, out: Path, ledger: Path, *, workers: int = 1, near: bool = False) -> Written:
        """Put the images into the new folder `out`."""
        files = self.images.pixels
        assert isinstance(files, Files)

        def content(item: str) -> bytes:
            self.decoded.append(item)
            return files.content(item)

        content.__qualname__ = "content"
        given = Files(files.items, files.content if workers > 1 else content, files.keep, files.stamp, files.encoded)
        images = Images(given, self.images.ids, self.images.labels, self.images.classes, None)
        out.mkdir(parents=True)
        return _writing.write(out, images, ledger, near=near, workers=workers, check=self._check)

    def _check(self) -> None:
        self.checks += 1
        if self.checks == self.stop:
            raise KeyboardInterrupt


def chunks_of(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """As many images at a time, however long they take."""
    for name, value in (("FIRST", count), ("MOST", count), ("WORK", 1e9), ("LIMIT", 1e9)):
        monkeypatch.setattr(_arriving, name, value)
    monkeypatch.setattr(_writing, "PIECE", count)


def contents(out: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in out.iterdir()}


def noise(root: Path, count: int, size: tuple[int, int] = (4, 6)) -> Path:
    """`count` PNG files of random pixels, some in a folder."""
    draws = np.random.default_rng(count)
    for row in range(count):
        file = root / ("even" if row % 2 else "odd") / f"{row:05d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draws.integers(0, 256, (*size, 3), dtype=np.uint8)).save(file)
    return root


def again(tmp_path: Path, root: Path, name: str, **options) -> list[str]:
    """What is decoded when `root` is ingested once more; that gives the bytes of a first ingest."""
    source = Counting(root, **options)
    source.write(tmp_path / name, tmp_path / "ledger")
    fresh = Counting(root, **options)
    fresh.write(tmp_path / f"{name}-fresh", tmp_path / f"{name}-ledger")
    assert contents(tmp_path / name) == contents(tmp_path / f"{name}-fresh")
    return source.decoded


@pytest.mark.parametrize("encoded", [False, True])
def test_only_what_is_new_is_decoded(tmp_path: Path, encoded: bool) -> None:
    """Nothing when nothing changed; the added one; the edited one; nothing when one is gone; all bytes as from new."""
    root = noise(tmp_path / "zoo", 300)
    assert len(again(tmp_path, root, "first", encoded=encoded)) == 300
    assert again(tmp_path, root, "second", encoded=encoded) == []
    paint(root / "even" / "00100b.png", (1, 2, 3))
    assert again(tmp_path, root, "added", encoded=encoded) == ["even/00100b.png"]
    paint(root / "odd" / "00200.png", (3, 2, 1))
    assert again(tmp_path, root, "edited", encoded=encoded) == ["odd/00200.png"]
    (root / "even" / "00001.png").unlink()
    assert again(tmp_path, root, "removed", encoded=encoded) == []


def test_one_among_ten_thousand(tmp_path: Path) -> None:
    """One image is added to 10,000: it alone is decoded."""
    root = noise(tmp_path / "zoo", 1)
    for row in range(1, 10_000):
        (root / "odd" / f"{row:05d}.png").hardlink_to(root / "odd" / "00000.png")
    Counting(root).write(tmp_path / "first", tmp_path / "ledger")
    paint(root / "odd" / "00000b.png", (1, 2, 3))
    source = Counting(root)
    written = source.write(tmp_path / "second", tmp_path / "ledger")
    assert source.decoded == ["odd/00000b.png"]
    assert len(written.rows) == 10_001
    assert stored(tmp_path / "second").image(1)[0, 0].tolist() == [1, 2, 3]


def test_how_images_are_kept_and_read_counts(tmp_path: Path, monkeypatch) -> None:
    """All are decoded again for another store, for the perceptual hash, and when the code that reads them changed."""
    root = noise(tmp_path / "zoo", 40)
    assert len(again(tmp_path, root, "packed")) == 40
    assert len(again(tmp_path, root, "encoded", encoded=True)) == 40
    source = Counting(root, encoded=True)
    source.write(tmp_path / "near", tmp_path / "ledger", near=True)
    assert len(source.decoded) == 40
    assert len(again(tmp_path, root, "once")) == 40
    (tmp_path / "decoding.py").write_text("# another decoder")
    monkeypatch.setattr(_ledger, "READS", (*_ledger.READS, str(tmp_path / "decoding")))
    assert len(again(tmp_path, root, "code")) == 40


def test_what_was_put_out_is_not_written_to(tmp_path: Path) -> None:
    """The files of an ingest are links to what the ledger keeps; later ones leave bytes and file as they were."""
    root = noise(tmp_path / "zoo", 50)
    Counting(root).write(tmp_path / "first", tmp_path / "ledger")
    before, file = contents(tmp_path / "first"), tmp_path / "first" / "pixels.npy"
    kept = tmp_path / "ledger" / "last" / "pixels.npy"
    assert kept.samefile(file)
    file.chmod(0o444)  # as DVC leaves it
    paint(root / "even" / "00007.png", (1, 2, 3))
    Counting(root).write(tmp_path / "second", tmp_path / "ledger")
    assert contents(tmp_path / "first") == before
    assert not file.samefile(tmp_path / "second" / "pixels.npy")
    assert sum(1 for _ in (tmp_path / "ledger").rglob("pixels*.npy")) == 1


def test_the_ledger_takes_no_room_of_its_own(tmp_path: Path, monkeypatch) -> None:
    """Where DVC has put files of its own into data/, the ledger's become links to these."""
    monkeypatch.chdir(tmp_path)
    out = paths.dataset("zoo") / "images"
    Counting(noise(tmp_path / "zoo", 50)).write(tmp_path / out, paths.ingest("zoo"))
    kept = paths.ingest("zoo") / "last" / "pixels.npy"
    copy = out.with_name("copy")
    copy.write_bytes((out / "pixels.npy").read_bytes())
    copy.replace(out / "pixels.npy")
    assert not kept.samefile(out / "pixels.npy")
    scratch._share("prepare@zoo")
    assert kept.samefile(out / "pixels.npy")
    assert sorted(file.name for file in kept.parent.iterdir()) == ["kept.bin", "made.json", "pixels.npy"]
    copy.write_bytes(b"another version")
    copy.replace(out / "pixels.npy")
    scratch._share("prepare@zoo")
    assert kept.stat().st_size > 50 * 72


def test_a_damaged_ledger_is_noticed(tmp_path: Path) -> None:
    """An image whose bytes are no longer those that were written is decoded again, and a line cut short is none."""
    root = noise(tmp_path / "zoo", 30)
    Counting(root).write(tmp_path / "first", tmp_path / "ledger")
    kept = tmp_path / "ledger" / "last" / "pixels.npy"
    content = bytearray(kept.read_bytes())
    content[128 + 72 * 3] ^= 1
    kept.write_bytes(content)
    lines = tmp_path / "ledger" / "last" / "kept.bin"
    lines.write_bytes(lines.read_bytes()[:-5])
    assert sorted(again(tmp_path, root, "second")) == ["even/00007.png", "odd/00028.png"]


def test_any_number_of_processes_gives_the_same_bytes(tmp_path: Path, monkeypatch) -> None:
    """1 and 4: the same files, the same lines, the same quarantine."""
    monkeypatch.setattr(_writing, "PAYS", 50)
    chunks_of(monkeypatch, 8)
    monkeypatch.setattr(_writing, "SHARD", 4000)
    root = noise(tmp_path / "zoo", 200)
    for name in ("even/00011.png", "odd/00120.png"):
        (root / name).write_bytes(b"no image")
    one, four = (
        Counting(root, encoded=True).write(tmp_path / f"{n}", tmp_path / f"ledger-{n}", workers=n) for n in (1, 4)
    )
    assert len(contents(tmp_path / "1")) > 3
    assert contents(tmp_path / "1") == contents(tmp_path / "4")
    np.testing.assert_array_equal(one.kept, four.kept)
    assert one.bad == four.bad
    assert len(one.bad) == 2


def slow(content: bytes) -> Record:
    """An image that takes as long to decode as the file says."""
    time.sleep(float(content))
    return Record(np.zeros((1, 2, 3), np.uint8), None)


def plainly(item: str) -> bytes:
    return item.encode()


@pytest.mark.parametrize("workers", [1, 2])
def test_large_images_behind_small_ones_do_not_come_at_once(workers: int) -> None:
    """What turns out to take long is given back, so that a stop need not wait for it; the order stays."""
    items = ["0"] * 300 + [f"{_arriving.LIMIT / 2:.3f}"] * 30 + ["0"] * 5
    files = [(f"{number}", item) for number, item in enumerate(items)]
    reading = Reading(plainly, slow, str, False)
    batches = list(_arriving.arriving(reading, files, workers))
    assert len(batches) > 30 / 3  # two reach the limit
    lines = np.concatenate([each.lines for each in batches])
    assert lines["key"].tolist() == [list(reading.key(*file)) for file in files]


KILLED = """
import os, sys
from pathlib import Path
sys.path[:0] = [os.getcwd(), *sys.argv[5:]]
from stages.datasets import _arriving, _writing
import test_ingest
_writing.SHARD = 3000
source = test_ingest.Counting(Path(sys.argv[1]))
left = int(sys.argv[4])
_arriving.MOST, _arriving.WORK, _writing.PIECE = 64, 1e9, 64
class Log(list):
    def append(self, item):
        with open(sys.argv[3] + ".log", "a") as log:
            print(item, file=log)
        if len(self) == left:
            os.kill(os.getpid(), 9)
        super().append(item)
source.decoded = Log()
source.write(Path(sys.argv[3]), Path(sys.argv[2]))
"""


def test_a_kill_loses_nothing(tmp_path: Path) -> None:
    """Killed twice, a file added in between: the same bytes, and only what was in work is read twice."""
    root = noise(tmp_path / "zoo", 400)
    script = tmp_path / "ingest.py"
    script.write_text(KILLED)
    for name, after, status in (("a", 150, -9), ("b", 100, -9), ("c", 10_000, 0)):
        if name == "b":
            paint(root / "even" / "00000.png", (1, 2, 3))
        command = [sys.executable, script, root, tmp_path / "ledger", tmp_path / name, str(after), ROOT / "tests"]
        assert subprocess.run(list(map(str, command)), cwd=ROOT, check=False).returncode == status
        assert list((tmp_path / "ledger").glob("torn-*/pixels*")) == []  # all of it has been taken over
    decoded = [(tmp_path / f"{name}.log").read_text().split() for name in "abc"]
    assert list(map(len, decoded)) == [151, 101, 401 - 3 * 64]
    fresh = Counting(root)
    fresh.write(tmp_path / "fresh", tmp_path / "other")
    read, expected = stored(tmp_path / "c"), stored(tmp_path / "fresh")
    np.testing.assert_array_equal(read.read(np.arange(401))[0], expected.read(np.arange(401))[0])
    assert [folder.name for folder in (tmp_path / "ledger").iterdir()] == ["last"]


ENDLESS = """
import os, sys
from pathlib import Path
sys.path[:0] = [os.getcwd(), sys.argv[2]]
from stages.datasets._arriving import arriving
from stages.datasets._reading import Reading
import test_ingest
list(arriving(Reading(Path.read_bytes, test_ingest.never, str, False), [('', Path(sys.argv[1]))] * 40, 2))
"""


def never(content: bytes) -> Record:
    """A file that is never decoded; whoever tries says so."""
    Path(content.decode(), str(os.getpid())).touch()
    time.sleep(600)
    raise AssertionError


def test_no_process_outlives_a_kill(tmp_path: Path) -> None:
    """When the stage is killed, the processes that decode for it end."""
    (tmp_path / "ingest.py").write_text(ENDLESS)
    (tmp_path / "busy").mkdir()
    (tmp_path / "file").write_text(str(tmp_path / "busy"))
    command = [sys.executable, tmp_path / "ingest.py", tmp_path / "file", ROOT / "tests"]
    stage = subprocess.Popen(list(map(str, command)), cwd=ROOT, start_new_session=True, stderr=subprocess.DEVNULL)
    while len(list((tmp_path / "busy").iterdir())) < 2:
        assert stage.poll() is None
        time.sleep(0.05)
    stage.kill()
    stage.wait()
    left = True
    for _ in range(400):
        if left := _runs(stage.pid):
            time.sleep(0.05)
    if left:
        os.killpg(stage.pid, signal.SIGKILL)
    assert not left


def _runs(group: int) -> bool:
    """Whether a process of the group is alive, and not one that nobody has asked for its end."""
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, ProcessLookupError):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                return True
    return False


def test_a_stop_while_images_are_taken_over_loses_nothing(tmp_path: Path, monkeypatch) -> None:
    """A file of the ledger goes only when all of its images have been taken over."""
    monkeypatch.setattr(_writing, "SHARD", 3000)  # 39 images
    chunks_of(monkeypatch, 64)
    root = noise(tmp_path / "zoo", 300)
    Counting(root).write(tmp_path / "first", tmp_path / "ledger")
    for stop in (2, 4):
        with pytest.raises(KeyboardInterrupt):
            Counting(root, stop=stop).write(tmp_path / f"stopped-{stop}", tmp_path / "ledger")
    assert again(tmp_path, root, "second") == []


def test_files_of_one_size_and_time_are_told_apart(tmp_path: Path) -> None:
    """The ledger knows them by their names: bitmaps are equally large, and a copy may keep its time."""
    for name, color in (("a", (1, 2, 3)), ("b", (4, 5, 6)), ("c", (7, 8, 9))):
        paint(tmp_path / "zoo" / f"{name}.bmp", color)
        os.utime(tmp_path / "zoo" / f"{name}.bmp", ns=(10**18, 10**18))
    assert len(again(tmp_path, tmp_path / "zoo", "first")) == 3
    assert again(tmp_path, tmp_path / "zoo", "second") == []


def test_arrays_leave_no_ledger(tmp_path: Path) -> None:
    """What is no file needs no decoding: nothing is kept of it, and nothing that an earlier source left."""
    Counting(noise(tmp_path / "zoo", 5)).write(tmp_path / "first", tmp_path / "ledger")
    pixels = np.zeros((5, 2, 2, 3), np.uint8)
    images = Images(pixels, list("abcde"), np.zeros(5, np.int64), ["a"], None)
    (tmp_path / "second").mkdir()
    _writing.write(tmp_path / "second", images, tmp_path / "ledger", near=False, workers=4, check=lambda: None)
    assert list((tmp_path / "ledger").iterdir()) == []


def test_what_cannot_be_used_comes_back(tmp_path: Path, monkeypatch) -> None:
    """A file that is no image arrives as Bad, with the md5 of what it holds; one that cannot be read without."""
    chunks_of(monkeypatch, 1)

    def content(item: str) -> bytes:
        if item == "c":
            raise Unusable("unreadable", "locked")
        return item.encode()

    def keep(content: bytes) -> Record:
        if content == b"b":
            raise Unusable("not_image", "text")
        return Record(np.zeros((1, 2, 3), np.uint8), None)

    images = Images(Files(list("bcad"), content, keep, str, False), list("bcad"), np.zeros(4, np.int64), ["x"], None)
    (tmp_path / "out").mkdir()
    written = _writing.write(tmp_path / "out", images, tmp_path / "l", near=False, workers=1, check=lambda: None)
    assert written.rows.tolist() == [2, 3]
    assert [written.bad[row].kind for row in (0, 1)] == ["not_image", "unreadable"]
    assert written.bad[0].md5 == _reading._md5(b"b")
    assert (written.bad[1].size, written.bad[1].md5) == (None, None)


def test_png_folders_of_a_data_set_are_that_data_set(tmp_path: Path) -> None:
    """Digits written out as PNG class folders come in through `folder` with equal pixels, label for label."""
    images = digits.load(path="").take(np.arange(0, 1797, 6))
    names = [f"{images.classes[label]}/{row:04d}.png" for row, label in enumerate(images.labels)]
    for name, pixels in zip(names, images.pixels, strict=True):
        (tmp_path / "png" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "png" / name)
    source = Counting(tmp_path / "png", shape=(8, 8))
    source.write(tmp_path / "out", tmp_path / "ledger")
    order = np.argsort(names)
    assert source.images.ids == [names[row] for row in order]
    assert source.images.classes == images.classes
    np.testing.assert_array_equal(source.images.labels, images.labels[order])
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "pixels.npy"), images.pixels[order])
