"""Data, encoders and results as versions: pushed from one clone, pulled in another, re-evaluated without the images."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trail_project
from ruamel.yaml import YAML
from toy_project import run
from trail_project import TRAIN, dvc, forgotten, holders, name

from pipeline import doctor, lock, store

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project, run, committed and pushed to the folder `shelf` beside it."""
    root = trail_project.make(tmp_path_factory.mktemp("made") / "project")
    trail_project.work(root)
    dvc(root, "push", "--quiet", "--run-cache")
    return root


def clone(root: Path, folder: Path) -> Path:
    """A clone beside its own link to the shelf, with nothing in its cache."""
    run("git", "clone", "--quiet", str(root), str(folder), cwd=root)
    folder.with_name("shelf").symlink_to(root.with_name("shelf"))
    return folder


def cached(root: Path) -> set[str]:
    """The md5 of every object in the cache of a clone."""
    return {"".join(path.parts[-2:]) for path in (root / ".dvc/cache/files/md5").rglob("*") if path.is_file()}


def test_a_pulled_version_is_complete(made: Path, tmp_path: Path) -> None:
    """In another clone, `dvc pull` brings every byte back: nothing is out of date and nothing runs."""
    there = clone(made, tmp_path / "clone")
    dvc(there, "pull", "--quiet")
    shutil.copytree(made / trail_project.SCANS, there / trail_project.SCANS)
    assert "up to date" in dvc(there, "status")
    assert "Running stage" not in dvc(there, "repro")
    assert lock.read(there) == lock.read(made)
    assert run("git", "status", "--porcelain", cwd=there) == ""
    for out in ("data/datasets/small/images/pixels.npy", "data/encoders/simclr/seed-0/encoder.safetensors"):
        assert (there / out).read_bytes() == (made / out).read_bytes()


def test_a_thin_clone_evaluates_again_without_images(made: Path, tmp_path: Path) -> None:
    """After an edit of a probe only features, labels and splits are fetched: no images, no encoder, no export."""
    there = clone(made, tmp_path / "clone")
    values = json.loads((there / "params.yaml").read_text())
    values["evaluations"]["simclr"]["probes"]["knn"]["k"] = 7
    (there / "params.yaml").write_text(json.dumps(values))
    done = dvc(there, "repro", "--pull", "--allow-missing", "evaluate@simclr")
    assert "Running stage 'evaluate@simclr'" in done
    assert json.loads((there / "data/scores/simclr.json").read_text())["k"] == 7
    deps = lock.hashes(lock.read(there)["evaluate@simclr"]["deps"])
    with store.opened(made) as objects:
        wanted = {md5 for dep in deps.values() for md5 in {dep, *(objects.files(dep) or {}).values()}}
    outs = set(lock.hashes(lock.read(there)["evaluate@simclr"]["outs"]).values())
    assert cached(there) <= wanted | outs
    assert not any((there / "data" / folder).exists() for folder in ("encoders", "exports", "datasets/small/images"))


def test_the_shipped_study_evaluates_without_images(root: Path) -> None:
    """What `evaluate` depends on holds no image and no network."""
    stages = YAML(typ="safe").load(root / "dvc.yaml")["stages"]
    data = {dep for dep in stages["evaluate"]["do"]["deps"] if dep.startswith("data/")}
    assert "data/features/${key}" in data
    assert not [dep for dep in data if dep.endswith("/images") or dep.startswith(("data/encoders", "data/exports"))]


def test_the_doctor_says_what_is_not_pushed(made: Path, tmp_path: Path) -> None:
    """Outputs that only this machine has, and that there is no remote at all."""
    assert [(finding.state, finding.words.split()[:2]) for finding in doctor.pushed(made)] == [("ok", ["shelf", "has"])]
    alone = tmp_path / "alone" / "project"
    shutil.copytree(made, alone, symlinks=True)
    [finding] = doctor.pushed(alone)
    assert finding.state == "note"
    assert re.fullmatch(r"shelf lacks (\d+) of the \1 outputs that the cache holds: `dvc push -r shelf`", finding.words)
    dvc(alone, "remote", "remove", "--quiet", "shelf")
    [finding] = doctor.pushed(alone)
    assert finding.words.startswith("none: what dvc.lock records is on this machine alone")


# ---- S3


@pytest.fixture(scope="module")
def s3() -> Iterator[SimpleNamespace]:
    """A server that speaks S3, with one bucket."""
    import boto3

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", str(port)]
    quiet = subprocess.DEVNULL
    with (
        pytest.MonkeyPatch.context() as patch,
        subprocess.Popen(command, env={**os.environ, **CREDENTIALS}, stdout=quiet, stderr=quiet) as server,
    ):
        for key, value in CREDENTIALS.items():
            patch.setenv(key, value)
        try:
            _await(port)
            address = f"http://127.0.0.1:{port}"
            client = boto3.client("s3", endpoint_url=address)
            client.create_bucket(Bucket="scans")
            yield SimpleNamespace(client=client, address=address)
        finally:
            server.terminate()


def _await(port: int) -> None:
    for _ in range(300):
        with socket.socket() as attempt:
            if attempt.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise AssertionError("the S3 server did not start")


def use_bucket(root: Path, address: str) -> None:
    dvc(root, "remote", "add", "--quiet", "--force", "shelf", "s3://scans/store")
    dvc(root, "remote", "modify", "--quiet", "shelf", "endpointurl", address)


def objects_of(client: Any) -> dict[str, bytes]:
    """Key → content of everything in the bucket."""
    listed = client.list_objects_v2(Bucket="scans").get("Contents", [])
    return {item["Key"]: client.get_object(Bucket="scans", Key=item["Key"])["Body"].read() for item in listed}


@pytest.mark.service
def test_a_bucket_takes_versions_and_forgets_an_image(
    made: Path, s3: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pushed to S3 and pulled elsewhere nothing runs; after `forget` no object of the bucket holds the image."""
    here = tmp_path / "here" / "project"
    shutil.copytree(made.parent, here.parent, symlinks=True)
    shutil.rmtree(here.with_name("shelf"))
    use_bucket(here, s3.address)
    trail_project.commit(here)
    dvc(here, "push", "--quiet", "--run-cache")
    there = clone(here, tmp_path / "clone")
    dvc(there, "pull", "--quiet")
    shutil.copytree(here / trail_project.SCANS, there / trail_project.SCANS)
    assert "Running stage" not in dvc(there, "repro")
    assert in_bucket(s3.client, tmp_path / "before")
    monkeypatch.setenv("CONTRAIL_TRACKING", "off")
    monkeypatch.chdir(here)
    forgotten(here, name(TRAIN))
    assert not in_bucket(s3.client, tmp_path / "after")
    assert len(objects_of(s3.client)) > 10


def in_bucket(client: Any, folder: Path) -> list[str]:
    """The objects of the bucket that hold the image."""
    folder.mkdir()
    for number, content in enumerate(objects_of(client).values()):
        (folder / str(number)).write_bytes(content)
    return holders(folder, [TRAIN])
