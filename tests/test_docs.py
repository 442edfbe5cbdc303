"""The documentation is true: what README.md and CONTRIBUTING.md say is compared with what the project does.

Claims, in this order: generated blocks are current; the tree names every file; every path, verb and option exists; the
tables on staleness, on errors and on data/ are right; the examples run.

    python tests/test_docs.py      rewrites the generated blocks of README.md
"""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydantic
import pytest
import torch
import typer
from ruamel.yaml import YAML

from pipeline import cli, graph, params, plugins, repro
from stages import embed
from stages.datasets._storage import Packed
from stages.encoders import _export
from stages.methods import simclr
from stages.methods._method import Setting
from stages.training.optimizers import Optimizer

ROOT = Path(__file__).resolve().parent.parent
README, CONTRIBUTING = ROOT / "README.md", ROOT / "CONTRIBUTING.md"
DATA = ROOT / "data" / "README.md"
PAGES = [README, CONTRIBUTING, DATA, ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
STUDY = "digits"  # the default one: what README.md shows
RESULTS = "data/report/results.json"
COLUMNS = {  # heading → score, test twin
    "kNN": "knn.top1",
    "linear": "linear.top1",
    "1 %": "finetune.1pct.top1",
    "10 %": "finetune.10pct.top1",
}
BESIDE = {"supervised", "random", "imported"}  # methods whose runs params.yaml shows
EXAMPLE = "stages/methods/align_uniform.py"  # written in CONTRIBUTING.md only
CONFIG = "[core]\n    no_scm = true\n    analytics = false\n    check_update = false\n"
STALE = "What becomes stale"
REWRITE = "run `python tests/test_docs.py` to rewrite the generated blocks"
COMMANDS: dict[str, Any] = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]  # it is a group


# ---- generated blocks


def results(scores: dict[str, Any]) -> str:
    """The accuracies of a results.json as a table, and how they were obtained."""
    heads, cells, ways = [], {row: [f"`{row}`"] for row in scores}, []
    for name, score in COLUMNS.items():
        found = [has[score] for has in scores.values() if score in has]
        used = sorted({entry["labels_used"] for entry in found})
        heads.append(f"{name}: {' or '.join(f'{n:,}' for n in used)} labels")
        ways.append(found[0]["protocol"].split(", "))
        for row, has in scores.items():
            cells[row].append(_cell(has.get(score)))
    table = [["", *heads], ["---", *["---:"] * len(heads)], *cells.values()]
    knn, linear, tuned, _ = ways
    words = (
        f"Top-1 on test in %, mean ± std over {_most(scores)} seeds (fine-tuned: {tuned[-2]}); {knn[0]}; {linear[0]}."
    )
    return "\n".join([*(f"| {' | '.join(line)} |" for line in table), "", words])


def _most(scores: dict[str, Any]) -> int:
    return max(has["knn.top1"]["test"]["n"] for has in scores.values() if "knn.top1" in has)


def _cell(score: dict[str, Any] | None) -> str:
    if score is None:
        return "–"
    test = score["test"]
    spread = f" ± {100 * test['std']:.1f}" if test["n"] > 1 else ""
    return f"{100 * test['mean']:.1f}{spread}"


def dag(root: Path) -> str:
    """The graph of the commands as DVC draws it."""
    command = repro.dvc("dag", "--md", "--collapse-foreach-matrix")
    drawn = subprocess.run(command, cwd=root, env=repro.environment(), capture_output=True, text=True, check=True)
    return drawn.stdout.strip().replace("\t", "  ")


def verbs() -> str:
    """Every command of `contrail` with its arguments and the first sentence of its help."""
    rows = [f"| `{_usage(command)}` | {_sentence(command.help)} |" for command in COMMANDS.values()]
    return "\n".join(["| contrail | |", "|---|---|", *rows])


def _usage(command: Any) -> str:
    named = [p.name if p.required else f"[{p.name}]" for p in command.params if p.param_type_name == "argument"]
    return " ".join(
        [command.name, *named, *(f"[{p.opts[-1]}]" for p in command.params if p.param_type_name == "option")]
    )


def _sentence(text: str) -> str:
    return re.split(r"\.(?:\s|$)", " ".join(text.split()))[0]


def block(name: str, page: str) -> str:
    """What stands between the markers of a generated block."""
    return page.split(f"<!-- {name}:begin -->\n")[1].split(f"\n<!-- {name}:end -->")[0]


