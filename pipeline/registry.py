"""From an evaluated encoder to one that others may rely on: register, promote, roll back, fetch.

    data/exports/<x>, data/scores/<x>.json ── register ──▶ <study>-encoder, version n   @candidate
    @candidate ── promote: every gate, on validation scores ──▶ @champion, the former one @previous
    @champion ◀── rollback ──▶ @previous
    a version ── fetch ──▶ data/raw/<study>-encoder-v<n>.safetensors, for a run to start from

Nothing here changes what a stage made, everything may be repeated. Gates look at the registered seed, the first of its
run, not at a mean: it is the one that is used.
"""

import hashlib
import json
import re
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pipeline import gates, lock, params, paths, tracking
from pipeline.errors import Refusal
from pipeline.fingerprint import md5
from pipeline.lineage import without_labels
from pipeline.trail import history

SERVING = Path(__file__).with_name("serving.py")
SPLITS = ("val", "test")
NEEDED = ("mlflow", "numpy", "pillow", "safetensors", "torch")  # what a consumer installs


class RegistryError(Refusal):
    """The registry cannot do what was asked; the sentence says why and what would help."""


def register(name: str | None) -> int:
    """Register the export of evaluation `name` as a version of <study>-encoder, call it the candidate, return it.

    Without a name: the highest validation linear.top1 among the runs trained here without labels, if all are of one
    data set. What weights from elsewhere have seen nobody here can know: they are registered by name only. Equal
    bytes are one version; registering them again refreshes what its tags say.
    """
    study = params.read()
    name = name or _best(study)
    known = facts(study, name)
    with registry(study) as (mlflow, client, model):
        found = [v for v in versions(client, model) if v.tags.get("dvc.out_md5") == known["dvc.out_md5"]]
        version = found[0].version if found else _log(mlflow, client, model, name, known)
        for tag, value in known.items():
            if found and found[0].tags.get(tag) != value:
                client.set_model_version_tag(model, version, tag, value)
        client.update_model_version(model, version, _description(study, name))
        if aliases(client, model).get("champion") != int(version):
            client.set_registered_model_alias(model, "candidate", version)
    return int(version)


def promote(version: int | None = None) -> int:
    """Make a version (default: the candidate) the champion if it passes every gate; return it.

    RegistryError gives the reasons of all gates that refuse it.
    """
    study = params.read()
    with registry(study) as (mlflow, client, model):
        named = aliases(client, model)
        version = version or named.get("candidate")
        if version is None:
            raise RegistryError(f"nothing to promote: {model} has no @candidate, `contrail register` makes one")
        if version not in (known := {int(v.version): v for v in versions(client, model)}):
            raise RegistryError(
                f"{model} has no version {version}, it has {', '.join(map(str, sorted(known))) or 'none'}"
            )
        if "evaluation" not in known[version].tags:
            raise RegistryError(
                f"{model} version {version} was not made by `contrail register`: nothing says what it is"
            )
        now = facts(study, known[version].tags["evaluation"])
        champion = known.get(named.get("champion", 0))
        refusals = gates.refusals(mlflow, model, study, known[version], champion, now)
        client.set_model_version_tag(model, str(version), "gates", "; ".join(refusals) or "passed")
        if refusals:
            raise RegistryError("\n- ".join([f"{model} version {version} is not promoted:", *refusals]))
        _move(client, model, version, champion and int(champion.version))
        if named.get("candidate") == version:
            client.delete_registered_model_alias(model, "candidate")
    return version


def rollback() -> int:
    """Make the previous champion the champion again, and the other way round; return it.

    RegistryError if there are not both, or if it learned from an image that was forgotten since.
    """
    with registry(params.read()) as (_, client, model):
        named = aliases(client, model)
        if "previous" not in named:
            raise RegistryError(f"nothing to roll back to: {model} has no @previous, a second promotion makes one")
        previous = named["previous"]
        if "champion" not in named:
            raise RegistryError(
                f"nothing to roll back: {model} has no @champion, `contrail promote {previous}` judges its @previous"
            )
        for reason in gates.nothing_forgotten(client.get_model_version(model, str(previous)).tags):
            raise RegistryError(f"{model} version {previous} does not become the champion again: {reason}")
        _move(client, model, previous, named["champion"])
    return previous


