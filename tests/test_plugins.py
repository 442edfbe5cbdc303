"""A plug-in file that is wrong is refused in a sentence that names the file, not with a traceback."""

import sys
from pathlib import Path

import pytest

import stages.methods
from pipeline import plugins
from pipeline.errors import ParamsError


@pytest.fixture
def methods(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in place of stages/methods."""
    folder = tmp_path / "stages" / "methods"
    folder.mkdir(parents=True)
    monkeypatch.setattr(plugins, "STAGES", tmp_path / "stages")
    monkeypatch.setattr(stages.methods, "__path__", [str(folder)])
    monkeypatch.delitem(sys.modules, "stages.methods.mine", raising=False)
    return folder


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("\nimport nothere\n", ", line 2: cannot be imported, ModuleNotFoundError: No module named 'nothere'"),
        (
            "from pipeline.params import Share\n",
            ", line 1: cannot be imported, ImportError: cannot import name 'Share'",
        ),
        ("class Mine(:\n", ", line 1: cannot be imported, SyntaxError: invalid syntax"),
        ("\n\nx = 1 / 0\n", ", line 3: cannot be imported, ZeroDivisionError: division by zero"),
        (
            "class A: ...\nclass B: ...\n",
            " has to define one public class, not A and B: begin the names of others with _",
        ),
        ("class _A: ...\n", " has to define one public class, not none: begin the names of others with _"),
    ],
)
def test_a_wrong_plugin_is_named(methods: Path, code: str, says: str) -> None:
    """With the line, where there is one."""
    (methods / "mine.py").write_text(code)
    with pytest.raises(ParamsError) as refused:
        plugins.load("methods", "mine")
    assert str(refused.value).startswith(f"stages/methods/mine.py{says}")


def test_a_plugin_without_its_function_is_named(methods: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a probe that has no `score`."""
    (methods / "mine.py").write_text("def scores(): ...\n")
    monkeypatch.setitem(plugins.KINDS, "methods", "score")
    says = "stages/methods/mine.py does not define `score`, which is what a plug-in of methods is called by"
    with pytest.raises(ParamsError, match=says):
        plugins.load("methods", "mine")
