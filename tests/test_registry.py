"""The registry: what a version says of itself, the gates before it is used, and the way back."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from registry_project import PARTS, record, write_data, write_evaluation, write_params
from safetensors.torch import load_file, save_file

from pipeline import gates, params, paths, registry, tracking


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A project with three registered encoders: version 1 fair, 2 good, 3 random."""
    root = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.chdir(root)
        write_params()
        write_data(paths.dataset("toy"))
        for name, looked_at in (("random", 1), ("fair", 4), ("good", 16)):
            write_evaluation(name, looked_at)
        assert [registry.register(name) for name in ("fair", "good", "random")] == [1, 2, 3]
    return root


@pytest.fixture
def project(made, tmp_path, monkeypatch):
    """A copy of it (the artifacts of the models stay where they were made)."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    root = shutil.copytree(made, tmp_path / "project", ignore=shutil.ignore_patterns("artifacts"))
    monkeypatch.chdir(root)
    return root


def client():
    return tracking.connect(Path.cwd()).MlflowClient()


def named():
    return registry.aliases(client(), "toy-encoder")


def reasons(version):
    with pytest.raises(registry.RegistryError) as refused:
        registry.promote(version)
    return str(refused.value)


def test_a_version_says_what_it_is(project):
    """Its tags lead to the bytes, the stage and the data, and hold the scores of the registered seed and of all."""
    tags = client().get_model_version("toy-encoder", "2").tags
    scores = json.loads(paths.scores("good").read_text())
    assert tags["study"] == "toy"
    assert tags["evaluation"] == tags["run"] == "good"
    assert tags["dataset"] == "toy"
    assert tags["dvc.out_md5"] == registry.content(paths.export("good"))
    assert len(tags["dvc.key"]) == 64
    assert float(tags["val.linear.top1"]) == scores["linear.top1"]["val"]["values"][0]
    assert float(tags["test.knn.top1.mean"]) == scores["knn.top1"]["test"]["mean"]
    description = client().get_model_version("toy-encoder", "2").description
    assert scores["linear.top1"]["protocol"] in description


def test_the_hash_of_a_folder_is_the_one_of_dvc(tmp_path):
    """So a version is found in dvc.lock by its tag (the value was made by `dvc add`)."""
    (tmp_path / "b").mkdir()
    for name, text in (("b/1", "a\n"), ("2", "b\n"), ("b é", "c\n")):
        (tmp_path / name).write_text(text)
    assert registry.content(tmp_path) == "c2a5d5287ecf54485da75cef3b8e4276.dir"


def test_registering_again_makes_no_second_version(project):
    """The same bytes are one version; what its tags say is refreshed."""
    client().set_model_version_tag("toy-encoder", "1", "val.linear.top1", "0.0")
    assert registry.register("fair") == 1
    assert len(registry.versions(client(), "toy-encoder")) == 3
    assert float(client().get_model_version("toy-encoder", "1").tags["val.linear.top1"]) > 0.5
    assert named() == {"candidate": 1}


def test_without_a_name_the_best_run_without_labels_is_registered(project):
    """Chosen by validation; the untrained encoder and one that saw labels are not looked at."""
    assert registry.register(None) == 2
    study = params.read()
    study["runs"]["good"]["sees"] = "labels"
    Path("params.yaml").write_text(json.dumps(study))
    assert registry.register(None) == 1


def test_accuracies_on_several_data_sets_name_no_best(project):
    """The highest would be that of the easiest data set: the candidates are named, and one by its name is taken."""
    study = params.read()
    study["runs"]["easy"] = study["runs"]["good"] | {"dataset": "easy"}
    study["evaluations"]["easy"] = {"run": "easy", "dataset": "easy", "probes": {}}
    Path("params.yaml").write_text(json.dumps(study))
    assert registry.register(None) == 2  # it has no score
    shutil.copyfile(paths.scores("good"), paths.scores("easy"))
    with pytest.raises(registry.RegistryError, match=r"fair \(toy\), good \(toy\), easy \(easy\)"):
        registry.register(None)
    assert registry.register("fair") == 1


@pytest.mark.parametrize(
    ("init", "best"),
    [
        ("data/encoders/fair/seed-0/encoder.safetensors", 2),
        ("data/encoders/labeled/seed-0/encoder.safetensors", 1),
        ("data/raw/theirs.pth", 1),
    ],
)
def test_what_a_run_started_from_may_have_seen_labels(project, init, best):
    """A run that starts from one that saw labels, or from elsewhere, is registered by its name only."""
    study = params.read()
    study["runs"]["labeled"] = study["runs"]["fair"] | {"sees": "labels"}
    study["runs"]["good"]["init"] = init
    Path("params.yaml").write_text(json.dumps(study))
    assert registry.register(None) == best
    assert registry.register("good") == 2


def test_only_what_dvc_lock_records_is_registered(project):
    """An export that no stage made is refused, with the command that makes one; so is a name that does not exist."""
    (paths.export("good") / "config.json").write_text("{}")
    with pytest.raises(registry.RegistryError, match="dvc repro embed@good"):
        registry.register("good")
    with pytest.raises(registry.RegistryError, match="no evaluation 'better', it has fair, good, random"):
        registry.register("better")


def test_a_damaged_export_is_not_registered(project):
    """Other weights than those that gave the golden features do not become a version."""
    file = paths.export("good") / "encoder.safetensors"
    save_file({name: 2 * weight for name, weight in load_file(file).items()}, file)
    record("good")
    with pytest.raises(registry.RegistryError, match="golden features differ"):
        registry.register("good")
    assert len(registry.versions(client(), "toy-encoder")) == 3


def test_promotion_and_rollback_move_the_aliases(project):
    """Candidate → champion → previous, and back; the candidate's name is free again after its promotion."""
    registry.register("fair")
    assert registry.promote() == 1
    assert named() == {"champion": 1}
    with pytest.raises(registry.RegistryError, match="no @previous"):
        registry.rollback()
    registry.register("good")
    assert registry.promote() == 2
    assert named() == {"champion": 2, "previous": 1}
    assert client().get_model_version("toy-encoder", "2").tags["gates"] == "passed"
    assert registry.rollback() == 1
    assert named() == {"champion": 1, "previous": 2}
    assert registry.rollback() == 2


