"""What a folder of images holds, as `contrail use folder` finds it.

1. Labels, groups, splits, sizes, what is no image: as they are.
2. What no study can be made of is refused in a sentence.
"""

import folder_cases as cases
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from drafts import CPU, drafted, look
from folder_cases import picture, table

from pipeline.drafting import draft, findings, survey
from pipeline.drafting.survey import FolderError
from pipeline.errors import Refusal

# 1. what is there


def test_class_folders_are_labels(tmp_path):
    """Every image has the label of its folder; sizes and colors are those of the files."""
    found = look(cases.class_folders(tmp_path))
    assert found.source == {"labels": None, "group": None, "split": None}
    assert found.labels == dict.fromkeys(cases.CLASSES, 20)
    assert (found.files, found.sampled, set(found.sizes)) == (60, 60, {(20, 24)})
    np.testing.assert_allclose(found.mean, 0.5, atol=0.01)  # of evenly spread pixels
    np.testing.assert_allclose(found.std, 1 / 12**0.5, atol=0.01)
    assert found.kinds == {"PNG": 60}


def test_a_table_is_found_and_read(tmp_path):
    """The one table of labels is taken without being named; it is no image, and it need not know every image."""
    found = look(cases.flat_with_table(tmp_path))
    assert found.source == {"labels": "labels.csv", "group": None, "split": None}
    assert (found.files, found.labels) == (60, dict.fromkeys(cases.CLASSES, 15))


def test_a_parquet_table_is_one_too(tmp_path):
    """The names of its columns are in its schema."""
    cases.unlabeled(tmp_path)
    names = [f"{n}.png" for n in range(40)]
    pq.write_table(pa.table({"file": names, "label": ["a", "b"] * 20}), tmp_path / "known.parquet")
    found = look(tmp_path)
    assert (found.source["labels"], found.labels) == ("known.parquet", {"a": 20, "b": 20})


def test_images_without_labels_are_images(tmp_path):
    """Neither folders nor a table: no classes."""
    found = look(cases.unlabeled(tmp_path))
    assert (found.files, found.labels, found.source["labels"]) == (40, {}, None)


def test_a_column_that_looks_like_groups_is_taken(tmp_path):
    """A patient's images belong together; rows may then have a group and no label."""
    found = look(cases.nested_with_groups(tmp_path))
    assert found.source == {"labels": "tiles.csv", "group": "patient_id", "split": None}
    assert (found.groups, found.labeled, found.notes) == (18, 60, [])


def test_the_widest_group_wins(tmp_path):
    """Of subject and slide the subject; a column that has one value per image, or one for all, is no group."""
    names = [f"{n}.png" for n in range(40)]
    cases.unlabeled(tmp_path)
    rows = [(name, "ab"[n % 2], f"s{n % 10}", f"p{n % 5}", "c0", f"v{n}") for n, name in enumerate(names)]
    table(tmp_path / "t.csv", ("file", "label", "Slide", "subject", "case", "video"), *rows)
    assert look(tmp_path).source["group"] == "subject"
    table(tmp_path / "t.csv", ("file", "label", "case", "video"), *((*row[:2], *row[4:]) for row in rows))
    assert look(tmp_path).source["group"] is None
    assert look(tmp_path, group="case").source["group"] == "case"  # who asks for it gets it


def test_a_group_that_is_not_known_of_every_image_is_noted(tmp_path):
    """It is not taken silently, nor left out silently."""
    cases.flat_with_table(tmp_path)
    rows = [(f"{n}.png", "ab"[n % 2], f"p{n % 5}") for n in range(45)]
    table(tmp_path / "labels.csv", ("file", "label", "patient"), *rows)
    found = look(tmp_path)
    assert found.source["group"] is None
    assert "the column patient is not used as a group: 15 of 60 images lack" in found.notes[0]
    with pytest.raises(Refusal, match="15 of 60 images lack"):
        look(tmp_path, group="patient")


def test_a_level_of_folders_can_be_the_group(tmp_path):
    """--group 2: the second folder."""
    for number in range(40):
        picture(tmp_path / "ab"[number % 2] / f"s{number % 8}" / f"{number}.png", number)
    found = look(tmp_path, group="2")
    assert (found.source["group"], found.groups, found.labels) == (2, 8, {"a": 20, "b": 20})


def test_train_and_test_folders_are_a_split(tmp_path):
    """They are no classes: those are one level below."""
    for number in range(40):
        part = "test" if number % 4 == 0 else "train"
        picture(tmp_path / part / cases.CLASSES[number % 3] / f"{number}.png", number)
    found = look(tmp_path)
    assert found.source["split"] == "folders"
    assert found.parts == {"train": 30, "test": 10}
    assert set(found.labels) == set(cases.CLASSES)
    split = drafted(found)["datasets"]["birds"]["split"]
    assert (split["validation"], split["test"]) == (0.1, "own")


