"""What the tracking store knows of encoders that saw an image: the registered versions, the runs, and notes on them."""

import importlib.util
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pipeline import registry
from pipeline.tracking import paged


def versions(client: Any) -> list[tuple[Any, list[str]]]:
    """Every registered version that `contrail register` made, with its aliases, oldest first."""
    found = []
    for model in paged(client.search_registered_models):
        named = registry.aliases(client, model.name)
        every = paged(client.search_model_versions, f"name='{model.name}'")
        made = [version for version in every if "evaluation" in version.tags]
        for version in sorted(made, key=lambda version: int(version.version)):
            aliases = [name for name, at in sorted(named.items()) if at == int(version.version)]
            found.append((version, aliases))
    return found


def runs(client: Any, keys: Iterable[str]) -> dict[str, list[str]]:
    """Key → the ids of the runs that did this work."""
    places = [experiment.experiment_id for experiment in paged(client.search_experiments)]
    found = {key: list(paged(client.search_runs, places, f"tags.`dvc.key` = '{key}'")) for key in keys}
    return {key: [run.info.run_id for run in done] for key, done in found.items() if done}


def blank(mlflow: Any, model: str, version: str) -> None:
    """Replace the images of a version's self-test by noise, and what it makes of them by what it makes of the noise."""
    import numpy as np
    import torch
    from safetensors.torch import load_file, save_file

    place = mlflow.MlflowClient().get_model_version_download_uri(model, version)
    with TemporaryDirectory() as folder:
        got = Path(mlflow.artifacts.download_artifacts(f"models:/{model}/{version}", dst_path=folder))
        [golden] = got.rglob("golden.safetensors")
        shape = load_file(golden)["inputs"].shape
        inputs = torch.from_numpy(np.random.default_rng(0).integers(0, 256, tuple(shape), np.uint8))
        save_file({"inputs": inputs, "outputs": _loaded(golden.parent)(inputs).contiguous()}, golden)
        repositories = mlflow.store.artifact.artifact_repository_registry
        repositories.get_artifact_repository(place).log_artifact(str(golden), str(golden.parent.relative_to(got)))


def _loaded(folder: Path) -> Any:
    """The exported model, by its own program."""
    spec = importlib.util.spec_from_file_location("exported", folder / "model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.load(folder)