def test_a_version_whose_images_were_forgotten_is_not_rolled_back_to(project):
    """As it is not promoted either; the aliases stay."""
    registry.promote(1)
    registry.promote(2)
    client().set_model_version_tag("toy-encoder", "1", gates.FORGOTTEN, "saw 2 images forgotten on 2026-01-01")
    sentence = "version 1 does not become the champion again: it saw 2 images forgotten on 2026-01-01: `dvc repro`"
    with pytest.raises(registry.RegistryError, match=sentence):
        registry.rollback()
    assert named()["champion"] == 2
    assert named()["previous"] == 1


def test_there_is_no_way_back_without_a_champion(project):
    """Its alias was deleted, by hand or on MLflow's page: the sentence says so."""
    registry.promote(1)
    registry.promote(2)
    client().delete_registered_model_alias("toy-encoder", "champion")
    with pytest.raises(registry.RegistryError, match="no @champion"):
        registry.rollback()
    assert named()["previous"] == 1


def test_nothing_to_promote(project):
    """Without a candidate, or with a version that does not exist, the sentence says what there is."""
    client().delete_registered_model_alias("toy-encoder", "candidate")
    with pytest.raises(registry.RegistryError, match="nothing to promote"):
        registry.promote()
    with pytest.raises(registry.RegistryError, match="has no version 7, it has 1, 2, 3"):
        registry.promote(7)


def test_the_champion_is_not_promoted_again(project):
    """Neither the champion nor another version with its bytes."""
    registry.promote(2)
    assert "is the champion already" in reasons(2)
    assert registry.register("good") == 2
    assert named() == {"champion": 2, "candidate": 3}


def test_an_encoder_no_better_than_untrained_is_refused(project):
    """Both accuracies are named, with both values; the verdict stays with the version."""
    floor = json.loads(paths.scores("random").read_text())
    for score in gates.ACCURACIES:
        client().set_model_version_tag("toy-encoder", "1", f"val.{score}", str(floor[score]["val"]["mean"]))
    found = reasons(1)
    for score in gates.ACCURACIES:
        value = floor[score]["val"]["mean"]
        assert f"{score} on validation is {value:.4f}, the untrained encoder random has {value:.4f}" in found
    assert "untrained" in client().get_model_version("toy-encoder", "1").tags["gates"]
    assert "champion" not in named()


def test_an_untrained_encoder_is_not_promoted(project):
    """However good its accuracies are: the sentence says that it is not trained."""
    assert "its run random is not trained, the method is random" in reasons(3)


def test_a_study_without_an_untrained_encoder_promotes_nothing(project):
    """Without the floor there is no saying whether anything was learned."""
    study = params.read()
    del study["evaluations"]["random"]
    Path("params.yaml").write_text(json.dumps(study))
    assert "nothing to compare with" in reasons(2)


@pytest.mark.parametrize(("key", "value"), [("side", 8), ("mean", [0.5] * 3), ("std", [0.5] * 3)])
def test_an_untrained_encoder_that_is_shown_other_pixels_is_no_floor(project, key, value):
    """The same network on smaller images, or on others' brightness, is another one."""
    study = params.read()
    study["runs"]["random"]["input"] |= {key: value}
    Path("params.yaml").write_text(json.dumps(study))
    assert "random and the encoder and the input of good" in reasons(2)


def test_an_encoder_worse_than_the_champion_is_refused(project):
    """The champion is judged again on the same validation images, and comes to the value that it had."""
    registry.promote(2)
    found = reasons(1)
    for score in gates.ACCURACIES:
        theirs = json.loads(paths.scores("good").read_text())[score]["val"]["mean"]
        assert f"the champion, version 2, has {theirs:.4f} on the same images" in found


