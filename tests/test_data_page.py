"""The section of the report about the data: what it counts, which images it shows, and what it keeps to itself."""

import csv
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import numpy as np
import pytest
from made_study import write_study, write_table

from stages.datasets._decoding import Treatment
from stages.figures import data
from stages.figures._study import Study


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A study of 300 digits in the current directory: `.study` with what `params` change, `.folder`."""
    monkeypatch.chdir(tmp_path)
    params = write_study(300)

    def study(**changes: object) -> Study:
        given = {**params, **changes}
        return Study("digits", bool(given.pop("private")), given)

    return SimpleNamespace(study=study, folder=Path("data/datasets/digits"))


def words(html: str) -> str:
    """What is read, without tags and thin spaces."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html)).replace("\N{THIN SPACE}", " ")


def relabel(folder: Path, labels: np.ndarray, names: list[str]) -> None:
    """Give the first images these labels, -1 for none."""
    ids = np.array([f"digit-{row:04}" for row in range(len(labels))])
    known = np.flatnonzero(labels >= 0)
    table = {"id": ids[known], "label": labels[known], "name": [names[label] for label in labels[known]]}
    write_table(folder / "labels.parquet", **table)


def test_images_are_counted_by_split_and_class(made: SimpleNamespace) -> None:
    """Every image once, those without a label in a line of their own."""
    relabel(made.folder, np.where(np.arange(300) < 90, np.arange(300) % 3, -1), ["a", "b", "c"])
    looked = data.look(made.study(), "digits")
    assert looked.counts.sum() == 300
    assert looked.counts[:-1].sum(1).tolist() == [30, 30, 30]
    prepared = made.study().prepared("digits")
    for column, split in enumerate(("train", "validation", "test")):
        assert looked.counts[:, column].sum() == len(prepared.rows(split))
        assert looked.counts[-1, column] == len(prepared.rows(split)) - len(prepared.labeled(split))
    html = data.draw(looked)
    text = words(html)
    train = prepared.rows("train")
    assert f"train {len(train)} {len(prepared.labeled('train'))} " in text
    assert "no label 210" in text
    widths = re.findall(r"<b>(.*?)</b>.*?</small>", html)
    assert widths == ["a", "b", "c", "no label"]
    bars = [sum(map(float, re.findall(r"width:([\d.]+)%", bar))) for bar in html.split('class="bar"')[1:]]
    assert np.allclose(bars, 100, atol=0.1)  # three equal classes, and those without a label on their own scale
    assert "excluded 0" not in text


def test_each_class_shows_images_of_its_own(made: SimpleNamespace) -> None:
    """Up to eight of a class, all different, in the same choice each time."""
    prepared = made.study().prepared("digits")
    samples = data.samples(prepared)
    assert [name for name, _ in samples] == prepared.classes
    for name, tiles in samples:
        assert len({pixels.tobytes() for pixels, _ in tiles}) == len(tiles) == 8
        own = {prepared.images.image(int(row)).tobytes() for row in np.flatnonzero(prepared.labels == int(name))}
        assert {pixels.tobytes() for pixels, _ in tiles} <= own
    assert data.draw(data.look(made.study(), "digits")) == data.draw(data.look(made.study(), "digits"))


@pytest.mark.parametrize(("classes", "folded"), [(30, False), (100, True)])
def test_many_classes_share_a_sheet(made: SimpleNamespace, classes: int, folded: bool) -> None:
    """Beyond twelve, bars and a sheet of at most sixty images; very many bars are folded."""
    relabel(made.folder, np.arange(300) % classes, [f"<kind> {label}" for label in range(classes)])
    looked = data.look(made.study(), "digits")
    assert 30 <= sum(len(tiles) for _, tiles in looked.samples) <= 60
    html = data.draw(looked)
    assert ("<details>" in html) is folded
    assert html.count('class="class"') == classes
    assert "&lt;kind&gt; 7" in html
    assert "<kind>" not in html


def test_copies_stand_side_by_side(made: SimpleNamespace) -> None:
    """A leak shows the test image and the other one, with their splits and distance; so does a near copy."""
    looked = data.look(made.study(), "digits")
    [leak], [near] = looked.leaks, looked.twice
    prepared = made.study().prepared("digits")
    for (pixels, _), split in zip(leak.tiles, ("test", "train"), strict=True):
        np.testing.assert_array_equal(pixels, prepared.images.image(int(prepared.rows(split)[0])))
    assert (leak.distance, near.distance) == (None, 3)
    text = words(data.draw(looked))
    assert "1 test image is once more in train or validation, 1 pixel for pixel." in text
    assert "Not excluded there: 1 image." in text
    assert "test · train equal" in text
    assert "train 3 bits apart" in text


def test_what_was_left_out_is_named_with_its_reason(made: SimpleNamespace) -> None:
    """Kinds with their counts, the most frequent first, and the first three files of each."""
    with (made.folder / "quarantine.csv").open("w", newline="") as file:
        rows = [(f"cut {row}.jpg", "truncated", "it ends early") for row in range(5)] + [
            ("<b>.gif", "not_image", "text")
        ]
        csv.writer(file).writerows([("file", "kind", "reason"), *rows])
    summary = json.loads((made.folder / "summary.json").read_text())
    summary |= {"files": 306, "quarantined": {"not_image": 1, "truncated": 5}}
    (made.folder / "summary.json").write_text(json.dumps(summary))
    html = data.draw(data.look(made.study(), "digits"))
    text = words(html)
    assert "6 files of 306 left out truncated cut 0.jpg: it ends early cut 1.jpg" in text
    assert "cut 2.jpg: it ends early 5 not image &lt;b&gt;.gif: text 1" in text
    assert "cut 3.jpg" not in text
    assert "gray, made three equal channels 300" in text


def test_private_images_are_only_counted(made: SimpleNamespace) -> None:
    """No pixel, no id and no file name; the same numbers."""
    shown, hidden = (data.section(made.study(private=private)).body for private in (False, True))
    for secret in ("<img", "digit-0", "bad/", "it ends early"):
        assert secret in shown
        assert secret not in hidden
    for number in ("2 files of 302 left out", "1 pixel for pixel", "truncated"):
        assert number in words(shown)
        assert number in words(hidden)


def test_several_data_sets_have_a_heading_each(made: SimpleNamespace) -> None:
    """One has none, as the page already bears its name."""
    made.folder.rename(made.folder.with_name("a"))
    made.folder.with_name("b").symlink_to("a")
    assert "<h3>" not in data.section(made.study(datasets={"a": {}})).body
    assert re.findall("<h3>(.)</h3>", data.section(made.study(datasets={"a": {}, "b": {}})).body) == ["a", "b"]


def test_every_treatment_has_words() -> None:
    """What `prepare` may count, the page can say."""
    assert set(data.TREATED) == set(get_args(Treatment))


def test_spaced_is_even_and_never_twice() -> None:
    """First and last are among them; of fewer, all."""
    assert data.spaced(np.arange(10), 4).tolist() == [0, 3, 6, 9]
    assert data.spaced(np.arange(3), 8).tolist() == [0, 1, 2]
    assert data.spaced(np.arange(0), 8).tolist() == []
