"""The architecture as laws: who may import whom, what dvc.yaml has to list, what a plug-in file looks like.

Each law is read from the sources, so a file that breaks it fails here by its name, before anything runs.
"""

import ast
import re
import sys
from collections.abc import Iterable, Iterator
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hidden_packages import UNNEEDED, imported_without
from ruamel.yaml import YAML

from pipeline import graph, lock, params, plugins

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted(
    path.relative_to(ROOT).as_posix() for top in ("pipeline", "stages") for path in (ROOT / top).rglob("*.py")
)
PIPELINE = [file for file in SOURCES if file.startswith("pipeline/")]
STAGES = [file for file in SOURCES if file.startswith("stages/")]
COMMANDS = [Path(file).stem for file in STAGES if file.count("/") == 1 and not file.endswith("__init__.py")]
GRAPH: dict[str, dict[str, Any]] = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
PLUGINS = [(kind, name) for kind in plugins.KINDS for name in plugins.names(kind)]

IMPORTERS = {  # package → the only files that may import it
    "mlflow": {"pipeline/tracking.py", "pipeline/serving.py"},  # serving is shipped inside the registered model
    "dvc": {"pipeline/graph.py", "pipeline/store.py"},
    "dvc_data": {"pipeline/graph.py", "pipeline/store.py"},
    "prefect": {"pipeline/flow.py", "pipeline/deploy.py"},
}
# what only the named modules of pipeline/ may import when they are imported themselves
HEAVY = {
    "torch",
    "torchvision",
    "numpy",
    "pyarrow",
    "pandas",
    "sklearn",
    "scipy",
    "mlflow",
    "dvc",
    "dvc_data",
    "prefect",
}
HEAVY_MODULES = {"pipeline.serving", "pipeline.flow", "pipeline.deploy"}
# a stage that names a kind of plug-in without depending on its code
FREE = dict.fromkeys(
    [("embed", "encoders"), ("finetune", "encoders")], "the network's source comes with the run, as data"
)
LINES, FUNCTION_LINES = 400, 80


# ---- reading sources


@cache
def tree(file: str) -> ast.Module:
    return ast.parse((ROOT / file).read_text())


@cache
def imports(file: str) -> frozenset[str]:
    """Dotted names that a file imports, wherever in it; `from a import b` counts as a and a.b."""
    found: set[str] = set()
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno} imports relatively"
            found |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            found |= {str(arg.value) for arg in node.args[:1] if isinstance(arg, ast.Constant)}
    return frozenset(found)


@cache
def reached(file: str) -> frozenset[str]:
    """The files of stages/ that are imported with a file, itself included."""
    found, todo = {file}, [file]
    while todo:
        for name in imports(todo.pop()):
            target = f"{name.replace('.', '/')}.py"
            if target.startswith("stages/") and target in SOURCES and target not in found:
                found.add(target)
                todo.append(target)
    return frozenset(found)


@cache
def kinds(file: str) -> frozenset[str]:
    """The kinds of plug-in that a file names: `plugin("methods")`, `specify("probes", ...)`, `load("views", ...)`."""
    calls = [node for node in ast.walk(tree(file)) if isinstance(node, ast.Call) and node.args]
    named = [c for c in calls if ast.unparse(c.func).rpartition(".")[2] in ("plugin", "specify", "load")]
    return frozenset(str(c.args[0].value) for c in named if isinstance(c.args[0], ast.Constant)) & plugins.KINDS.keys()


def functions(file: str) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree(file)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


# ---- reading dvc.yaml


def template(command: str) -> dict[str, Any]:
    return GRAPH[command].get("do", GRAPH[command])


def listed(command: str, what: str) -> list[str]:
    """The paths under `deps`, `outs`, `metrics` or `plots` of a stage."""
    entries = template(command).get(what, [])
    return [path for entry in entries for path in ([entry] if isinstance(entry, str) else entry)]


def code(command: str) -> list[str]:
    return [path for path in listed(command, "deps") if path.startswith("stages/")]


def chosen(command: str) -> dict[str, str]:
    """Templated code deps → the kind that they choose from: "stages/methods/${item.method.name}.py" → methods."""
    return {path: path.split("/")[1] for path in code(command) if "${" in path}


