"""What blocks of params.yaml name elsewhere: it is there, and goes with who names it, before anything runs."""

import copy
from pathlib import Path
from typing import Any

import pytest
from params_study import FINETUNE, STUDY, put, refused, written

from pipeline import params


@pytest.fixture
def study(tmp_path: Path) -> dict[str, Any]:
    return written(tmp_path, STUDY)


@pytest.mark.parametrize(
    ("place", "value", "says"),
    [
        ("runs/simclr/dataset", "digit", "runs.simclr.dataset: must be 'digits', not 'digit'; did you mean 'digits'?"),
        ("evaluations/simclr/dataset", "cifar", "evaluations.simclr.dataset: must be 'digits', not 'cifar'"),
        ("evaluations/simclr/run", "simcl", "run: must be 'simclr' or 'lars', not 'simcl'; did you mean 'simclr'?"),
        ("finetunes/x/run", "byol", "finetunes.x.run: must be 'simclr' or 'lars', not 'byol'"),
        (
            "finetunes/x/budgets",
            ["1pct", "10pct"],
            "finetunes.x.budgets: must be '1pct', not '10pct'; did you mean '1pct'?",
        ),
        ("runs", {}, "evaluations.simclr.run: 'simclr' does not exist, nor does any other"),
    ],
)
def test_references_exist(study: dict[str, Any], place: str, value: Any, says: str) -> None:
    """`run`, `dataset` and `budgets` name what params.yaml has; the refusal lists it."""
    study["finetunes"]["x"] = copy.deepcopy(FINETUNE)
    params.check(study)
    assert says in refused(put(study, place, value))


@pytest.mark.parametrize(
    ("init", "says"),
    [
        ("simclrs/seed-0", "there is no run 'simclrs'; did you mean 'simclr'? The runs are simclr, lars"),
        ("byol/seed-0", "there is no run 'byol'. The runs are simclr, lars"),
        ("simclr/seed-2", "the run 'simclr' has no seed 2, only 0, 10"),
        ("simclr/seed-00", "the run 'simclr' has no seed 00, only 0, 10"),
    ],
)
def test_weights_of_another_run_exist(study: dict[str, Any], init: str, says: str) -> None:
    """`init` in the folder of an encoder names a run and one of its seeds; any other file is its owner's affair."""
    study["runs"]["simclr"]["seeds"] = [0, 10]
    for right in ("encoders/simclr/seed-10/encoder.safetensors", "encoders/byol/theirs.pth"):
        params.check(put(study, "runs/lars/init", f"data/{right}"))
    sentence = refused(put(study, "runs/lars/init", f"data/encoders/{init}/encoder.safetensors"))
    assert sentence == f"params.yaml: runs.lars.init: {says}"


def test_the_layers_probe_needs_every_layer(study: dict[str, Any]) -> None:
    """Under whatever key it stands."""
    probe = {"penalties": {"low": 1e-3, "high": 1.0, "steps": 2}}
    put(study, "evaluations/simclr/probes", {"every": {"name": "layers", **probe}})
    says = "params.yaml: evaluations.simclr.taps: the probe every judges what every layer gives, so this must be true"
    assert refused(study) == says
    params.check(put(study, "evaluations/simclr/taps", True))


def test_a_batch_is_shared_equally(study: dict[str, Any]) -> None:
    """Ranks and pieces divide the batch of a run that trains; the refusal has the nearest batch that they do."""
    study["hardware"]["ranks"] = 3
    study["runs"]["lars"]["training"] |= {"epochs": 0, "batch_size": 256}
    study["runs"]["simclr"]["training"] |= {"accumulate": 2, "batch_size": 258}
    params.check(study)
    says = "runs.simclr.training.batch_size: 256 images cannot be shared among 3 ranks in 2 piece(s) (hardware.ranks, "
    sentence = refused(put(study, "runs/simclr/training/batch_size", 256))
    assert sentence == f"params.yaml: {says}accumulate), two or more for each; the nearest that can are 258"
    assert "the nearest that can are 12" in refused(put(study, "runs/simclr/training/batch_size", 6))


