"""What a version must show before it is promoted. A gate yields its reasons to refuse, sentences; none: it is passed.

Every accuracy is one on the validation images: the test images take no part in any choice.
"""

import dataclasses
import importlib
import itertools
import json
from collections.abc import Iterable, Iterator
from typing import Any

from pipeline import params, paths
from pipeline.errors import Refusal

FORGOTTEN = "forgotten"  # the tag of what saw images that were forgotten since: how many, and when
ACCURACIES = ("linear.top1", "knn.top1")
LEAST = {
    # Spread of the features on the unit sphere, 1 = isotropic. At 0.2 two images have a mean cosine of 0.96: nothing
    # tells them apart. The guard of the training warns at the same value.
    "geometry.feature_std": 0.2,
    # Effective number of directions in use. At 1 all features are multiples of one vector.
    "geometry.rankme": 2.0,
}
SAME = 1e-5  # how far features may be off after the way through the registry, in units of 1 or of the largest one
CHUNK = 512  # images at a time


def refusals(mlflow: Any, model: str, study: dict[str, Any], version: Any, champion: Any, now: dict) -> list[str]:
    """The reasons of all gates.

    version, champion: MLflow's model versions, champion may be None. now: the facts of the version's evaluation as it
    is in data/, to be compared with its tags.
    """
    tags = version.tags
    if missing := [score for score in (*ACCURACIES, *LEAST) if f"val.{score}" not in tags]:
        return [f"it was not judged by {', '.join(missing)}: add it to evaluations.{tags['evaluation']}.probes"]
    gates = (
        nothing_forgotten(tags),
        same_ground(tags, now),
        not_collapsed(tags),
        beats_untrained(study, tags),
        beats_champion(mlflow, model, study, tags, champion),
        survives_registry(mlflow, model, study, version),
    )
    return [reason for gate in gates for reason in _reasons(gate)]


def nothing_forgotten(tags: dict[str, str]) -> Iterator[str]:
    """It learned from no image that was forgotten since."""
    if FORGOTTEN in tags:
        yield f"it {tags[FORGOTTEN]}: `dvc repro` and `contrail register` make one that did not"


def same_ground(tags: dict[str, str], now: dict[str, str]) -> Iterator[str]:
    """The version's scores are those of data/: same study, encoder, protocol and validation images."""
    name = tags["evaluation"]
    remedy = f"`contrail register {name}` registers what is in data/"
    if tags["study"] != now["study"]:
        yield f"it belongs to the study {tags['study']}, params.yaml is at {now['study']}"
    if tags["dvc.out_md5"] != now["dvc.out_md5"]:
        yield f"{paths.export(name)} holds another encoder: {remedy}"
    if tags["protocol"] != now["protocol"]:
        yield f"its scores were obtained by another protocol than {paths.scores(name)}: {remedy}"
    if tags["validation"] != now["validation"]:
        yield f"its scores were obtained on another validation set than {paths.dataset(tags['dataset'])}: {remedy}"


def not_collapsed(tags: dict[str, str]) -> Iterator[str]:
    """Features spread over the sphere and over several directions."""
    for score, least in LEAST.items():
        value = float(tags[f"val.{score}"])
        if not value >= least:
            yield f"its features have collapsed: {score} is {value:.3g}, at least {least:g} is healthy"


def beats_untrained(study: dict[str, Any], tags: dict[str, str]) -> Iterator[str]:
    """Better than every seed of the same network untrained, on the same data set and input, in each accuracy."""
    run = study["runs"][tags["run"]]
    if run["method"]["name"] == "random":
        yield f"its run {tags['run']} is not trained, the method is random: there is nothing in it to rely on"
        return
    floors = [
        name
        for name, block in study["evaluations"].items()
        if block["dataset"] == tags["dataset"] and _untrained(study["runs"][block["run"]], run)
    ]
    if not floors:
        yield (
            f"nothing to compare with: params.yaml has no evaluation on {tags['dataset']} of a run with the method "
            f"random and the encoder and the input of {tags['run']}"
        )
    for name, score in itertools.product(floors, ACCURACIES):
        floor = read_scores(name).get(score, {})
        if floor.get("protocol") != tags[f"protocol.{score}"]:
            yield f"the untrained encoder {name} was not judged by {score} in the same way: give both the same probes"
            continue
        value, best = float(tags[f"val.{score}"]), max(floor["val"]["values"])
        if not value > best:
            yield f"{score} on validation is {value:.4f}, the untrained encoder {name} has {best:.4f}"