def replaced(name: str, page: str, new: str) -> str:
    """The page with a generated block exchanged."""
    (begin, end), old = (f"<!-- {name}:{edge} -->" for edge in ("begin", "end")), block(name, page)
    return page.replace(f"{begin}\n{old}\n{end}", f"{begin}\n{new}\n{end}")


def rewrite() -> None:
    """Bring every generated block of README.md up to date with what is on disk."""
    page = README.read_text()
    scores = json.loads(_home(RESULTS).read_bytes())
    for name, new in {"results": results(scores), "dag": dag(ROOT), "verbs": verbs()}.items():
        page = replaced(name, page, new)
    README.write_text(page)


def _home(name: str) -> Path:
    """Where a file of the default study is: in its place, or, while another study is in use, in recipes/."""
    current = params.read(ROOT / "params.yaml")["study"] == STUDY
    return ROOT / name if current else ROOT / "recipes" / STUDY / Path(name).name


def published() -> Iterator[dict[str, Any]]:
    """The default study's results: as git has them, and those on disk, which another machine may have made."""
    command = ["git", "show", f":{RESULTS}"]
    kept = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout
    yield from (json.loads(text) for text in (kept, _home(RESULTS).read_text()) if text)


def test_the_results_are_those_of_the_default_study() -> None:
    """The table shows data/report/results.json as it is published or as it is on disk."""
    assert block("results", README.read_text()) in [results(scores) for scores in published()], REWRITE


def test_the_graph_is_that_of_dvc(study: Path) -> None:
    """The picture is what `dvc dag` draws of dvc.yaml."""
    assert block("dag", README.read_text()) == dag(study), REWRITE


def test_the_verbs_are_those_of_the_command() -> None:
    """Each command of `contrail` is listed with its arguments and what its help says."""
    assert block("verbs", README.read_text()) == verbs(), REWRITE


@pytest.mark.parametrize("name", ["results", "dag", "verbs"])
def test_rewriting_changes_one_block(name: str) -> None:
    """A block is exchanged once, all around it stays, and back again gives the page that was there."""
    page = README.read_text()
    other = replaced(name, page, "new")
    assert block(name, other) == "new"
    assert len(other) == len(page) - len(block(name, page)) + len("new")
    assert replaced(name, other, block(name, page)) == page


def test_a_changed_number_changes_the_table() -> None:
    """A score that moves by a tenth of a percent is seen; one seed has no spread; a missing score is a dash."""
    entry = {"labels_used": 9, "protocol": "way, more, how often, when", "test": {"mean": 0.9, "std": 0.01, "n": 3}}
    row = dict.fromkeys(COLUMNS.values(), entry)
    table = results({"a": row, "b": {"knn.top1": entry | {"test": {"mean": 0.901, "std": 0.0, "n": 1}}}})
    assert "| `a` | 90.0 ± 1.0 | 90.0 ± 1.0 | 90.0 ± 1.0 | 90.0 ± 1.0 |" in table
    assert "| `b` | 90.1 | – | – | – |" in table


