"""Small folders of images as people have them, and a copy of the project to make studies of them in."""

import csv
import shutil
from pathlib import Path

import numpy as np
from PIL import Image
from toy_project import CONFIG, REPOSITORY, commit, run

CLASSES = ("gull", "heron", "wren")
KEPT = (
    *("pipeline", "stages", "recipes/folder", "params.yaml", "dvc.yaml"),
    *(".gitignore", ".dvcignore", "data/finetunes/.gitkeep"),
)


def picture(path: Path, number: int, side: tuple[int, int] = (20, 24)) -> Path:
    """An image of its own: `number` decides every pixel."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, (*side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def table(path: Path, *rows: tuple[str, ...]) -> Path:
    """A CSV file of these rows, the first of which are the names of the columns."""
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def class_folders(folder: Path, count: int = 60) -> Path:
    """heron/0.png …"""
    for number in range(count):
        picture(folder / CLASSES[number % 3] / f"{number}.png", number)
    return folder


def flat_with_table(folder: Path, count: int = 60, known: int = 45) -> Path:
    """0.png … and labels.csv, which knows some of them."""
    for number in range(count):
        picture(folder / f"{number}.png", number)
    table(folder / "labels.csv", ("file", "label"), *((f"{n}.png", CLASSES[n % 3]) for n in range(known)))
    return folder


def unlabeled(folder: Path, count: int = 40) -> Path:
    """0.png …"""
    for number in range(count):
        picture(folder / f"{number}.png", number)
    return folder


def nested_with_groups(folder: Path, count: int = 90, patients: int = 18) -> Path:
    """p0/slide-1/0.png … and tiles.csv: file, label, patient_id; a third has no label."""
    rows = []
    for number in range(count):
        patient = f"p{number % patients}"
        file = f"{patient}/slide-{number % 2}/{number}.png"
        picture(folder / file, number)
        rows.append((file, CLASSES[number // patients % 3] if number % 3 else "", patient))
    table(folder / "tiles.csv", ("file", "label", "patient_id"), *rows)
    return folder


def many_classes(folder: Path, classes: int = 100, each: int = 12) -> Path:
    """c00/0.png …"""
    for number in range(classes * each):
        picture(folder / f"c{number % classes:02d}" / f"{number}.png", number, (8, 8))
    return folder


KINDS = {
    "class_folders": class_folders,
    "flat_with_table": flat_with_table,
    "unlabeled": unlabeled,
    "nested_with_groups": nested_with_groups,
    "many_classes": many_classes,
}


def project(root: Path) -> Path:
    """The code of this repository with its default study, as a repository of its own; nothing has run."""
    for name in KEPT:
        source, target = REPOSITORY / name, root / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
    (root / ".dvc").mkdir()
    (root / ".dvc" / "config").write_text(CONFIG.format("false"))
    run("git", "init", "--quiet", cwd=root)
    commit(root)
    return root
