"""A small study in a copy of the project, run by commands as a user types them."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ruamel.yaml import YAML

from pipeline import graph


class Study:
    """A small study in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        binaries = str(Path(sys.executable).parent)
        self.environment = os.environ | {"PATH": f"{binaries}:{os.environ['PATH']}", "DVC_NO_ANALYTICS": "1"}
        self.environment.pop("MLFLOW_TRACKING_URI", None)

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=self.folder, env=self.environment | environment, capture_output=True, text=True, check=False
        )

    def repro(self, *arguments: str, **environment: str) -> str:
        done = self.run("dvc", "repro", *arguments, **environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def start(self, *command: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    @property
    def lock(self) -> dict:
        return YAML(typ="safe").load(self.folder / "dvc.lock")["stages"]

    @property
    def stale(self) -> set[str]:
        return set(json.loads(self.run("dvc", "status", "--json").stdout))

    @contextmanager
    def edited(self, path: str, text: str) -> Iterator[None]:
        """Another content of a file, then the old one again."""
        file = self.folder / path
        before = file.read_text()
        file.write_text(text)
        try:
            yield
        finally:
            file.write_text(before)

    def downstream(self, stage: str) -> set[str]:
        """The stage, and all that need its outputs."""
        found = {stage}
        for node in graph.read(self.folder):
            if found & set(node.upstream):
                found.add(node.name)
        return found