def fetch(uri: str) -> str:
    """Download the encoder of models:/<name>@<alias> or models:/<name>/<version> to data/raw; lines for params.yaml."""
    match = re.fullmatch(r"models:/([^/@'\"]+)(?:/([0-9]+)|@([^/@]+))", uri)
    if not match:
        raise RegistryError(f"{uri} names no version: write models:/<name>@<alias> or models:/<name>/<version>")
    name, number, alias = match.groups()
    with tracking.reach(Path.cwd()) as mlflow:
        client = mlflow.MlflowClient()
        known, named = [int(v.version) for v in versions(client, name)], aliases(client, name)
        version = int(number) if number else named.get(alias)
        if version not in known:
            there = [f"models:/{name}/{v}" for v in sorted(known)] + [f"models:/{name}@{a}" for a in sorted(named)]
            raise RegistryError(f"the registry has no {uri}, only {', '.join(there) or 'models of other names'}")
        with TemporaryDirectory() as folder:
            got = Path(mlflow.artifacts.download_artifacts(f"models:/{name}/{version}", dst_path=folder))
            found = list(got.rglob("encoder.safetensors"))
            if not found:
                raise RegistryError(f"{uri} was not made by `contrail register`: it holds no encoder.safetensors")
            config = json.loads(found[0].with_name("config.json").read_text())
            target = paths.RAW / f"{name}-v{version}.safetensors"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(found[0], target)
    encoder = {"name": config["encoder"]["name"], **config["encoder"]["arguments"]}
    return f"encoder: {json.dumps(encoder)}\ninit: {target}\ninput: {json.dumps(config['input'])}"


def facts(study: dict[str, Any], name: str) -> dict[str, str]:
    """What a version's tags say: where its bytes come from, and what they scored.

    val.<score> is that of the registered seed; val.<score>.mean, test.<score>.std and so on are over the seeds.
    """
    block = _block(study, name)
    key = _recorded(f"embed@{name}", paths.export(name))
    _recorded(f"evaluate@{name}", paths.scores(name))
    scores = gates.read_scores(name)
    tags = {
        "study": study["study"],
        "evaluation": name,
        "run": block["run"],
        "dataset": block["dataset"],
        "seed": str(min(study["runs"][block["run"]]["seeds"])),
        "dvc.key": key,
        "dvc.out_md5": content(paths.export(name)),
        **tracking.git_tags(),
        **history.trained(name, block["run"]),
        "protocol": _digest({score: value["protocol"] for score, value in scores.items()}),
        "validation": validation(block["dataset"]),
    }
    for score, value in scores.items():
        tags[f"val.{score}"] = str(value["val"]["values"][0])
        tags[f"protocol.{score}"] = value["protocol"]
        tags |= {f"{split}.{score}.{kind}": str(value[split][kind]) for split in SPLITS for kind in ("mean", "std")}
    return tags


def validation(dataset: str) -> str:
    """A hash of what a validation score depends on beside the encoder: images, labels, splits."""
    names = ("splits.parquet", "labels.parquet", "images/index.parquet")
    return _digest([md5(_existing(paths.dataset(dataset) / name, f"prepare@{dataset}")) for name in names])


def content(path: Path) -> str:
    """The md5 of a file or folder as DVC computes it."""
    if path.is_file():
        return md5(path)
    files = sorted(
        (file.relative_to(path).as_posix(), file)
        for file in path.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    )
    listing = json.dumps([{"md5": md5(file), "relpath": name} for name, file in files], sort_keys=True)
    return hashlib.md5(listing.encode()).hexdigest() + ".dir"


@contextmanager
def registry(study: dict[str, Any]) -> Iterator[tuple[Any, Any, str]]:
    """The mlflow module, a client and the name of the study's registered model."""
    with tracking.reach(Path.cwd()) as mlflow:
        yield mlflow, mlflow.MlflowClient(), f"{study['study']}-encoder"


def versions(client: Any, model: str) -> list[Any]:
    return list(tracking.paged(client.search_model_versions, f"name='{model}'"))


def aliases(client: Any, model: str) -> dict[str, int]:
    """Alias → version."""
    return {
        alias: int(version)
        for found in client.search_registered_models(f"name='{model}'")
        for alias, version in found.aliases.items()
    }


def package(mlflow: Any, folder: Path) -> dict[str, Any]:
    """An export as a model for `mlflow.pyfunc.log_model` and `save_model`: serving.py and the folder, no pickle."""
    config = json.loads((folder / "config.json").read_text())
    output = mlflow.types.TensorSpec(mlflow.types.DataType.float.to_numpy(), (-1, config["features"]))
    normalize = mlflow.types.ParamSpec("normalize", "boolean", False)
    return {
        "python_model": str(SERVING),
        "artifacts": {"encoder": str(folder)},
        "model_config": {"device": "cpu"},
        # no input schema: MLflow would refuse lists of images of mixed sizes, and print whole arrays where it refuses
        "signature": mlflow.models.ModelSignature(
            outputs=mlflow.types.Schema([output]), params=mlflow.types.ParamSchema([normalize])
        ),
        "pip_requirements": [f"{name}=={metadata.version(name).partition('+')[0]}" for name in NEEDED],
    }