def test_a_champion_whose_images_were_forgotten_is_no_bar(project):
    """It has to go, so a worse one may follow it."""
    registry.promote(2)
    assert "the champion, version 2, has" in reasons(1)
    client().set_model_version_tag("toy-encoder", "2", gates.FORGOTTEN, "saw 2 images forgotten on 2026-01-01")
    assert registry.promote(1) == 1
    assert named()["champion"] == 1


def test_an_encoder_equal_to_the_champion_is_refused(project):
    """Other bytes with the same accuracies are no reason to change what others use."""
    registry.promote(2)
    for score in gates.ACCURACIES:
        theirs = json.loads(paths.scores("good").read_text())[score]["val"]["mean"]
        client().set_model_version_tag("toy-encoder", "1", f"val.{score}", str(theirs))
    assert reasons(1).count("\n") == 1
    assert "better than the champion, version 2, in none of linear.top1, knn.top1" in reasons(1)


def test_the_champion_is_judged_by_the_present_probes_or_not_at_all(project):
    """Params.yaml edited since the scores were obtained: the comparison would not be one."""
    registry.promote(1)
    study = params.read()
    study["evaluations"]["good"]["probes"]["knn"]["k"] = 9
    Path("params.yaml").write_text(json.dumps(study))
    assert "params.yaml has other probes than its knn.top1" in reasons(2)


def test_judging_again_looks_at_no_test_image(project):
    """The encoder is given the train and the validation images, nothing else."""
    pixels = np.load(paths.dataset("toy") / "images" / "pixels.npy")
    seen = []

    class Recorder:
        def predict(self, images):
            seen.extend(images)
            return images.reshape(len(images), -1).astype(np.float32)

    gates.judge(Recorder(), params.read(), "good")
    assert np.array_equal(seen, pixels[: PARTS["train"] + PARTS["validation"]])


@pytest.mark.parametrize(("score", "value"), [("feature_std", 0.19), ("rankme", 1.9), ("feature_std", float("nan"))])
def test_collapsed_features_are_refused(score, value):
    """Too little spread, too few directions, or not a number."""
    tags = {"val.geometry.feature_std": "0.2", "val.geometry.rankme": "2.0"}
    assert list(gates.not_collapsed(tags)) == []
    [reason] = gates.not_collapsed({**tags, f"val.geometry.{score}": str(value)})
    assert f"collapsed: geometry.{score} is" in reason


@pytest.mark.parametrize("score", [*gates.ACCURACIES, *gates.LEAST])
def test_what_was_not_measured_is_refused(project, score):
    """A gate that cannot look refuses, and says which probe is missing."""
    client().delete_model_version_tag("toy-encoder", "2", f"val.{score}")
    assert f"was not judged by {score}" in reasons(2)


def test_an_untrained_encoder_judged_otherwise_is_no_floor(project):
    """Its scores count only if they were obtained by the same protocol."""
    scores = json.loads(paths.scores("random").read_text())
    scores["knn.top1"]["protocol"] = "another"
    paths.scores("random").write_text(json.dumps(scores))
    assert "random was not judged by knn.top1 in the same way" in reasons(2)
    paths.scores("random").unlink()
    assert "dvc repro evaluate@random" in reasons(2)


@pytest.mark.parametrize(
    ("tag", "reason"),
    [
        ("study", "belongs to the study another"),
        ("dvc.out_md5", "holds another encoder"),
        ("protocol", "by another protocol"),
        ("validation", "on another validation set"),
    ],
)
def test_scores_from_elsewhere_are_refused(project, tag, reason):
    """A version is compared only with what was measured in the same study, by the same protocol, on the same images."""
    client().set_model_version_tag("toy-encoder", "2", tag, "another")
    assert reason in reasons(2)


def test_new_labels_are_another_validation_set(project):
    """Scores that were obtained before the labels changed no longer count."""
    file = paths.dataset("toy") / "labels.parquet"
    pq.write_table(pq.read_table(file).slice(1), file)
    assert "on another validation set" in reasons(2)


def test_other_features_than_were_judged_are_refused(project):
    """What the registry gives back must be what the scores are about, within 1e-5."""
    file = paths.features("good") / "seed-0.npy"
    np.save(file, np.load(file) + np.float32(5e-5))
    assert "from the registry it gives features 5" in reasons(2)
    np.save(file, np.load(file) - np.float32(4.5e-5))
    assert registry.promote(2) == 2


def test_a_model_damaged_in_the_registry_is_refused(project):
    """Weights that changed in the store fail the self-test."""
    stored = Path(client().get_model_version_download_uri("toy-encoder", "1").removeprefix("file://"))
    [file] = stored.rglob("encoder.safetensors")
    intact = load_file(file)
    save_file({name: weight + 1 for name, weight in intact.items()}, file)
    try:
        assert "golden features differ" in reasons(1)
    finally:
        save_file(intact, file)


def test_all_reasons_are_given_at_once(project):
    """Nobody should have to fix one to learn of the next."""
    registry.promote(2)
    client().set_model_version_tag("toy-encoder", "3", "val.geometry.rankme", "1.0")
    client().set_model_version_tag("toy-encoder", "3", "protocol", "another")
    found = reasons(3)
    for reason in ("by another protocol", "collapsed", "not trained", "the champion"):
        assert reason in found
