"""A project of four small stages, shell commands in place of trainings, for the tests of what runs stages."""

import subprocess
from pathlib import Path

PARAMS = """\
study: toy
hardware: {threads: 1, ranks: 1}
datasets:
  d: {subset: null, share: 1e-4, budgets: {}}
runs:
  a: {rate: 0.1, method: {}, init: fresh, seeds: [0, 1], training: {epochs: 3, batch_size: 64}}
  b: {rate: 0.2, method: {}, init: fresh, seeds: [0, 1], training: {epochs: 3, batch_size: 64}}
selections: {}
"""
DAG = """\
stages:
  prepare:
    foreach: ${datasets}
    do:
      cmd: mkdir -p data/datasets/${key} && cat code/pixels > data/datasets/${key}/pixels
      desc: Images of ${key}
      deps: [code]
      params: ["datasets.${key}"]
      outs: ["data/datasets/${key}"]
  pretrain:
    foreach: ${runs}
    do:
      cmd: mkdir -p data/encoders && grep "  ${key}:" params.yaml > data/encoders/${key}
      meta: {retries: 1}
      deps: [data/datasets/d/pixels]
      params: ["runs.${key}"]
      outs: ["data/encoders/${key}"]
  report:
    cmd: mkdir -p data/report && cat data/encoders/* > data/report/page && cp code/scores data/report/results.json
    deps: [data/encoders/a, data/encoders/b]
    params: [study]
    outs: [data/report/page]
    metrics: [data/report/results.json: {cache: false}]
"""
SCORES = '{"knn.top1": {"test": {"mean": 0.5, "std": 0.1, "values": [0.4, 0.6]}, "protocol": "cosine"}}'
CONFIG = "[core]\n    no_scm = {}\n    analytics = false\n    check_update = false\n[cache]\n    type = hardlink,copy\n"
STAGES = ["prepare@d", "pretrain@a", "pretrain@b", "report"]
REPOSITORY = Path(__file__).resolve().parent.parent


def make(root: Path, *, git: bool = False) -> Path:
    """The project, not run yet."""
    (root / ".dvc").mkdir(parents=True)
    (root / ".dvc" / "config").write_text(CONFIG.format(str(not git).lower()))
    (root / "code").mkdir()
    (root / "code" / "pixels").write_text("1\n")
    (root / "code" / "scores").write_text(SCORES)
    (root / "params.yaml").write_text(PARAMS)
    (root / "dvc.yaml").write_text(DAG)
    if git:
        (root / ".gitignore").write_text(".dvc/tmp\n.dvc/cache\n.scratch\ndata/**\n!data/**/\n!data/report/*.json\n")
        run("git", "init", "--quiet", cwd=root)
        commit(root)
    return root


def edit(root: Path, name: str, old: str, new: str) -> None:
    """Replace `old`, which must be there, by `new` in a file."""
    text = (root / name).read_text()
    assert old in text
    (root / name).write_text(text.replace(old, new))


def commit(root: Path) -> None:
    run("git", "add", "--all", cwd=root)
    run("git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "--quiet", "--message", "now", cwd=root)


def run(*command: str, cwd: Path) -> str:
    return subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True).stdout
