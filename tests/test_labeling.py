"""The verbs around labels: which selection is meant, the list and its page, and merging what was filled in.

Claims:
- params.yaml is changed in the one place that is asked for, every other letter stays;
- what was filled in is in the table, once; nothing that is there is changed, and a refusal changes nothing at all.
"""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import params, paths
from pipeline.errors import ParamsError, Refusal
from pipeline.labeling import to_label
from pipeline.labeling.answers import label
from pipeline.labeling.selections import named, set_images

IDS = ["a.jpg", "b.jpg", "c.jpg", "d.jpg", "e\u0301.jpg"]  # the last one with an accent of its own, as a Mac writes it
SOURCE = {"name": "folder", "path": "data/raw/birds", "labels": "labels.csv"}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A prepared data set of five images and a table of labels, without a stage."""
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text("[core]\n    no_scm = true\n    analytics = false\n")
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    describe(tmp_path, SOURCE)
    dataset = tmp_path / paths.dataset("birds")
    dataset.mkdir(parents=True)
    table = {"id": IDS, "split": ["train"] * 5, "group": IDS}
    pq.write_table(pa.table(table), dataset / "splits.parquet")
    (tmp_path / "data/raw/birds").mkdir(parents=True)
    (tmp_path / "data/raw/birds/labels.csv").write_text(
        'file,label,site\na.jpg,heron,"north, by the lake"\nb.jpg,,south\n'
    )
    return tmp_path


def describe(root: Path, source: dict, **others: dict) -> None:
    datasets = {"birds": {"source": source}} | others
    (root / "params.yaml").write_text(json.dumps({"datasets": datasets}))


def merge(root: Path, *lines: str, new_class: bool = False, dataset: str | None = None) -> list[str]:
    """What `contrail label` says of a list with these lines."""
    (root / "to_label.csv").write_text("\n".join(["file,label", *lines]) + "\n")
    return label(root / "to_label.csv", dataset, new_class, root)


def table(root: Path) -> list[dict[str, str]]:
    with (root / "data/raw/birds/labels.csv").open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


# ---- merging


def test_what_is_filled_in_is_in_the_table_once(project: Path) -> None:
    """A listed image gets its label in its row, another a row; other columns stay, empty rows stay in the list."""
    said = merge(project, "b.jpg,heron", "c.jpg, heron ", "d.jpg,", "a.jpg,heron")
    assert said[0] == "2 labels are new in data/raw/birds/labels.csv, 1 rows of to_label.csv are still empty"
    assert table(project) == [
        {"file": "a.jpg", "label": "heron", "site": "north, by the lake"},
        {"file": "b.jpg", "label": "heron", "site": "south"},
        {"file": "c.jpg", "label": "heron", "site": ""},
    ]
    assert to_label.read(project / "to_label.csv") == [("d.jpg", "")]
    before = table(project)
    assert merge(project, "c.jpg,heron")[0].startswith("0 labels are new")
    assert table(project) == before


def test_a_name_may_be_spelled_in_two_ways(project: Path) -> None:
    """The table's é is one character, the file's is two: it is one image, and keeps the table's spelling."""
    file = project / "data/raw/birds/labels.csv"
    file.write_text("file,label\na.jpg,heron\n\u00e9.jpg,\n", encoding="utf-8")
    merge(project, f"{IDS[4]},heron")
    assert table(project)[1] == {"file": "\u00e9.jpg", "label": "heron"}
    with pytest.raises(Refusal, match="has the label 'heron' of"):
        merge(project, f"{IDS[4]},owl", new_class=True)


def test_line_ends_stay(project: Path) -> None:
    """A table of a spreadsheet on Windows stays one, its mark at the beginning apart."""
    file = project / "data/raw/birds/labels.csv"
    file.write_bytes("\ufefffile,label\r\na.jpg,heron\r\n".encode())
    merge(project, "b.jpg,heron")
    assert file.read_bytes() == b"file,label\r\na.jpg,heron\r\nb.jpg,heron\r\n"