# ---- what the pages name


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The graph of the default study, whichever is in use."""
    folder = tmp_path_factory.mktemp("study")
    (folder / ".dvc").mkdir()
    (folder / ".dvc" / "config").write_text(CONFIG)
    shutil.copyfile(ROOT / "dvc.yaml", folder / "dvc.yaml")
    shutil.copyfile(_home("params.yaml"), folder / "params.yaml")
    return folder


@pytest.fixture(scope="module")
def nodes(study: Path) -> list[graph.Node]:
    """The stages of the default study and of a selection, of which it has none."""
    values = params.read(study / "params.yaml")
    block = {"evaluation": "simclr", "dataset": STUDY, "seed": 0, "images": 9, "select": {"name": "usl"}}
    folder = study / "with-selection"
    shutil.copytree(study / ".dvc", folder / ".dvc", ignore=shutil.ignore_patterns("tmp", "cache"))
    shutil.copyfile(study / "dvc.yaml", folder / "dvc.yaml")
    (folder / "params.yaml").write_text(json.dumps(values | {"selections": {"next": block}}))
    return graph.read(folder)


def tree() -> list[str]:
    """The paths that the tree of README.md names, from pairs of a name and a phrase, two spaces apart."""
    [text] = re.findall(r"```text\n(.*?)\n```", README.read_text(), re.S)
    folder, paths = "", []
    for line in text.splitlines():
        names = re.split(r"\s{2,}", line.strip())[::2]
        if "/" in names[0] and names[0].startswith(("pipeline/", "stages/")):
            folder, *names = names
            paths.append(folder)
        elif not line.startswith(" "):
            folder = ""
        paths += [folder + name + ("" if "." in name or name.endswith("/") or not folder else ".py") for name in names]
    return paths


def test_the_tree_names_every_file() -> None:
    """All of pipeline/ and stages/ but empty packages, and all that git has at the top level; nothing twice."""
    named = tree()
    top = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    expected = {f"{name.split('/')[0]}/" if "/" in name else name for name in top} | {"README.md", "CONTRIBUTING.md"}
    for folder in ("pipeline", "stages"):
        files = [path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
        expected |= {path.relative_to(ROOT).as_posix() for path in files if path.name != "__init__.py"}
        expected |= {f"{path.parent.relative_to(ROOT).as_posix()}/" for path in files}
    assert sorted(set(named)) == sorted(named)
    assert {"missing": sorted(expected - set(named)), "gone": sorted(set(named) - expected)} == {
        "missing": [],
        "gone": [],
    }


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.S | re.M)


def spans(text: str) -> list[str]:
    return re.findall(r"`([^`\n]+)`", text)


def shell(page: Path) -> list[list[str]]:
    """Every command line that a page gives, in words and in order: code spans, lines of sh blocks without comments."""
    code = re.finditer(r"^```(\w+)\n(.*?)^```|`([^`\n]+)`", page.read_text(), re.S | re.M)
    texts = [found[3] or found[2] for found in code if found[1] in (None, "sh")]
    lines = [line.partition(" #")[0] for text in texts for line in text.splitlines()]
    return [words for line in lines for part in line.split("&&") if (words := part.split())]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_path_exists(page: Path, nodes: list[graph.Node]) -> None:
    """Links lead to files; a path in code is a file here, an output of a stage, or the user's own in data/raw."""
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []
    tops = {path.name for path in ROOT.iterdir() if path.is_dir()} - {"data"}
    paths = [span for span in spans(prose(page)) if re.fullmatch(r"[\w.*-]+(/([\w*][\w.*-]*)?)+", span)]
    assert [path for path in paths if path.split("/")[0] in tops and not any(ROOT.glob(path))] in ([], [EXAMPLE])
    outs = [out for node in nodes for out in node.outs]
    data = [path.rstrip("/") for path in paths if path.startswith("data/") and not path.startswith("data/raw")]
    assert [path for path in data if not _made(path, outs) and not (ROOT / path).exists()] == []


