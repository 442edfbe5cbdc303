"""What a machine that only trains need not have, and what fails where packages are absent."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
UNNEEDED = {"mlflow", "dvc", "dvc_data", "prefect", "fastapi", "pandas", "sklearn", "jinja2", "matplotlib", "typer"}
HIDE = """
import importlib, sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in set(sys.argv[1].split(",")):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Hidden())
failed = []
for module in sys.argv[2].split(","):
    try:
        importlib.import_module(module)
    except Exception as error:
        failed.append(f"{module}: {type(error).__name__}: {error}")
print("\\n".join(failed))
"""


def imported_without(packages: set[str], modules: list[str]) -> str:
    """What fails when a fresh interpreter without `packages` imports `modules`; empty if nothing does."""
    command = [sys.executable, "-c", HIDE, ",".join(sorted(packages)), ",".join(modules)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