@pytest.mark.parametrize("kind", [pa.string(), pa.int64(), pa.float64()])
def test_a_parquet_table_is_merged_too(project: Path, kind: pa.DataType) -> None:
    """Labels of any type stay what they are; other columns are null in new rows."""
    describe(project, SOURCE | {"labels": "labels.parquet"})
    file = project / "data/raw/birds/labels.parquet"
    labels = pa.array(["3", None, "4"], pa.string()).cast(kind)
    pq.write_table(pa.table({"site": ["n", "s", "s"], "file": ["a.jpg", "b.jpg", "c.jpg"], "label": labels}), file)
    assert merge(project, "b.jpg,4", "d.jpg,3")[0].startswith("2 labels are new")
    merged = pq.read_table(file)
    assert merged["label"].type == kind
    assert merged["label"].cast(pa.float64()).to_pylist() == [3, 4, 4, 3]
    assert merged["file"].to_pylist() == ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
    assert merged["site"].to_pylist() == ["n", "s", "s", None]
    with pytest.raises(Refusal, match=r"has the label '3' of a.jpg, not '4'"):
        merge(project, "a.jpg,4")


def test_codes_stay_what_they_are_in_a_column_of_floats(project: Path) -> None:
    """Codes of eight digits, which pandas keeps as floats where one is missing, lose none of them."""
    describe(project, SOURCE | {"labels": "labels.parquet"})
    file = project / "data/raw/birds/labels.parquet"
    pq.write_table(pa.table({"file": ["a.jpg", "b.jpg", "c.jpg"], "label": [39065001.0, 39065002.0, None]}), file)
    merge(project, "c.jpg,39065002", "d.jpg,39065001")
    assert pq.read_table(file)["label"].to_pylist() == [39065001.0, 39065002.0, 39065002.0, 39065001.0]


def test_a_subset_may_take_other_images_then(project: Path) -> None:
    """It is said that encoders run again, too, where the images are chosen by their labels."""
    assert merge(project, "b.jpg,heron")[1] == "stale now: prepare@birds, then nothing; and no encoder"
    block = {"source": SOURCE, "subset": 4}
    (project / "params.yaml").write_text(json.dumps({"datasets": {"birds": block}}))
    assert merge(project, "c.jpg,heron")[1].startswith("stale now: prepare@birds, whose `subset` chooses images by")


def test_a_parquet_table_of_numbers_takes_no_words(project: Path) -> None:
    """A label that the column cannot hold is refused by its type."""
    describe(project, SOURCE | {"labels": "labels.parquet"})
    pq.write_table(pa.table({"file": ["a.jpg"], "label": [3]}), project / "data/raw/birds/labels.parquet")
    with pytest.raises(Refusal, match="has labels of the type int64"):
        merge(project, "b.jpg,heron", new_class=True)


@pytest.mark.parametrize("labels", ["labels.csv", "labels.parquet"])
def test_a_linked_table_stays_linked(project: Path, labels: str) -> None:
    """The table that the link leads to has the labels; an object of DVC's cache stays, and the link becomes a file."""
    describe(project, SOURCE | {"labels": labels})
    link, object_ = project / "data/raw/birds" / labels, project / "ab" / ("c" * 30)
    before = b"file,label\na.jpg,heron\n"
    if labels.endswith("parquet"):
        pq.write_table(pa.table({"file": ["a.jpg"], "label": ["heron"]}), project / "written")
        before = (project / "written").read_bytes()
    for real in (project / "real" / labels, object_):
        real.parent.mkdir()
        real.write_bytes(before)
        link.unlink(missing_ok=True)
        link.symlink_to(real)
        merge(project, "b.jpg,heron")
        assert link.read_bytes() != before
        assert link.is_symlink() == (real != object_)
    assert (project / "real" / labels).read_bytes() == link.read_bytes()
    assert object_.read_bytes() == before


def test_a_new_class_has_to_be_meant(project: Path) -> None:
    """A label that no image has is refused, with the one that was perhaps meant, unless it is said to be new."""
    with pytest.raises(Refusal, match=r"no image has the label 'heorn' yet; did you mean 'heron'\?.*--new-class"):
        merge(project, "b.jpg,heorn")
    merge(project, "b.jpg,owl", new_class=True)
    assert [row["label"] for row in table(project)] == ["heron", "owl"]


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (["b.jpg,heron", "b.jpg,owl"], "to_label.csv says 'heron' and 'owl' of b.jpg: leave one"),
        (["a.jpg,owl"], "has the label 'heron' of a.jpg, not 'owl': correct one of them"),
        (["x.jpg,heron", "y.jpg,heron"], "2 images are not of the data set birds, x.jpg the first"),
    ],
)
def test_contradictions_and_strangers_change_nothing(project: Path, lines: list[str], sentence: str) -> None:
    """Neither the table nor the list is touched by a refusal, not even for the rows that are right."""
    before = table(project)
    with pytest.raises(Refusal, match=sentence):
        merge(project, "c.jpg,heron", *lines, new_class=True)
    assert table(project) == before
    assert len(to_label.read(project / "to_label.csv")) == 1 + len(lines)


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        (SOURCE | {"labels": None}, "labels is null, so an image has no label but its folder: write the labels into"),
        ({"name": "digits", "path": "x"}, "come with the source digits, which takes no others"),
    ],
)
def test_labels_that_are_no_table_are_refused(project: Path, source: dict, sentence: str) -> None:
    """Class folders and published data sets: the sentence says what would be right."""
    describe(project, source)
    with pytest.raises(Refusal, match=sentence):
        merge(project, "b.jpg,heron")