def _made(path: str, outs: list[str]) -> bool:
    return any(f"{out}/".startswith(f"{path}/") or f"{path}/".startswith(f"{out}/") for out in outs)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_verb_exists(page: Path) -> None:
    """`make` and `contrail` know every verb that a page gives them, and `contrail` every option."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    for program, *words in shell(page):
        if program == "make":
            assert {word for word in words if "=" not in word} <= targets
        if program == "contrail" and words:
            assert words[0] in COMMANDS, words
            options = {option for parameter in COMMANDS[words[0]].params for option in parameter.opts}
            assert {word for word in words if word.startswith("-")} <= options, words


def test_the_two_commands_come_first() -> None:
    """README.md shows `make results` and `make test` before any other command line."""
    first, second, *_ = [words for words in shell(README) if words[0] == "make" and words[1:]]
    assert [first, second] == [["make", "results"], ["make", "test"]]


def test_the_version_is_the_one_that_is_released() -> None:
    """The newest release of CHANGELOG.md is the version of pyproject.toml; what is not released yet stands above it."""
    [version] = re.findall(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.M)
    headings = re.findall(r"^## \[?([\w.]+)", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert [heading for heading in headings if heading != "Unreleased"][:1] in ([], [version])
    assert headings[0] in ("Unreleased", version)


# ---- what the tables say


def rows(page: Path, heading: str) -> list[list[str]]:
    """The cells of the first table below a heading."""
    below = page.read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in below.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def concerned(change: str, nodes: list[graph.Node]) -> set[str]:
    """The stages, but for the report, with a parameter or file that holds the change or lies in it."""
    end = "/" if "/" in change else "."
    change = change.rstrip("/") + end
    names = {(node.name, name + end) for node in nodes for name in [*node.params, *node.deps]}
    found = {stage for stage, name in names if change.startswith(name) or name.startswith(change)}
    return found - {"report"}


def command_of(stage: str) -> str:
    return stage.partition("@")[0]


def test_what_becomes_stale_is_what_dvc_yaml_says(nodes: list[graph.Node]) -> None:
    """Each parameter and file of the table concerns exactly the commands beside it, and the rows that are named."""
    table = [(change, spans(beside)) for changes, beside, _ in rows(README, STALE) for change in spans(changes)]
    assert table
    for change, beside in table:
        found = concerned(change, nodes)
        assert {name for name in beside if "@" in name} <= found, change
        assert {command_of(name) for name in found} == {command_of(name) for name in beside}, change


def test_every_message_is_one_that_is_given() -> None:
    """What README.md quotes of messages stands in the sources, with … for what differs from case to case."""
    files = [path for folder in ("pipeline", "stages") for path in (ROOT / folder).rglob("*.py")]
    sources = "".join(re.sub(r'"\s*\n\s*f?"', "", path.read_text()) for path in files)  # strings in one piece
    parts = [part.strip() for quoted, _ in rows(README, "When it says") for part in spans(quoted)[0].split("…")]
    assert [part for part in parts if part not in sources] == []


def test_the_folders_of_data_are_those_of_dvc_yaml(nodes: list[graph.Node]) -> None:
    """data/README.md lists every folder that stages write to, the commands that do, and whether git or DVC keeps it."""
    made = {
        (f"{'/'.join(out.split('/')[:2])}/", command_of(node.name), "git" if in_git else "DVC")
        for node in nodes
        for out, in_git in node.outs.items()
    }
    listed = {
        (spans(folder)[0], by, keeper)
        for folder, _, writers, keepers in rows(DATA, "What lies here")
        for by in spans(writers)
        for keeper in keepers.split(", ")
    }
    assert listed == made


def test_every_kind_of_plugin_is_explained() -> None:
    """CONTRIBUTING.md says of each kind where its file goes and which function it defines."""
    table = {spans(file)[0]: defines for _, file, defines, *_ in rows(CONTRIBUTING, "Adding things")}
    for kind, function in plugins.KINDS.items():
        assert function is None or f"`{function}(" in table[f"stages/{kind}/<name>.py"]


# ---- examples


def fences(page: Path, language: str, heading: str) -> list[str]:
    """The blocks of a language below a heading."""
    below = page.read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(rf"^```{language}\n(.*?)^```", below, re.S | re.M)


def test_the_exported_folder_is_used_as_shown(tmp_path: Path) -> None:
    """The lines of README.md run on an export of the default encoder, and load nothing of this project."""
    run = params.read(_home("params.yaml"))["runs"]["simclr"]
    spec = plugins.specify("encoders", run["encoder"], "runs.simclr.encoder")
    network, view = spec.make(), run["input"]
    features = _export.features_of(network, view["side"], torch.device("cpu"))
    _export.write(tmp_path / "run", spec, _export.describe(spec, features, view["side"], view["mean"], view["std"]))
    (tmp_path / "run" / "seed-0").mkdir()
    _export.save_weights(network, tmp_path / "run" / "seed-0" / "encoder.safetensors")
    embed.export(tmp_path / "run", 0, Packed(np.zeros((8, 8, 8, 3), np.uint8)), tmp_path / "encoder")
    [code] = fences(README, "python", "The registry, and using a model")
    code += "import sys\nprint(features.dtype, tuple(features.shape), {'pipeline', 'stages'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout == f"torch.float32 (2, {features}) set()\n", done.stderr
    assert f"float32 (2, {features})" in code


def test_a_folder_of_images_is_a_source_as_shown() -> None:
    """The block of docs/data.md, in the recipe for folders, is one that `prepare` takes."""
    [text, *_] = fences(ROOT / "docs" / "data.md", "yaml", "Folders")
    [block] = params.read(ROOT / "recipes" / "folder" / "params.yaml")["datasets"].values()
    params.check_block("datasets.birds", block | YAML(typ="safe").load(text), [plugins.command("prepare")])


def test_every_method_has_a_run_that_is_right() -> None:
    """With the recipe for CIFAR-10 docs/methods.md is a study: its runs can be built, and no plug-in is missing."""
    study = params.read(ROOT / "recipes" / "cifar10-quick" / "params.yaml")
    text = "".join(re.findall(r"^```yaml\n(.*?)^```", (ROOT / "docs" / "methods.md").read_text(), re.S | re.M))
    blocks = json.loads(json.dumps(YAML(typ="safe").load(text)))
    study["runs"] |= blocks["runs"]
    study["finetunes"] |= blocks["finetunes"]
    params.check(study)
    for name in set(plugins.names("objectives")) - {"supervised"}:
        assert study["finetunes"][name]["objective"]["name"] == name
    for name in set(plugins.names("methods")) - BESIDE:
        run = study["runs"][name]
        assert run["method"]["name"] == name
        spec = plugins.specify("methods", run["method"], f"runs.{name}.method")
        with torch.device("meta"):
            setting = Setting(8, 60_000, torch.arange(50_000), 0, run["training"]["batch_size"])
            learner = spec.make(torch.nn.Linear(8, 8), setting)
        given = {"simclr": 2, "byol": 2, "weak": 1}.get(run["views"]["name"])
        given = given or run["views"]["large"]["views"] + run["views"]["small"]["views"]
        assert given in learner.views if isinstance(learner.views, range) else given == learner.views


def test_every_encoder_optimizer_and_probe_has_a_block_that_is_right() -> None:
    """The blocks of the three tables in docs/methods.md are accepted as they stand, and no plug-in is missing."""
    _, _, after = (ROOT / "docs" / "methods.md").read_text().partition("## Encoders, optimizers, probes")
    lines = after.partition("\n## ")[0].splitlines()
    spans = [line.removeprefix("| `").partition("` |")[0] for line in lines if line.startswith("| `")]
    blocks = [json.loads(json.dumps(YAML(typ="safe").load(span))) for span in spans if "{" in span]
    named = [block for block in blocks if "name" in block]
    probes = [{"name": key} | values for block in blocks if "name" not in block for key, values in block.items()]
    optimizers = [block for block in named if block["name"] in ("sgd", "lars", "adamw")]
    encoders = [block for block in named if block not in optimizers]
    for kind, found in (("encoders", encoders), ("probes", probes)):
        assert {plugins.specify(kind, block, kind).name for block in found} == set(plugins.names(kind))
    accepted = [pydantic.TypeAdapter(Optimizer).validate_json(json.dumps(block)) for block in optimizers]
    assert [each.name for each in accepted] == ["sgd", "lars", "adamw"]


def test_the_size_from_which_similarities_come_in_slabs() -> None:
    """What docs/methods.md says of SimCLR's memory is the number in its file."""
    assert f"in slabs beyond {simclr.WHOLE:,} views" in (ROOT / "docs" / "methods.md").read_text()


