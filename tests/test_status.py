"""`contrail status`: what changed in the images since they were prepared, in words, and what is stale then.

1. Each kind of change of a real, prepared folder is told, and nothing else.
2. Labels and groups alone leave alone what does not see them.
3. Nothing is read again that did not change.
"""

import json
import os
import subprocess

import folder_cases as cases
import pyarrow.parquet as pq
import pytest
from folder_cases import picture, table
from toy_project import run
from typer.testing import CliRunner

from pipeline import changes, cli, graph, repro
from pipeline.drafting import draft, survey

PREPARE = "prepare@birds"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A study of a folder with a table of labels and patients, prepared."""
    root = cases.project(tmp_path_factory.mktemp("prepared") / "project")
    images = cases.nested_with_groups(root / "data" / "raw" / "birds")
    found = survey.survey(images, None, None)
    template = (root / "recipes" / "folder" / "params.yaml").read_text()
    decided = draft.plan(found, draft.Machine(gpu=False, cores=1))
    (root / "params.yaml").write_text(draft.draft(template, found, decided, "birds", "data/raw/birds"))
    environment = repro.environment(PYTHONPATH=str(root), OMP_NUM_THREADS="1", CONTRAIL_TRACKING="off")
    command = repro.dvc("repro", PREPARE)
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return root


@pytest.fixture
def project(prepared, tmp_path, monkeypatch):
    run("cp", "-r", "--preserve=timestamps", str(prepared), str(tmp_path / "project"), cwd=tmp_path)
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


@pytest.fixture
def birds(project):
    return project / "data" / "raw" / "birds"


def changed(root):
    """What changed in the images, without asking DVC which stages are stale."""
    source = "data/raw/birds modified"
    return changes.changes({PREPARE: [source]}, root)["birds"]


def retold(birds, change):
    """The table with each row as `change` gives it, None for none."""
    rows = [line.split(",") for line in (birds / "tiles.csv").read_text().splitlines()]
    table(birds / "tiles.csv", rows[0], *filter(None, (change(*row) for row in rows[1:])))


# 1. kinds of change


def test_files_that_came_went_changed_and_moved_are_told(project, birds):
    """With their names; a file that is elsewhere with the same bytes has moved."""
    picture(birds / "p0" / "slide-0" / "new.png", 1000)
    (birds / "p1" / "slide-1" / "1.png").unlink()
    picture(birds / "p2" / "slide-0" / "2.png", 1001)
    (birds / "p3" / "slide-1" / "3.png").rename(birds / "p3" / "slide-1" / "third.png")
    moves = {"p3/slide-1/3.png": "p3/slide-1/third.png"}
    retold(birds, lambda *row: None if row[0] == "p1/slide-1/1.png" else (moves.get(row[0], row[0]), *row[1:]))
    with (birds / "tiles.csv").open("a") as file:
        file.write("p0/slide-0/new.png,gull,p0\n")
    found = changed(project)
    assert found.added == ["p0/slide-0/new.png"]
    assert found.removed == ["p1/slide-1/1.png"]
    assert found.changed == ["p2/slide-0/2.png"]
    assert found.moved == [("p3/slide-1/3.png", "p3/slide-1/third.png")]
    assert (found.relabeled, found.regrouped, found.refusal) == ([], [], None)
    first, second = changes.words("birds", found)
    assert first == (
        "birds: 1 added (p0/slide-0/new.png); 1 removed (p1/slide-1/1.png); 1 changed (p2/slide-0/2.png); "
        "1 moved (p3/slide-1/3.png → p3/slide-1/third.png)"
    )
    assert second.startswith("  at most these run again: prepare@birds, ")
    assert set(found.stages) == {node.name for node in graph.read(project)}


def test_labels_that_came_went_and_changed_are_told(project, birds):
    """Each with what it was and what it is."""
    news = {"p0/slide-0/0.png": "wren", "p1/slide-1/1.png": "", "p2/slide-0/2.png": "heron"}
    known = {line.split(",")[0]: line.split(",")[1] for line in (birds / "tiles.csv").read_text().splitlines()}
    retold(birds, lambda file, label, patient: (file, news.get(file, label), patient))
    found = changed(project)
    assert found.relabeled == [(file, known[file] or None, label or None) for file, label in news.items()]
    assert found.kinds == ["relabeled"]
    assert f"p0/slide-0/0.png: {known['p0/slide-0/0.png'] or 'none'} → wren" in changes.words("birds", found)[0]


def test_groups_that_changed_are_told(project, birds):
    """A tile that turns out to be of another patient."""
    retold(birds, lambda file, label, patient: (file, label, "p9" if file == "p0/slide-0/0.png" else patient))
    found = changed(project)
    assert found.kinds == ["regrouped"]
    assert found.regrouped == [("p0/slide-0/0.png", "p0", "p9")]


def test_many_changes_are_counted_and_the_first_named(project, birds):
    """Three names stand for all."""
    for number in range(5):
        (birds / f"p{number}" / f"slide-{number % 2}" / f"{number}.png").unlink()
    retold(birds, lambda *row: row if (birds / row[0]).exists() else None)
    line = changes.words("birds", changed(project))[0]
    assert line == "birds: 5 removed (p0/slide-0/0.png, p1/slide-1/1.png, p2/slide-0/2.png, …)"


def test_a_source_that_cannot_be_read_now_says_why(project, birds):
    """A table that names a file that is gone: the sentence that prepare would give."""
    (birds / "p1" / "slide-1" / "1.png").unlink()
    found = changed(project)
    assert "there is no image 'p1/slide-1/1.png'" in found.refusal
    assert changes.words("birds", found) == [f"birds: the images cannot be read as they are now: {found.refusal}"]


def test_what_prepare_would_not_see_is_no_change(project, birds):
    """A note in another column of the table changes the folder, and no image."""
    retold(birds, lambda *row: row)
    text = (birds / "tiles.csv").read_text().splitlines()
    (birds / "tiles.csv").write_text("\n".join([f"{text[0]},note", *(f"{line},fine" for line in text[1:])]) + "\n")
    found = changed(project)
    assert found.kinds == []
    assert "no file, label or group that prepare would see" in changes.words("birds", found)[0]
    assert not [stage for stage in found.stages if stage.startswith(("pretrain", "embed", "evaluate"))]


def test_of_a_subset_new_files_are_not_told(project, birds):
    """Whoever takes a part of the images has not seen all of them before."""
    text = (project / "params.yaml").read_text()
    (project / "params.yaml").write_text(text.replace("subset: null", "subset: 80"))
    picture(birds / "p0" / "slide-0" / "new.png", 1000)
    with (birds / "tiles.csv").open("a") as file:
        file.write("p0/slide-0/new.png,gull,p0\n")
    assert changed(project).added == []


# 2. what is stale


def test_a_new_label_trains_no_encoder_again(project, birds):
    """What sees labels runs again, and what comes of it; what sees images does not."""
    text = (project / "params.yaml").read_text()
    seeing = text.replace("sees: images\n    method: { name: random }", "sees: labels\n    method: { name: random }")
    (project / "params.yaml").write_text(seeing)
    retold(birds, lambda file, label, patient: (file, label or "gull", patient))
    stages = changed(project).stages
    assert {PREPARE, "pretrain@random", "embed@random", "evaluate@simclr", "finetune@random", "report"} <= set(stages)
    assert not {"pretrain@simclr", "embed@simclr"} & set(stages)


def test_a_new_label_may_change_a_subset(project, birds):
    """A subset takes equally many images of each class, so everything may run again."""
    text = (project / "params.yaml").read_text()
    (project / "params.yaml").write_text(text.replace("subset: null", "subset: 80"))
    retold(birds, lambda file, label, patient: (file, label or "gull", patient))
    assert {PREPARE, "pretrain@simclr"} <= set(changed(project).stages)


def test_an_emptied_row_has_not_moved():
    """What has no content in the manifest, as a row of parquet that was forgotten, is no file that came elsewhere."""
    found = changes._files({"a.parquet/000000": None}, ["b.parquet/000000"], {"b.parquet": "x"}, whole=True)
    assert found == {"added": ["b.parquet/000000"], "removed": ["a.parquet/000000"], "changed": [], "moved": []}


def test_a_new_group_moves_images_between_splits(project, birds):
    """So everything that knows a split runs again."""
    retold(birds, lambda file, label, patient: (file, label, "p9" if patient == "p0" else patient))
    stages = changed(project).stages
    assert {"pretrain@simclr", "embed@simclr", "evaluate@simclr", "report"} <= set(stages)


# 3. cheap


def test_status_tells_images_and_stages(project, birds):
    """The command: words for people, everything for scripts."""
    (birds / "p1" / "slide-1" / "1.png").unlink()
    retold(birds, lambda *row: row if (birds / row[0]).exists() else None)
    lines = CliRunner().invoke(cli.app, ["status"]).stdout.splitlines()
    assert lines[0] == "birds: 1 removed (p1/slide-1/1.png)"
    answer = json.loads(CliRunner().invoke(cli.app, ["status", "--json"]).stdout)
    assert answer["data"]["birds"]["removed"] == ["p1/slide-1/1.png"]
    assert answer["stages"][PREPARE] == ["data/raw/birds modified"]


def test_an_unchanged_source_is_not_looked_at(project, monkeypatch):
    """Where DVC finds no change nothing is listed, nor where nothing has been prepared."""
    monkeypatch.setattr(changes.plugins, "specify", None)
    assert changes.changes({"pretrain@simclr": ["runs.simclr modified"]}, project) == {}
    (project / "data" / "datasets" / "birds" / "manifest.parquet").unlink()
    assert changes.changes({PREPARE: ["data/raw/birds modified"]}, project) == {}


def test_unchanged_files_are_not_read_again(project, birds):
    """Their md5 is remembered: a file that nobody may read keeps it as long as it looks the same."""
    before = graph.files(PREPARE, "data/raw/birds", project)
    assert len(before) == 91
    manifest = pq.read_table(project / "data" / "datasets" / "birds" / "manifest.parquet")
    known = dict(zip(manifest["id"].to_pylist(), manifest["md5"].to_pylist(), strict=True))
    assert {name: md5 for name, md5 in before.items() if name != "tiles.csv"} == known
    file = birds / "p1" / "slide-1" / "1.png"
    times = file.stat()
    content = file.read_bytes()
    with file.open("r+b") as stream:  # the same inode
        stream.write(bytes(len(content)))
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert graph.files(PREPARE, "data/raw/birds", project) == before
    os.utime(file)
    assert graph.files(PREPARE, "data/raw/birds", project) != before