def beats_champion(
    mlflow: Any, model: str, study: dict[str, Any], tags: dict[str, str], champion: Any
) -> Iterator[str]:
    """Better than the champion in one accuracy and worse in none, judged on the same images by the same protocol.

    A champion that saw an image which was forgotten since is no bar: it has to be replaced.
    """
    if champion is None or FORGOTTEN in champion.tags:
        return
    name = f"version {champion.version}"
    if champion.tags.get("dvc.out_md5") == tags["dvc.out_md5"]:
        yield f"it is the champion already, {name} has the same bytes"
        return
    if champion.tags.get("study") != tags["study"]:
        yield f"the champion, {name}, belongs to the study {champion.tags.get('study')}"
        return
    theirs = judge(_load(mlflow, model, champion.version, study), study, tags["evaluation"])
    better = False
    for score in ACCURACIES:
        if theirs[score]["protocol"] != tags[f"protocol.{score}"]:
            yield f"params.yaml has other probes than its {score}: run `dvc repro evaluate@{tags['evaluation']}`"
            return
        value, other = float(tags[f"val.{score}"]), theirs[score]["val"]["mean"]
        better |= value > other
        if value < other:
            yield f"{score} on validation is {value:.4f}, the champion, {name}, has {other:.4f} on the same images"
    if not better:
        yield f"it is better than the champion, {name}, in none of {', '.join(ACCURACIES)} on validation"


def survives_registry(mlflow: Any, model: str, study: dict[str, Any], version: Any) -> Iterator[str]:
    """Loaded from the registry it passes its self-test and gives the features that were judged."""
    encoder = _load(mlflow, model, version.version, study)
    name = version.tags["evaluation"]
    table, images = _table(study, name)
    rows = table.rows["val"].numpy()
    expected = table.features.numpy()[rows]
    got = _features(encoder, images, rows)
    limit = SAME * max(1.0, float(abs(expected).max()))
    worst = float(abs(got - expected).max()) if got.shape == expected.shape else float("inf")
    if not worst <= limit:
        yield f"from the registry it gives features {worst:.1e} off {paths.features(name)}; {limit:.0e} is allowed"


def judge(encoder: Any, study: dict[str, Any], name: str) -> dict[str, Any]:
    """The validation scores of a loaded model under the protocol of evaluation `name`; see stages/evaluate.py."""
    import numpy as np
    import torch

    stage = importlib.import_module("stages.evaluate")
    block = {"hardware": study["hardware"], **study["evaluations"][name]}
    own = {key: block[key] for key in params.keywords(stage.evaluate)}
    probes = params.arguments(stage.evaluate, own, f"evaluations.{name}")["probes"]
    wanted = {key: probe.make for key, probe in probes.items() if f"{key}.top1" in ACCURACIES}
    table, images = _table(study, name)
    rows = np.union1d(table.rows["train"].numpy(), table.rows["val"].numpy())
    found = _features(encoder, images, rows)
    features = torch.zeros(len(images), found.shape[1])
    features[torch.from_numpy(rows)] = torch.from_numpy(found)
    # the test images are not looked at: their features stay zero and what is said of them is left out
    scores, _ = stage.judge({0: dataclasses.replace(table, features=features)}, wanted)
    return {name: {key: score[key] for key in ("val", "protocol")} for name, score in scores.items()}


def _table(study: dict[str, Any], name: str) -> tuple[Any, Any]:
    """What the probes of the first seed of evaluation `name` read, and the images of its data set."""
    stage = importlib.import_module("stages.evaluate")
    dataset = paths.dataset(study["evaluations"][name]["dataset"])
    tables = stage.read(paths.features(name), dataset)
    return tables[min(tables)], stage.Prepared(dataset).images


def _features(encoder: Any, images: Any, rows: Any) -> Any:
    import numpy as np

    def given(part: Any) -> Any:
        pixels, extents = images.read(part)
        return pixels if extents is None else [image[:h, :w] for image, (h, w) in zip(pixels, extents, strict=True)]

    return np.concatenate([encoder.predict(given(rows[k : k + CHUNK])) for k in range(0, len(rows), CHUNK)])


def _load(mlflow: Any, model: str, version: Any, study: dict[str, Any]) -> Any:
    """A version from the registry, on the device that the features were made on."""
    from pipeline.hardware import device_name

    device = device_name(params.Hardware(**study["hardware"]))
    try:
        return mlflow.pyfunc.load_model(f"models:/{model}/{version}", model_config={"device": device})
    except RuntimeError as error:
        raise Refusal(f"version {version} cannot be loaded from the registry: {error}") from error


def _untrained(floor: dict[str, Any], run: dict[str, Any]) -> bool:
    return floor["method"]["name"] == "random" and all(floor[key] == run[key] for key in ("encoder", "input"))


def read_scores(name: str) -> dict[str, Any]:
    """The scores of an evaluation by name."""
    if not paths.scores(name).exists():
        raise Refusal(f"{paths.scores(name)} is missing: run `dvc repro evaluate@{name}`")
    return json.loads(paths.scores(name).read_bytes())


def _reasons(gate: Iterable[str]) -> list[str]:
    """A gate that cannot be evaluated refuses."""
    reasons = []
    try:
        for reason in gate:
            reasons.append(reason)  # noqa: PERF402  # keeps what came before an exception
    except Refusal as error:
        reasons.append(str(error))
    return reasons