def extended(text: str, block: str) -> str:
    """A params.yaml with the entries of a block at the end of their sections."""
    sections = re.split(r"^(?=\w+:)", text, flags=re.M)
    for addition in re.split(r"^(?=\w+:)", block, flags=re.M)[1:]:
        key, _, entries = addition.partition("\n")
        [place] = [k for k, section in enumerate(sections) if section.startswith(key)]
        sections[place] = f"{sections[place].rstrip()}\n{entries.rstrip()}\n\n"
    return "".join(sections)


def test_the_method_of_contributing_works(tmp_path: Path) -> None:
    """Its three blocks, put where the text says, make a study that is right and a method that passes every test."""
    [file, setting], [block] = (fences(CONTRIBUTING, kind, "A method from start to end") for kind in ("python", "yaml"))
    name = Path(EXAMPLE).stem
    for folder in ("pipeline", "stages"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "tests").mkdir()
    for path in ("dvc.yaml", "pyproject.toml", "tests/conftest.py", "tests/method_cases.py", "tests/test_methods.py"):
        shutil.copyfile(ROOT / path, tmp_path / path)
    (tmp_path / EXAMPLE).write_text(file)
    (tmp_path / "params.yaml").write_text(extended(_home("params.yaml").read_text(), block))
    cases = tmp_path / "tests" / "method_cases.py"
    cases.write_text(re.sub(r"^SETTINGS.*\n", rf"\g<0>    {setting}", cases.read_text(), flags=re.M))
    code = f"""
import sys, pytest
from pipeline import params
params.check(params.read())
sys.exit(pytest.main(["tests/test_methods.py", "-k", "{name}", "-p", "no:cacheprovider"]))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    linted = [sys.executable, "-m", "ruff", "check", "--no-cache", "stages/methods"]
    assert subprocess.run(linted, cwd=tmp_path, capture_output=True, check=False).returncode == 0
    formatted = [sys.executable, "-m", "ruff", "format", "--no-cache", "--check", "stages/methods"]
    assert subprocess.run(formatted, cwd=tmp_path, capture_output=True, check=False).returncode == 0


if __name__ == "__main__":
    rewrite()