def files(paths: Iterable[str]) -> set[str]:
    """The sources at paths: a file is itself, a folder all in it, a template every plug-in that it may stand for."""
    found = set()
    for path in paths:
        pattern = re.sub(r"\$\{[^}]*\}", "[!_]*", path)
        found |= {f for f in STAGES if fnmatch(f, pattern) or f.startswith(f"{path}/")}
    return {file for file in found if not file.endswith("__init__.py")}


# ---- who may import whom


@pytest.mark.parametrize("file", PIPELINE)
def test_the_frame_does_not_import_the_work(file: str) -> None:
    """pipeline/ imports nothing of stages/, so that an edit of the work cannot break the frame; it loads by name."""
    static = {name for node in ast.walk(tree(file)) for name in _static(node)}
    assert not {name for name in static if name.partition(".")[0] == "stages"}


def _static(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [str(node.module)] if isinstance(node, ast.ImportFrom) else []


@pytest.mark.parametrize("package", IMPORTERS)
def test_each_tool_has_one_importer(package: str) -> None:
    """mlflow, DVC's internals and prefect are imported where the tree says, and nowhere in stages/."""
    found = {file for file in SOURCES if any(name.partition(".")[0] == package for name in imports(file))}
    assert found <= IMPORTERS[package]


@pytest.mark.parametrize("file", STAGES)
def test_nothing_imports_a_command(file: str) -> None:
    """Commands meet in data/: neither another command nor a part imports one."""
    assert not {f"stages.{command}" for command in COMMANDS} & imports(file)


@pytest.mark.parametrize("file", [f for f in STAGES if f.startswith("stages/encoders/")])
def test_what_is_exported_is_torch_only(file: str) -> None:
    """An encoder and the exported model need torch, safetensors and Python."""
    if file.endswith(("_export.py", "_initial.py", "_input.py", "_viewer.py")):
        return  # serve the stages, are no part of it
    allowed = {"torch", "safetensors", *sys.stdlib_module_names}
    if file == "stages/encoders/timm.py":
        allowed.add("timm")  # so it leaves as a program of torch.export
    assert {name.partition(".")[0] for name in imports(file)} <= allowed


@pytest.mark.parametrize("file", [f for f in SOURCES if f.endswith("__init__.py")])
def test_packages_are_empty(file: str) -> None:
    """`__init__.py` holds at most a docstring: it is imported with everything and listed in no deps."""
    body = tree(file).body
    assert not body or (len(body) == 1 and ast.get_docstring(tree(file)))


def test_a_training_machine_needs_no_tracker_and_no_orchestrator() -> None:
    """The commands that train and embed can be imported where only the extra `worker` is installed."""
    assert imported_without(UNNEEDED, ["stages.pretrain", "stages.embed", "stages.finetune"]) == ""


def test_the_frame_is_light() -> None:
    """A module of pipeline/ imports nothing heavy when it is imported: `contrail` starts at once."""
    modules = {file.removesuffix(".py").replace("/", ".").removesuffix(".__init__") for file in PIPELINE}
    modules -= HEAVY_MODULES | {"pipeline.__main__"}
    assert imported_without(HEAVY, sorted(modules)) == ""


# ---- plug-ins


def test_plugin_folders_hold_plugins_and_their_parts() -> None:
    """Only Python files, whose names params.yaml can say, or parts with an underscore."""
    for kind in plugins.KINDS:
        for path in (ROOT / "stages" / kind).iterdir():
            if path.name != "__pycache__":
                assert path.suffix == ".py"
                assert path.stem.startswith("_") or re.fullmatch("[a-z0-9_-]+", path.stem), path


@pytest.mark.parametrize(("kind", "name"), PLUGINS)
def test_a_plugin_file_defines_its_plugin(kind: str, name: str) -> None:
    """The function that its folder is named for in KINDS, or exactly one public class; `load` finds it."""
    body = tree(f"stages/{kind}/{name}.py").body
    if function := plugins.KINDS[kind]:
        assert function in {node.name for node in body if isinstance(node, ast.FunctionDef)}
    else:
        classes = [node.name for node in body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]
        assert len(classes) == 1
    assert callable(plugins.load(kind, name))


@pytest.mark.parametrize(("kind", "name"), PLUGINS)
def test_a_plugin_says_what_it_is(kind: str, name: str) -> None:
    """Every plug-in file has a docstring, and what params.yaml may set of it has a type."""
    assert ast.get_docstring(tree(f"stages/{kind}/{name}.py"))
    assert all(annotation is not None for annotation, _ in params.keywords(plugins.load(kind, name)).values())


def takers() -> dict[str, Any]:
    """Everything that takes values of params.yaml: plug-ins and commands."""
    return {f"{kind}/{name}": plugins.load(kind, name) for kind, name in PLUGINS} | {
        command: plugins.command(command) for command in COMMANDS
    }


def blocks(base: type[params.Block] = params.Block) -> set[type[params.Block]]:
    """All groups of parameters that the modules of this project define."""
    return {found for cls in base.__subclasses__() for found in ({cls} | blocks(cls))}


def groups() -> dict[str, type[params.Block]]:
    takers()
    return {
        f"{cls.__module__}.{cls.__name__}": cls for cls in blocks() if cls.__module__.startswith(("stages", "pipeline"))
    }


def test_a_value_lives_once() -> None:
    """No parameter of a plug-in, a command or a group has a default: values stand in params.yaml."""
    defaults = [
        f"{name}: {key}"
        for name, taker in takers().items()
        for key, (_, default) in params.keywords(taker).items()
        if default is not ...
    ]
    defaults += [
        f"{name}: {key}" for name, cls in groups().items() for key, f in cls.model_fields.items() if not f.is_required()
    ]
    assert defaults == []


def test_no_parameter_has_a_name_that_dvc_overlooks() -> None:
    """DVC's run-cache leaves some names out of its keys wherever they stand: a parameter must not be called so."""
    names = [(name, key) for name, taker in takers().items() for key in params.keywords(taker)]
    names += [(name, key) for name, cls in groups().items() for key in cls.model_fields]
    assert [pair for pair in names if pair[1] in lock.UNKEYED] == []


# ---- dvc.yaml


def test_stages_are_the_commands() -> None:
    """The stages of dvc.yaml are the files of stages/, each run as its module on its item."""
    assert sorted(GRAPH) == COMMANDS
    for command in GRAPH:
        item = " ${key}" if "foreach" in GRAPH[command] else ""
        assert template(command)["cmd"] == f"python -m stages.{command}{item}"


def test_each_section_of_params_is_read_by_its_commands() -> None:
    """A command that runs per item iterates over the section that `params.COMMANDS` gives it."""
    over = {command: GRAPH[command]["foreach"] for command in GRAPH if "foreach" in GRAPH[command]}
    assert over == {command: f"${{{section}}}" for section, commands in params.COMMANDS.items() for command in commands}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_takes_the_params_that_dvc_yaml_declares(command: str) -> None:
    """Its keyword arguments are those that `params` gives it: else an edit of a value would go unseen."""
    section = GRAPH[command].get("foreach", "").strip("${}")
    given: set[str] = set()
    for entry in template(command)["params"]:
        if entry == f"{section}.${{key}}":
            [given_to] = params.COMMANDS[section]
            assert given_to == command, "a section that commands share is declared key by key"
            given |= params.keywords(plugins.command(command)).keys() - params.SHARED
        else:
            given.add(entry.rpartition(".")[2])
    taken = set(params.keywords(plugins.command(command)))
    assert taken <= given
    assert given - taken <= params.SHARED


@pytest.mark.parametrize("command", COMMANDS)
def test_code_deps_cover_all_imports(command: str) -> None:
    """What a stage lists is closed under imports, whichever plug-ins params.yaml chooses."""
    have = files(code(command))
    assert f"stages/{command}.py" in have
    needed = {needed for file in have for needed in reached(file) if needed not in have}
    assert needed == set(), f"stage {command} of dvc.yaml should also list these deps"


@pytest.mark.parametrize("command", COMMANDS)
def test_code_deps_cover_all_plugins(command: str) -> None:
    """A stage that names a kind of plug-in depends on the chosen one, or on the folder."""
    covered = {*chosen(command).values(), *(path.partition("/")[2] for path in code(command))}
    named = {kind for file in reached(f"stages/{command}.py") for kind in kinds(file)}
    assert {kind for kind in named - covered if (command, kind) not in FREE} == set()


@pytest.mark.parametrize("command", COMMANDS)
def test_chosen_plugins_are_those_of_the_signature(command: str) -> None:
    """`method: plugin("methods")` in the signature is `stages/methods/${item.method.name}.py` in deps."""
    [function] = [node for node in functions(f"stages/{command}.py") if node.name == command]
    expected = {
        f"stages/{argument.annotation.args[0].value}/${{item.{argument.arg}.name}}.py"  # type: ignore[attr-defined]
        for argument in function.args.kwonlyargs
        if isinstance(argument.annotation, ast.Call) and ast.unparse(argument.annotation.func) == "plugin"
    }
    assert set(chosen(command)) == expected


@pytest.mark.parametrize("command", COMMANDS)
def test_no_code_dep_is_superfluous(command: str) -> None:
    """A listed file is imported by the stage or by a plug-in it may choose, and listed once; an edit reruns no more."""
    listing = code(command)
    used = reached(f"stages/{command}.py")
    named = {kind for file in used for kind in kinds(file)}
    used |= {f for kind in named for name in plugins.names(kind) for f in reached(f"stages/{kind}/{name}.py")}
    assert [path for path in listing if "${" not in path and not files([path]) & used] == []
    assert [path for path in listing for other in listing if path != other and files([path]) <= files([other])] == []
    assert len(listing) == len(set(listing))


def test_deps_exist_once_params_are_filled_in() -> None:
    """Every code dep of every stage of the current study is a file or a folder of this repository."""
    nodes = graph.read(ROOT)
    missing = [(n.name, d) for n in nodes for d in n.deps if d.startswith("stages/") and not (ROOT / d).exists()]
    assert missing == []
    assert {node.name.partition("@")[0] for node in nodes} <= set(COMMANDS)


def test_dvc_yaml_is_in_running_order() -> None:
    """A stage reads only what stages above it write."""
    written: list[str] = []
    for command in GRAPH:
        for dep in listed(command, "deps"):
            if dep.startswith("data/"):
                pattern = re.sub(r"\$\{[^}]*\}", "*", dep)
                assert any(fnmatch(out, pattern) or fnmatch(out, f"{pattern}/*") for out in written), (command, dep)
        written += [
            re.sub(r"\$\{[^}]*\}", "x", out) for what in ("outs", "metrics", "plots") for out in listed(command, what)
        ]


@pytest.mark.parametrize("command", COMMANDS)
def test_git_keeps_numbers_and_dvc_the_rest(command: str) -> None:
    """Metrics and plots are `cache: false`, for reviews; every other output is cached and none persists."""
    for entry in template(command).get("outs", []):
        options = {} if isinstance(entry, str) else next(iter(entry.values()))
        assert "persist" not in options
        assert options.get("cache", True)
    for entry in [*template(command).get("metrics", []), *template(command).get("plots", [])]:
        assert next(iter(entry.values()))["cache"] is False


# ---- size, names, tests


def test_no_test_file_needs_another() -> None:
    """What several test files need lives in a file without tests, so that any of them can be moved or split."""
    tests = sorted((ROOT / "tests").rglob("test_*.py"))
    taken = [
        (file.name, module)
        for file in tests
        for module in imports(f"tests/{file.name}")
        if module in {t.stem for t in tests}
    ]
    assert taken == []


@pytest.mark.parametrize("file", SOURCES)
def test_files_and_functions_can_be_read_at_once(file: str) -> None:
    """A file has fewer than 400 lines, a function fewer than 80."""
    assert len((ROOT / file).read_text().splitlines()) < LINES
    long = [f.name for f in functions(file) if (f.end_lineno or 0) - f.lineno >= FUNCTION_LINES]
    assert long == []


def test_names_say_what_is_inside() -> None:
    """No file and no folder is called utils, helpers, manager or common."""
    banned = {"util", "utils", "helper", "helpers", "manager", "managers", "common", "misc"}
    tops = ("pipeline", "stages", "tests", "benchmarks", "examples", "docs")
    found = [path for top in tops for path in (ROOT / top).rglob("*") if path.stem.strip("_") in banned]
    assert found == []