def test_which_data_set_is_asked_where_it_is_not_clear(project: Path) -> None:
    """The images are of two data sets: --dataset says which, and has to exist."""
    describe(project, SOURCE, small={"source": SOURCE})
    shutil.copytree(project / paths.dataset("birds"), project / paths.dataset("small"))
    with pytest.raises(Refusal, match="of the data sets birds, small: say which by --dataset"):
        merge(project, "b.jpg,heron")
    assert merge(project, "b.jpg,heron", dataset="small")[0].startswith("1 labels are new")
    with pytest.raises(Refusal, match="no data set 'brids'; did you mean 'birds'"):
        merge(project, "b.jpg,heron", dataset="brids")


def test_nothing_filled_in_is_said(project: Path) -> None:
    """An empty list is left as it is."""
    assert merge(project, "b.jpg,") == ["nothing to merge: none of the 1 rows of to_label.csv has a label"]


@pytest.mark.parametrize("text", ["", "name;label\n", "label,file\n", "\x89PNG\xff"])
def test_another_file_is_no_list(project: Path, text: str) -> None:
    """A file without the line `file,label` at its beginning is refused, and so never written over."""
    (project / "to_label.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(Refusal, match=r"is no list of images to label|cannot be read"):
        label(project / "to_label.csv", None, False, project)
    with pytest.raises(Refusal, match=r"is no list of images to label|cannot be read"):
        to_label.select(None, None, project / "to_label.csv", project)


# ---- the page


def test_the_page_shows_every_image_and_needs_no_network(project: Path) -> None:
    """One picture and one field an image, in the order of the list; names cannot break out of the page."""
    folder = project / paths.dataset("birds")
    (folder / "images").mkdir()
    np.save(folder / "images/pixels.npy", np.zeros((2, 8, 8, 3), np.uint8))
    name = '"><script>x</script>.jpg'
    for file in ("images/index.parquet", "splits.parquet"):
        pq.write_table(pa.table({"id": ["a.jpg", name]}), folder / file)
    pq.write_table(pa.table({"id": ["a.jpg"], "label": [0], "name": ["<heron>"]}), folder / "labels.parquet")
    page = to_label.sheet([name, "a.jpg"], folder, "to_label.csv")
    assert page.count('src="data:image/png;base64,') == page.count("<input") == 2
    assert page.count("<script>") == 1
    assert page.index("1. &quot;") < page.index("2. a.jpg")
    assert '<option value="&lt;heron&gt;">' in page
    assert "http" not in page


# ---- params.yaml


@pytest.fixture
def shipped(root: Path, tmp_path: Path) -> Path:
    """A folder with the shipped params.yaml."""
    shutil.copyfile(root / "params.yaml", tmp_path / "params.yaml")
    return tmp_path


def test_a_selection_is_written_where_it_is_clear_which(shipped: Path) -> None:
    """The one encoder that learned without labels looks; the block passes the check, every other line stays."""
    before = (shipped / "params.yaml").read_text()
    assert named(None, shipped) == named("next", shipped) == named(None, shipped) == "next"
    after = (shipped / "params.yaml").read_text()
    head, tail = before.split("selections:")
    assert after.startswith(head)
    assert after.endswith("".join(tail.splitlines(keepends=True)[1:]))
    values = params.read(shipped / "params.yaml")
    params.check(values)
    assert values["selections"]["next"]["evaluation"] == "simclr"


def test_how_many_images_is_changed_and_nothing_else(shipped: Path) -> None:
    """One number in one line, comments and anchors stay."""
    named(None, shipped)
    before = (shipped / "params.yaml").read_text().splitlines()
    set_images("next", 250, shipped)
    after = (shipped / "params.yaml").read_text().splitlines()
    changed = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    assert changed == [("    images: 100 # how many to label", "    images: 250 # how many to label")]


@pytest.mark.parametrize(
    ("images", "others"),
    [
        ("images: &n 100", ""),
        ("images: 1_00", ""),
        ("<<: *base", ""),
        ("images: *count", ""),
        ("images: 100", "  next2: *next\n"),
        ("images: 100", "  next2: { <<: *next, seed: 1 }\n"),
    ],
)
def test_a_number_that_stands_elsewhere_is_not_written(shipped: Path, images: str, others: str) -> None:
    """An anchor, an alias, a merged block: the sentence says what to do by hand, and params.yaml stays as it is."""
    named(None, shipped)
    text = (shipped / "params.yaml").read_text().replace("images: 100", images).replace("  next:", "  next: &next")
    text = text.replace("study: digits", "study: digits\nbase: &base { images: &count 100 }", 1) + others
    (shipped / "params.yaml").write_text(text)
    with pytest.raises(Refusal, match=r"selections\.next\.images .* write `images: 250` "):
        set_images("next", 250, shipped)
    assert (shipped / "params.yaml").read_text() == text
    set_images("next", 100, shipped)
    assert (shipped / "params.yaml").read_text() == text


def test_which_encoder_is_asked_where_several_learned(shipped: Path) -> None:
    """Two rows that learned without labels: the sentence names them, gives the lines, and changes nothing."""
    text = (shipped / "params.yaml").read_text().replace("sees: labels", "sees: images")
    (shipped / "params.yaml").write_text(text)
    with pytest.raises(Refusal, match=r"(?s)one of simclr, supervised\nselections:\n  next:\n    evaluation: simclr"):
        named(None, shipped)
    assert (shipped / "params.yaml").read_text() == text


def test_a_selection_is_found_by_name(shipped: Path) -> None:
    """Of several one has to be named, and has to be there."""
    named("first", shipped)
    text = (shipped / "params.yaml").read_text()
    block = text[text.index("  first:") :]
    (shipped / "params.yaml").write_text(text + block.replace("  first:", "  second:"))
    assert named("second", shipped) == "second"
    with pytest.raises(Refusal, match="has the selections first, second: say which"):
        named(None, shipped)
    with pytest.raises(Refusal, match=r"no selection 'secnd'; did you mean 'second'\? It has first, second"):
        named("secnd", shipped)


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("evaluation", "simclrr", "selections.next.evaluation: must be"),
        ("dataset", "other", "selections.next.dataset: must be 'digits', not 'other'"),
        ("seed", 7, "selections.next.seed: the run 'simclr' has no seed 7, only 0, 1, 2"),
        ("images", 0, "selections.next.images: must be a whole number greater than or equal to 1"),
        ("select", {"name": "us"}, "selections.next.select.name"),
    ],
)
def test_a_selection_is_checked(shipped: Path, key: str, value: object, sentence: str) -> None:
    """What the block names exists, and goes with what the encoder was judged on."""
    named(None, shipped)
    values = params.read(shipped / "params.yaml")
    values["selections"]["next"][key] = value
    with pytest.raises(ParamsError, match=sentence):
        params.check(values)


def test_a_selection_is_of_the_data_set_of_its_evaluation(shipped: Path) -> None:
    """Features of other images are no help."""
    named(None, shipped)
    values = params.read(shipped / "params.yaml")
    values["datasets"]["other"] = values["datasets"]["digits"]
    values["selections"]["next"]["dataset"] = "other"
    with pytest.raises(ParamsError, match="the evaluation 'simclr' is one of digits, so it must be that, not other"):
        params.check(values)


@pytest.mark.parametrize("file", ["data/raw/list.txt", "stages/datasets/digits.py/../x.txt"])
def test_a_list_lies_inside_the_path_of_its_source(shipped: Path, file: str) -> None:
    """Outside, an edit of it would go unseen."""
    values = params.read(shipped / "params.yaml")
    select = {"name": "official", "file": file, "missing": 0.0}
    values["datasets"]["digits"]["budgets"]["listed"] = {"select": select, "seeds": [0]}
    with pytest.raises(ParamsError, match=r"budgets.listed.select.file: must lie inside stages/datasets/digits.py"):
        params.check(values)
