"""Published data sets, from tiny files in the format that they are published in."""

import hashlib
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torchvision.datasets as published
from PIL import Image
from scipy.io import savemat
from sklearn.datasets import load_digits

from pipeline import plugins
from pipeline.errors import ParamsError
from stages.datasets import cifar10, cifar100, digits, eurosat, fashion_mnist, mnist, stl10, svhn
from stages.datasets._images import DataError, Images

DRAWS = np.random.default_rng(0)
COLORS = {split: DRAWS.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8) for split, n in (("train", 3), ("test", 2))}
GRAYS = {split: DRAWS.integers(0, 256, (n, 28, 28), dtype=np.uint8) for split, n in (("train", 3), ("test", 2))}
LABELS = {"train": [7, 0, 9], "test": [0, 9]}
IDS = ["train/00000", "train/00001", "train/00002", "test/00000", "test/00001"]


def md5(file: Path) -> str:
    return hashlib.md5(file.read_bytes()).hexdigest()


def pickled(file: Path, **content: object) -> tuple[str, str]:
    """A file of the python version of CIFAR, its name and md5."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(pickle.dumps(content))
    return file.name, md5(file)


def cifar(root: Path, patch: pytest.MonkeyPatch, kind: type, key: str, names: dict[str, list[str]]) -> None:
    """The train and test images, channel by channel in rows of 3072 numbers; torchvision is told their md5."""
    for split, files in names.items():
        parts = np.array_split(np.arange(len(LABELS[split])), len(files))
        rows = COLORS[split].transpose(0, 3, 1, 2).reshape(-1, 3072)
        made = [
            pickled(root / file, data=rows[part], **{key: [LABELS[split][row] for row in part]})
            for file, part in zip(files, parts, strict=True)
        ]
        patch.setattr(kind, f"{split}_list", [list(one) for one in made])


def check(images: Images, pixels: dict[str, np.ndarray], classes: list[str]) -> None:
    """The images are those of the files, one after the other, train before test, with their labels and split."""
    expected = np.concatenate([pixels["train"], pixels["test"]])
    np.testing.assert_array_equal(images.pixels, expected)
    assert images.pixels.flags.c_contiguous
    assert images.ids == IDS
    assert images.labels.tolist() == LABELS["train"] + LABELS["test"]
    assert images.split.tolist() == ["train"] * 3 + ["test"] * 2
    assert images.classes == classes


def test_digits_are_those_of_scikit_learn() -> None:
    """Gray 0…16 becomes 0…255, to the nearest integer, in three equal channels; labels are the digits."""
    images, source = digits.load(path=""), load_digits()
    assert images.pixels.shape == (1797, 8, 8, 3)
    for channel in range(3):
        assert abs(images.pixels[..., channel] - source.images * 255 / 16).max() <= 0.5
    np.testing.assert_array_equal(images.labels, source.target)
    assert images.ids[:2] == ["digits/0000", "digits/0001"]
    assert images.classes == list("0123456789")


def test_cifar10_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of rows become images of height, width and color."""
    root, names = tmp_path / "cifar-10-batches-py", [f"class {label}" for label in range(10)]
    cifar(
        root,
        monkeypatch,
        published.CIFAR10,
        "labels",
        {"train": ["data_batch_1", "data_batch_2"], "test": ["test_batch"]},
    )
    _, digest = pickled(root / "batches.meta", label_names=names)
    monkeypatch.setattr(published.CIFAR10, "meta", published.CIFAR10.meta | {"md5": digest})
    check(cifar10.load(path=str(root)), COLORS, names)


def test_cifar100_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels are the fine ones."""
    root, names = tmp_path / "cifar-100-python", [f"class {label}" for label in range(100)]
    cifar(root, monkeypatch, published.CIFAR100, "fine_labels", {"train": ["train"], "test": ["test"]})
    _, digest = pickled(root / "meta", fine_label_names=names)
    monkeypatch.setattr(published.CIFAR100, "meta", published.CIFAR100.meta | {"md5": digest})
    check(cifar100.load(path=str(root)), COLORS, names)


def test_svhn_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the files a zero is labeled 10, and images are the last axis."""
    files = dict(published.SVHN.split_list)
    for split, pixels in COLORS.items():
        labels = np.array([[label or 10] for label in LABELS[split]], dtype=np.uint8)
        savemat(tmp_path / f"{split}_32x32.mat", {"X": pixels.transpose(1, 2, 3, 0), "y": labels})
        files[split] = [*files[split][:2], md5(tmp_path / f"{split}_32x32.mat")]
    monkeypatch.setattr(published.SVHN, "split_list", files)
    check(svhn.load(path=str(tmp_path)), COLORS, list("0123456789"))