def test_fine_tuning_keeps_layers_that_there_are(study: dict[str, Any]) -> None:
    """`head: projector.2` wants a projector of two layers or more."""
    study["finetunes"]["x"] = FINETUNE | {"head": "projector.2"}
    params.check(study)
    says = "finetunes.x.head: the projector of the run 'simclr' has 1 layer, so the head can be h or projector.1, not"
    assert says in refused(put(study, "runs/simclr/method/projector/layers", 1))
    says = "finetunes.x.head: the run 'simclr' has no projector, so the head can only be h, not projector.2"
    assert says in refused(put(study, "runs/simclr/method", {"name": "rotnet"}))


def test_a_method_that_learns_from_labels_sees_them(study: dict[str, Any]) -> None:
    """Refused before any other run is trained, not when its own turn comes."""
    study["runs"]["lars"]["method"] = {"name": "supervised"}
    says = "runs.lars.sees: the method supervised learns from labels, so this must be labels, not images"
    assert refused(study) == f"params.yaml: {says}"
    params.check(put(study, "runs/lars/sees", "labels"))


def test_what_is_not_trained_has_no_epochs(study: dict[str, Any]) -> None:
    """`random` hands on the encoder as it started."""
    study["runs"]["lars"]["method"] = {"name": "random"}
    params.check(put(study, "runs/lars/training/epochs", 0))
    sentence = refused(put(study, "runs/lars/training/epochs", 3))
    assert sentence == (
        "params.yaml: runs.lars.training.epochs: the method random is not trained, so this must be 0, not 3"
    )


def test_the_budget_of_a_probe_exists(study: dict[str, Any]) -> None:
    """It is one of the data set that is judged."""
    penalties = {"low": 0.1, "high": 1.0, "steps": 2}
    probe = {"name": "few_labels", "budget": "1pct", "folds": 2, "penalties": penalties}
    study["evaluations"]["simclr"]["probes"]["few"] = probe
    params.check(study)
    says = "evaluations.simclr.probes.few.budget: must be '1pct', not '10pct'; did you mean '1pct'?"
    assert says in refused(put(study, "evaluations/simclr/probes/few/budget", "10pct"))


def test_a_row_of_the_report_is_of_one_run(study: dict[str, Any]) -> None:
    """An evaluation and a finetune of one name: refused before both have run."""
    study["finetunes"]["simclr"] = copy.deepcopy(FINETUNE)
    params.check(study)
    says = "finetunes.simclr.run: evaluations.simclr has simclr, and both are one row of the report: write that, or"
    assert says in refused(put(study, "finetunes/simclr/run", "lars"))


def test_few_labels_are_all_that_was_seen(study: dict[str, Any]) -> None:
    """A finetune of a run that saw the labels of its data set is refused, however the run came by them."""
    study["runs"]["ceiling"] = copy.deepcopy(study["runs"]["simclr"]) | {"sees": "labels"}
    study["runs"]["lars"]["init"] = "data/encoders/ceiling/seed-0/encoder.safetensors"
    study["finetunes"]["x"] = copy.deepcopy(FINETUNE)
    params.check(study)
    for run in ("ceiling", "lars"):
        sentence = refused(put(study, "finetunes/x/run", run))
        assert sentence == (
            f"params.yaml: finetunes.x.run: the encoder of {run!r} has seen every label of digits in pretraining, so "
            f"the budgets would say too little: name a run that sees images, and starts from none that sees labels"
        )
    study["datasets"]["others"] = study["datasets"]["digits"]
    params.check(put(study, "runs/ceiling/dataset", "others"))


def test_a_probe_is_called_what_it_is(study: dict[str, Any]) -> None:
    """The report's columns go by the keys: one that is a probe's name is that probe."""
    probes = study["evaluations"]["simclr"]["probes"]
    probes["knn_k9"] = {"name": "knn", "k": 9, "temperature": 0.1}
    params.check(study)
    probes["linear"] = probes["knn_k9"]
    says = "evaluations.simclr.probes.linear: the scores would be called linear and be those of knn: take another key"
    assert says in refused(study)