def test_a_split_column_is_a_split(tmp_path):
    """The column `split` of the table."""
    cases.unlabeled(tmp_path)
    rows = [(f"{n}.png", "ab"[n % 2], ("train", "val", "test")[n % 3]) for n in range(40)]
    table(tmp_path / "labels.csv", ("file", "label", "split"), *rows)
    found = look(tmp_path)
    assert (found.source["split"], found.parts) == ("column", {"train": 14, "validation": 13, "test": 13})
    split = drafted(found)["datasets"]["birds"]["split"]
    assert (split["validation"], split["test"]) == ("own", "own")


def test_what_is_no_image_is_counted(tmp_path):
    """Files that prepare would leave out are told by their kind, and the gate lets that many pass."""
    cases.class_folders(tmp_path)
    (tmp_path / "gull" / "Thumbs.db").write_bytes(b"x" * 99)
    (tmp_path / "gull" / "empty.png").touch()
    found = look(tmp_path)
    assert found.unusable == {"not_image": 1, "empty": 1}
    assert found.sampled == 62
    assert 2 / 62 <= draft.plan(found, CPU).bad < 0.1
    assert "2 of these are no images (1 not_image, 1 empty)" in "\n".join(findings.seen(found))


# 2. refusals


def test_a_wrong_path_is_refused(tmp_path):
    """Nothing there, a file, an empty folder, a handful of images: each a sentence with the place."""
    with pytest.raises(FolderError, match="nowhere is not there: --path names a folder of images"):
        look(tmp_path / "nowhere")
    with pytest.raises(FolderError, match=r"0\.png is a file"):
        look(picture(tmp_path / "0.png", 0))
    (tmp_path / "empty").mkdir()
    with pytest.raises(Refusal, match="empty has no files"):
        look(tmp_path / "empty")
    with pytest.raises(FolderError, match="holds 5 files, and a study takes 20 images or more"):
        look(cases.unlabeled(tmp_path / "few", 5))


def test_files_that_are_no_images_are_no_study(tmp_path):
    """Where most files are something else, the folder is the wrong one."""
    for number in range(30):
        (tmp_path / f"{number}.txt").write_text("words, words")
    with pytest.raises(FolderError, match=r"30 of 30 files of .* looked at are no images: 30 not_image"):
        look(tmp_path)


def test_other_names_of_columns_are_refused_with_what_they_should_be(tmp_path):
    """The sentence has the columns that were found, those that are expected, and what to rename."""
    cases.unlabeled(tmp_path)
    table(tmp_path / "meta.csv", ("filename", "class", "age"), ("0.png", "a", "3"))
    with pytest.raises(FolderError) as refusal:
        look(tmp_path)
    assert "meta.csv has the columns filename, class, age, and a table of labels has file and label" in str(
        refusal.value
    )
    assert "rename 'filename' to 'file' and 'class' to 'label'" in str(refusal.value)


def test_a_table_beside_class_folders_is_noted_only(tmp_path):
    """The folders are the labels; the table is named as what it will be taken for."""
    cases.class_folders(tmp_path)
    table(tmp_path / "meta.csv", ("age", "sex"), ("3", "f"))
    found = look(tmp_path)
    assert found.labeled == 60
    assert found.notes[0].startswith("meta.csv is not used, and as a file that is no image it counts as a bad one")
    with pytest.raises(FolderError, match="has the columns age, sex"):
        look(tmp_path, labels="meta.csv")


def test_two_tables_have_to_be_told_apart(tmp_path):
    """--labels says which; it has to lie in the folder."""
    cases.flat_with_table(tmp_path / "images")
    (tmp_path / "images" / "old.csv").write_bytes((tmp_path / "images" / "labels.csv").read_bytes())
    with pytest.raises(FolderError, match=r"holds 2 tables of labels, labels\.csv, old\.csv: say which by --labels"):
        look(tmp_path / "images")
    assert look(tmp_path / "images", labels="old.csv").source["labels"] == "old.csv"
    outside = table(tmp_path / "labels.csv", ("file", "label"))
    with pytest.raises(FolderError, match=r"is not in .*images, which is all that is watched"):
        survey.survey(tmp_path / "images", outside, None)
    with pytest.raises(FolderError, match=r"there is no .*none\.csv: --labels names a CSV or parquet file"):
        look(tmp_path / "images", labels="none.csv")


def test_a_folder_around_the_folder_is_told(tmp_path):
    """Where everything lies in one folder that holds the classes, that one is meant."""
    cases.class_folders(tmp_path / "birds" / "images")
    with pytest.raises(FolderError, match=r"is it --path .*birds/images"):
        look(tmp_path / "birds")


def test_a_group_that_is_not_there_is_refused(tmp_path):
    """With the columns that there are."""
    cases.nested_with_groups(tmp_path)
    with pytest.raises(
        FolderError, match=r"--group patient is neither a column .* there are file, label, patient_id\)"
    ):
        look(tmp_path, group="patient")