def idx(file: Path, values: np.ndarray) -> None:
    """An array in the format of MNIST: magic, sizes, bytes."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape) + values.tobytes())


@pytest.mark.parametrize(
    ("source", "folder", "classes"),
    [(mnist, "MNIST", list("0123456789")), (fashion_mnist, "FashionMNIST", published.FashionMNIST.classes)],
)
def test_mnist_and_fashion_mnist_are_read(tmp_path: Path, source, folder: str, classes: list[str]) -> None:
    """Gray becomes three equal channels; a file that is cut short is refused."""
    for split, prefix in (("train", "train"), ("test", "t10k")):
        idx(tmp_path / folder / f"raw/{prefix}-images-idx3-ubyte", GRAYS[split])
        idx(tmp_path / folder / f"raw/{prefix}-labels-idx1-ubyte", np.array(LABELS[split], dtype=np.uint8))
    colored = {split: np.stack([pixels] * 3, axis=3) for split, pixels in GRAYS.items()}
    check(source.load(path=str(tmp_path / folder)), colored, classes)
    sentence = f"{folder} is missing or damaged .*`contrail fetch {source.__name__[16:]}`"
    whole = (tmp_path / folder / "raw/train-images-idx3-ubyte").read_bytes()
    for content in (whole[:-100], b""):
        (tmp_path / folder / "raw/train-images-idx3-ubyte").write_bytes(content)
        with pytest.raises(DataError, match=sentence):
            source.load(path=str(tmp_path / folder))


def test_stl10_has_images_without_a_label(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They belong to the train split; images, stored channel by channel and column by column, are read one by one."""
    root = tmp_path / "stl10_binary"
    root.mkdir()
    pixels = DRAWS.integers(0, 256, (6, 96, 96, 3), dtype=np.uint8)
    for part, rows in (("train", [0, 1]), ("unlabeled", [2, 3, 4]), ("test", [5])):
        pixels[rows].transpose(0, 3, 2, 1).tofile(root / f"{part}_X.bin")
    np.array([3, 10], np.uint8).tofile(root / "train_y.bin")
    np.array([1], np.uint8).tofile(root / "test_y.bin")
    (root / "class_names.txt").write_text("\n".join(f"class{label}" for label in range(10)))
    for part in ("train_list", "test_list"):
        names = [name for name, _ in getattr(published.STL10, part)]
        monkeypatch.setattr(published.STL10, part, [[name, md5(root / name)] for name in names])
    images = stl10.load(path=str(root))
    assert images.ids == [*IDS[:2], *(f"unlabeled/{row:05d}" for row in range(3)), "test/00000"]
    assert images.labels.tolist() == [2, 9, -1, -1, -1, 0]
    assert images.split.tolist() == ["train"] * 5 + ["test"]
    assert images.classes == [f"class{label}" for label in range(10)]
    np.testing.assert_array_equal(np.stack([images.record(row).pixels for row in range(6)]), pixels)
    assert len({images.pixels.stamp(item) for item in images.pixels.items}) == 6
    (root / "unlabeled_X.bin").write_bytes(b"")
    with pytest.raises(DataError, match=r"\(unlabeled_X.bin is not as it was published\): `contrail fetch stl10`"):
        stl10.load(path=str(root))


def test_eurosat_has_no_split(tmp_path: Path) -> None:
    """Ids are the paths below the folder 2750; a file that is no image turns up when it is read."""
    colors = {"Forest/Forest_1.jpg": (0, 128, 0), "Forest/Forest_2.jpg": (0, 64, 0), "River/River_1.jpg": (0, 0, 255)}
    for name, color in colors.items():
        (tmp_path / "eurosat/2750" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 64), color).save(tmp_path / "eurosat/2750" / name)
    images = eurosat.load(path=str(tmp_path / "eurosat"))
    assert images.ids == list(colors)
    assert images.classes == ["Forest", "River"]
    assert images.labels.tolist() == [0, 0, 1]
    assert images.split is None
    for row, name in enumerate(colors):
        with Image.open(tmp_path / "eurosat/2750" / name) as image:
            np.testing.assert_array_equal(images.record(row).pixels, np.asarray(image))


@pytest.mark.parametrize(
    ("source", "folder"),
    [
        (cifar10, "cifar-10-batches-py"),
        (cifar100, "cifar-100-python"),
        (svhn, "svhn"),
        (stl10, "stl10_binary"),
        (eurosat, "eurosat"),
        (mnist, "MNIST"),
        (fashion_mnist, "FashionMNIST"),
    ],
)
def test_what_is_missing_is_told_with_its_remedy(tmp_path: Path, source, folder: str) -> None:
    """Nothing is downloaded unless asked for; each has a fetcher that would; a folder of another name is refused."""
    name = source.__name__[16:]
    with pytest.raises(DataError, match=rf"{folder} is missing or damaged.*`contrail fetch {name}`"):
        source.load(path=str(tmp_path / folder))
    assert not any(tmp_path.iterdir())
    assert plugins.fetcher(name) is source.fetch
    if source is not svhn:
        with pytest.raises(DataError, match=f"elsewhere has to be called {folder}, as it is published"):
            source.load(path=str(tmp_path / "elsewhere"))


def test_a_download_that_fails_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When every mirror refuses, the last word is not a traceback."""
    monkeypatch.setattr(published.MNIST, "mirrors", ["file:///nowhere/"])
    with pytest.raises(DataError, match="MNIST could not be downloaded: Error downloading train-images"):
        mnist.fetch(str(tmp_path / "MNIST"))


def test_only_what_can_be_downloaded_has_a_fetcher() -> None:
    """`contrail fetch` says of digits, and of images that need an account, that there is nothing to download."""
    for name in ("digits", "folder", "shards", "imagenet"):
        with pytest.raises(ParamsError, match=f"{name} has nothing to download"):
            plugins.fetcher(name)