def _log(mlflow: Any, client: Any, model: str, name: str, known: dict[str, str]) -> str:
    """A new version of the registered model, loaded once to see that it passes its self-test."""
    mlflow.set_experiment(experiment_id=tracking.experiment(client, known["study"]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that there is no input example: golden.safetensors holds one
        logged = mlflow.pyfunc.log_model(name="encoder", **package(mlflow, paths.export(name)))
    try:
        mlflow.pyfunc.load_model(logged.model_uri)
    except RuntimeError as error:
        client.delete_logged_model(logged.model_id)
        raise RegistryError(f"{paths.export(name)} cannot be registered: {error}") from error
    if not client.search_registered_models(f"name='{model}'"):
        client.create_registered_model(model)
    return client.create_model_version(model, logged.model_uri, tags=known, model_id=logged.model_id).version


def _move(client: Any, model: str, champion: int, previous: int | None) -> None:
    if previous is not None:
        client.set_registered_model_alias(model, "previous", str(previous))
    client.set_registered_model_alias(model, "champion", str(champion))


def _best(study: dict[str, Any]) -> str:
    """The evaluation with the highest validation linear.top1 among the runs that learned, without labels."""
    values = {}
    for name, block in study["evaluations"].items():
        run = study["runs"][block["run"]]
        learned = run["method"]["name"] != "random" and without_labels(study["runs"], block["run"])
        scores = gates.read_scores(name) if paths.scores(name).exists() else {}
        if learned and run["dataset"] == block["dataset"] and "linear.top1" in scores:
            values[name] = scores["linear.top1"]["val"]["mean"]
    if not values:
        raise RegistryError(
            "nothing to register: no run trained without labels has a linear.top1; `dvc repro` computes what is stale, "
            "and `contrail register EVALUATION` takes one without it, though no gate lets that pass"
        )
    datasets = {name: study["evaluations"][name]["dataset"] for name in values}
    if len(set(datasets.values())) > 1:
        candidates = ", ".join(f"{name} ({dataset})" for name, dataset in datasets.items())
        raise RegistryError(
            f"accuracies on several data sets do not say which is the best of {candidates}: name one, as in "
            f"`contrail register {next(iter(datasets))}`"
        )
    return max(values, key=lambda name: values[name])


def _block(study: dict[str, Any], name: str) -> dict[str, Any]:
    if name not in study["evaluations"]:
        raise RegistryError(f"params.yaml has no evaluation {name!r}, it has {', '.join(study['evaluations'])}")
    return study["evaluations"][name]


def _recorded(stage: str, path: Path) -> str:
    """The key of the stage in dvc.lock; RegistryError unless `path` is what it made."""
    entry = lock.read(Path.cwd()).get(stage, {})
    recorded = {out["path"]: out.get("md5") for out in entry.get("outs", [])}.get(str(path))
    if content(_existing(path, stage)) != recorded:
        raise RegistryError(
            f"{path} is not what dvc.lock records, so nobody could make it again: run `dvc repro {stage}`"
        )
    return lock.key(entry)


def _existing(path: Path, stage: str) -> Path:
    if not path.exists():
        raise RegistryError(f"{path} is missing: run `dvc repro {stage}`")
    return path


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _description(study: dict[str, Any], name: str) -> str:
    """For the registry's page: the scores with their protocols, as Markdown."""
    block, scores = _block(study, name), gates.read_scores(name)
    seeds = study["runs"][block["run"]]["seeds"]
    lines = [
        f"Encoder `{block['run']}` of the study `{study['study']}`, judged on `{block['dataset']}`. Mean ± standard "
        f"deviation over the seeds {', '.join(map(str, seeds))}; registered is seed {min(seeds)}.",
        "",
        "| score | validation, registered seed | validation | test | 95 % interval | protocol |",
        "|---|---|---|---|---|---|",
    ]
    for score, value in scores.items():
        spread = [f"{value[split]['mean']:.4f} ± {value[split]['std']:.4f}" for split in SPLITS]
        interval = " to ".join(f"{edge:.4f}" for edge in value["test"].get("interval", []))
        cells = [score, f"{value['val']['values'][0]:.4f}", *spread, interval, value["protocol"]]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
