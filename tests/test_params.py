"""params.yaml: what is right is accepted as it is meant, what is wrong is said in one sentence.

A sentence names the place, says what is wrong with what stands there, and what is accepted. Claims, in this order: the
shipped file is right and no key of it can be misspelled; YAML; sections and names; keys; plug-ins; values; unions.
"""

import copy
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from params_study import FINETUNE, MISSING, STUDY, put, refused, written
from pydantic import Field

from pipeline import params, plugins
from pipeline.errors import ParamsError
from pipeline.params import Block, Count, Name, Positive


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return written(tmp_path_factory.mktemp("study"), STUDY)


@pytest.fixture
def study(whole: dict[str, Any]) -> dict[str, Any]:
    """STUDY as plain values, for one test to spoil."""
    return copy.deepcopy(whole)


def keys(tree: Any, way: tuple = ()) -> list[tuple]:
    """The way to every key of nested mappings."""
    if not isinstance(tree, dict):
        return []
    return [found for key, value in tree.items() for found in ((*way, key), *keys(value, (*way, key)))]


# ---- the shipped file


def test_the_shipped_params_are_right(root: Path) -> None:
    """`contrail check` has nothing to say about params.yaml as it is."""
    params.check(params.read(root / "params.yaml"))


def test_every_misspelled_key_of_the_shipped_params_is_named(root: Path) -> None:
    """Whichever key of params.yaml is misspelled, the refusal has the wrong spelling or misses the right one."""
    shipped = params.read(root / "params.yaml")
    free = {(section, name) for section in ("evaluations", "finetunes") for name in shipped[section]}
    for *way, key in keys(shipped):
        if (*way, key) in free:
            continue  # rows may be called anything
        values = copy.deepcopy(shipped)
        block = values
        for step in way:
            block = block[step]
        block[f"{key}x"] = block.pop(key)
        sentence = refused(values)
        assert f"{key}x" in sentence or f"'{key}'" in sentence


# ---- YAML


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "params.yaml must be a mapping with the keys study, private, hardware, datasets"),
        ("# only a comment", "params.yaml must be a mapping with the keys study"),
        ("- study", "params.yaml must be a mapping with the keys study"),
        ("study", "params.yaml must be a mapping with the keys study"),
        ("study: a: b", "params.yaml, line 1, column 9 is not valid YAML: mapping values are not allowed"),
        ("study: [1, 2", "line 2, column 1 is not valid YAML: did not find expected ',' or ']'"),
        ("study: a\n\tseeds: 1", "line 2, column 1 is not valid YAML: found a tab character"),
        ("study: a\nruns: {}\nstudy: b", 'line 3, column 1 is not valid YAML: found duplicate key "study"'),
        ("study: *nobody", "line 1, column 8 is not valid YAML: found undefined alias"),
        ("study: !!python/name:os.system", "line 1, column 8 is not valid YAML: could not determine a constructor"),
        (b"study: \xff", "params.yaml is not valid YAML"),
        ("study: 2024-05-01", "params.yaml holds more than numbers, text, true, false, null, lists and mappings"),
        ("study: &a [*a]", "params.yaml holds more than numbers, text, true, false, null, lists and mappings"),
    ],
)
def test_what_is_no_mapping_in_yaml_is_refused(tmp_path: Path, text: str | bytes, says: str) -> None:
    """A file that is empty, broken or more than plain values is refused with the line where it breaks."""
    with pytest.raises(ParamsError) as error:
        written(tmp_path, text)
    assert says in str(error.value)
    assert "\n" not in str(error.value)
    assert "http" not in str(error.value)


@pytest.mark.parametrize("key", ["2024", "1e5", "true", "null"])
def test_a_name_that_yaml_takes_for_a_number_or_a_word_is_refused(tmp_path: Path, key: str) -> None:
    """DVC would leave out its stages without a word; in quotes it is a name as any other."""
    with pytest.raises(ParamsError, match=r"params\.yaml: runs\..* is no text as a name: quote it, or choose"):
        written(tmp_path, f"study: a\nruns: {{ {key}: {{}} }}")
    assert written(tmp_path, f'study: a\nruns: {{ "{key}": {{}} }}')["runs"] == {key: {}}


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    """Without params.yaml there is a sentence."""
    with pytest.raises(ParamsError, match=r"there is no .*params\.yaml"):
        params.read(tmp_path / "params.yaml")


def test_numbers_and_words_are_those_of_yaml_1_2(tmp_path: Path) -> None:
    """`1e-4` is a number, `on` and `no` are words, `010` is ten: as DVC reads them."""
    values = written(tmp_path, "a: 1e-4\nb: on\nc: no\nd: 010\ne: ~\nf: true")
    assert values == {"a": 1e-4, "b": "on", "c": "no", "d": 10, "e": None, "f": True}


def test_anchors_and_merge_keys_become_plain_copies(study: dict[str, Any]) -> None:
    """A merged block has the keys of its anchor, its own first, and shares nothing with it."""
    assert study["runs"]["lars"]["input"] == study["runs"]["simclr"]["input"]
    assert study["runs"]["lars"]["training"]["epochs"] == 1
    assert study["runs"]["lars"]["training"]["optimizer"]["name"] == "lars"
    study["runs"]["lars"]["input"]["side"] = 16
    assert study["runs"]["simclr"]["input"]["side"] == 8
    params.check(study)


# ---- sections and names


@pytest.mark.parametrize(
    ("place", "value", "says"),
    [
        ("run", {}, "params.yaml: unknown key 'run'"),
        (
            "runs",
            MISSING,
            "params.yaml: 'runs' is missing; it takes datasets, evaluations, finetunes, hardware, private, runs, "
            "selections, study",
        ),
        ("study", MISSING, "params.yaml: 'study' is missing"),
        ("runs", None, "params.yaml: runs: must be a mapping of named blocks, {} for none, not null"),
        (
            "datasets",
            ["digits"],
            "params.yaml: datasets: must be a mapping of named blocks, {} for none, not ['digits']",
        ),
        ("study", "Small Study", "params.yaml: study: must be a name made of a-z, 0-9, _ and -, not 'Small Study'"),
        (
            "hardware",
            "cpu",
            "params.yaml: hardware: must be a mapping with the keys compile, deterministic, device, precision",
        ),
        (
            "hardware/threads",
            0,
            "params.yaml: hardware.threads: must be a whole number greater than or equal to 1, not 0",
        ),
        ("hardware/device", "gpu", "params.yaml: hardware.device: must be auto, cpu, cuda or cuda:<n>, not 'gpu'"),
        ("hardware/precision", "fp16", "params.yaml: hardware.precision: must be 'fp32' or 'bf16', not 'fp16'"),
        ("runs/SimCLR", {}, "params.yaml: runs.SimCLR: a name may hold only a-z, 0-9, _ and -"),
        ("runs/sim.clr", {}, "params.yaml: runs.sim.clr: a name may hold only a-z, 0-9, _ and -"),
        ("evaluations/simclr@1", {}, "params.yaml: evaluations.simclr@1: a name may hold only a-z, 0-9, _ and -"),
        ("finetunes/a b", {}, "params.yaml: finetunes.a b: a name may hold only a-z, 0-9, _ and -"),
        ("datasets/digits/budgets/1.pct", {}, "datasets.digits.budgets: the key '1.pct' must be a name made of a-z"),
        (
            "runs/simclr",
            None,
            "params.yaml: runs.simclr: must be a mapping with the keys dataset, encoder, init, input, method",
        ),
        (
            "runs/simclr",
            [1],
            "params.yaml: runs.simclr: must be a mapping with the keys dataset, encoder, init, input, method",
        ),
    ],
)
def test_sections_and_names(study: dict[str, Any], place: str, value: Any, says: str) -> None:
    """A section that is missing, foreign or no mapping, and a name that could be no folder, are refused."""
    assert says in refused(put(study, place, value))


def test_several_ranks_are_not_put_on_one_gpu(study: dict[str, Any]) -> None:
    """`cuda:<n>` is a device for one rank."""
    params.check(put(study, "hardware/device", "cuda:1"))
    sentence = refused(put(study, "hardware/ranks", 2))
    assert sentence == "params.yaml: hardware: device cuda:1 is one GPU for 2 ranks: write cuda"


def test_a_number_may_be_one_of_a_few(study: dict[str, Any]) -> None:
    """The refusal lists them."""
    resnet = {"name": "resnet", "depth": 20, "stem": "cifar", "zero_init_residual": True}
    assert "runs.simclr.encoder.depth: must be 18, 34 or 50, not 20" in refused(
        put(study, "runs/simclr/encoder", resnet)
    )


# ---- keys


@pytest.mark.parametrize(
    ("place", "value", "says"),
    [
        ("runs/simclr/trainings", 1, "params.yaml: runs.simclr: unknown key 'trainings'"),
        (
            "runs/simclr/method/tau",
            1,
            "runs.simclr.method: unknown key 'tau'. It takes projector, reduction, temperature",
        ),
        ("runs/simclr/method/projector/width", 8, "runs.simclr.method.projector: unknown key 'width'"),
        ("runs/simclr/training/optimizer/trust", 1, "training.optimizer: unknown key 'trust'. It takes learning_rate"),
        (
            "hardware/gpus",
            1,
            "params.yaml: hardware: unknown key 'gpus'. It takes compile, deterministic, device, precision",
        ),
        (
            "evaluations/simclr/probes/knn/n",
            1,
            "evaluations.simclr.probes.knn: unknown key 'n'. It takes k, temperature",
        ),
        (
            "datasets/digits/budgets/1pct/select/n",
            1,
            "datasets.digits.budgets.1pct.select: unknown key 'n'. It takes share",
        ),
        (
            "runs/simclr/seeds",
            MISSING,
            "params.yaml: runs.simclr: 'seeds' is missing; it takes dataset, encoder, init, input",
        ),
        ("runs/simclr/method/temperature", MISSING, "runs.simclr.method: 'temperature' is missing; it takes projector"),
        ("runs/simclr/method/projector", {"layers": 2}, "method.projector: 'hidden', 'norm' and 'out' are missing"),
        ("runs/simclr/training/optimizer/momentum", MISSING, "runs.simclr.training.optimizer: 'momentum' is missing"),
        (
            "runs/simclr/method/projector",
            [2],
            "method.projector: must be a mapping with the keys hidden, layers, norm, out",
        ),
        (
            "runs/simclr/training",
            None,
            "runs.simclr.training: must be a mapping with the keys accumulate, batch_size, epochs",
        ),
    ],
)
def test_keys(study: dict[str, Any], place: str, value: Any, says: str) -> None:
    """An unknown and a missing key are named with those that the block takes, at any depth."""
    assert says in refused(put(study, place, value))


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("runs/simclr/methd", "method"),
        ("runs/simclr/method/temprature", "temperature"),
        ("runs/simclr/method/projector/hiden", "hidden"),
        ("runs/simclr/training/optimizer/momentun", "momentum"),
        ("hardware/thread", "threads"),
        ("datasets/digits/split/validaton", "validation"),
        ("datasets/digits/budgets/1pct/select/shares", "share"),
        ("evaluations/simclr/probes/knn/temprature", "temperature"),
        ("evaluation", "evaluations"),
    ],
)
def test_did_you_mean(study: dict[str, Any], wrong: str, right: str) -> None:
    """A misspelled key is one sentence, not an unknown key and a missing one, and it has the right spelling."""
    way, _, key = wrong.rpartition("/")
    values = put(study, f"{way}/{right}".lstrip("/"), MISSING)
    assert f"unknown key '{key}'; did you mean '{right}'?" in refused(put(values, wrong, 1))


# ---- plug-ins


@pytest.mark.parametrize(
    ("place", "kind"),
    [
        ("datasets/digits/source", "datasets"),
        ("datasets/digits/budgets/1pct/select", "budgets"),
        ("runs/simclr/method", "methods"),
        ("runs/simclr/views", "views"),
        ("runs/simclr/encoder", "encoders"),
        ("evaluations/simclr/pairs", "views"),
        ("finetunes/x/objective", "objectives"),
    ],
)
def test_unknown_plugins(study: dict[str, Any], place: str, kind: str) -> None:
    """An unknown plug-in is refused with the file that would be it, the nearest name, and all that there are."""
    study["finetunes"]["x"] = copy.deepcopy(FINETUNE)
    right = plugins.names(kind)[-1]
    sentence = refused(put(study, place, {"name": f"{right}s"}))
    assert f"params.yaml: {place.replace('/', '.')}.name: there is no stages/{kind}/{right}s.py" in sentence
    assert f"did you mean '{right}'?" in sentence
    assert f"The {kind} are {', '.join(plugins.names(kind))}" in sentence


@pytest.mark.parametrize(
    ("block", "says"),
    [
        (None, "method: must be a mapping with a `name`, one of {}, not null"),
        ("simclr", "method: must be a mapping with a `name`, one of {}, not 'simclr'"),
        (["simclr"], "method: must be a mapping with a `name`, one of {}, not ['simclr']"),
        ({}, "method: 'name' is missing; it is one of {}"),
        ({"temperature": 1}, "method: 'name' is missing; it is one of {}"),
        ({"name": None}, "method.name: there is no stages/methods/None.py; did you mean 'rotnet'? The methods are {}"),
    ],
)
def test_a_plugin_is_a_mapping_with_a_name(study: dict[str, Any], block: Any, says: str) -> None:
    """A plug-in without a name, or given as a word, is refused with the names that there are."""
    sentence = says.format(", ".join(plugins.names("methods")))
    assert refused(put(study, "runs/simclr/method", block)) == f"params.yaml: runs.simclr.{sentence}"


def test_a_part_of_plugins_is_no_plugin(study: dict[str, Any]) -> None:
    """Shared parts, which have an underscore, cannot be named."""
    assert "there is no stages/methods/_method.py" in refused(put(study, "runs/simclr/method", {"name": "_method"}))


@pytest.mark.parametrize("width", [0, 1025, "8"])
def test_a_network_states_its_ranges_without_pydantic(study: dict[str, Any], width: Any) -> None:
    """Encoders are torch only, so they give a range as Python's `range`; it is checked like any other."""
    sentence = refused(put(study, "runs/simclr/encoder/width", width))
    assert "encoder.width: must be a whole number greater than or equal to 1 and less than 1025, not " in sentence


def test_a_spec_calls_the_plugin_with_its_arguments() -> None:
    """`make` passes what is positional on and adds what params.yaml says, groups as blocks."""
    spec = plugins.specify("encoders", {"name": "small_resnet", "width": 4, "blocks": 2}, "runs.a.encoder")
    assert (spec.kind, spec.name, spec.arguments) == ("encoders", "small_resnet", {"width": 4, "blocks": 2})
    assert spec.make().layer3[1].bn2.num_features == 16
    method = {
        "name": "simclr",
        "temperature": 1,
        "reduction": "paper",
        "projector": {"layers": 2, "hidden": 3, "out": 2, "norm": "none"},
    }
    assert plugins.specify("methods", method, "runs.a.method").arguments["projector"].hidden == 3


# ---- values


@pytest.mark.parametrize(
    ("place", "value", "says"),
    [
        (
            "runs/simclr/training/batch_size",
            "256",
            "must be a whole number greater than or equal to 1, not the text '256'",
        ),
        ("runs/simclr/training/batch_size", True, "must be a whole number greater than or equal to 1, not true"),
        ("runs/simclr/training/batch_size", 1.5, "must be a whole number greater than or equal to 1, not 1.5"),
        ("runs/simclr/training/batch_size", 256.0, "must be a whole number greater than or equal to 1, not 256.0"),
        ("runs/simclr/training/batch_size", None, "must be a whole number greater than or equal to 1, not null"),
        ("runs/simclr/training/batch_size", [256], "must be a whole number greater than or equal to 1, not [256]"),
        ("runs/simclr/training/batch_size", 0, "must be a whole number greater than or equal to 1, not 0"),
        ("runs/simclr/training/epochs", -1, "must be a whole number greater than or equal to 0, not -1"),
        ("runs/simclr/method/temperature", 0, "must be a number greater than 0, not 0"),
        ("runs/simclr/method/temperature", "0.5", "must be a number greater than 0, not the text '0.5'"),
        ("runs/simclr/method/temperature", True, "must be a number greater than 0, not true"),
        ("runs/simclr/method/temperature", float("inf"), "must be a number greater than 0, not inf"),
        ("runs/simclr/method/temperature", float("nan"), "must be a number greater than 0, not nan"),
        (
            "runs/simclr/views/flip",
            1.1,
            "must be a number greater than or equal to 0 and less than or equal to 1, not 1.1",
        ),
        ("runs/simclr/training/optimizer/nesterov", "true", "must be true or false, not the text 'true'"),
        ("runs/simclr/training/optimizer/nesterov", 1, "must be true or false, not 1"),
        ("runs/simclr/method/projector/norm", True, "must be 'none', 'hidden' or 'all', not true"),
        ("runs/simclr/method/projector/layers", 5, "greater than or equal to 1 and less than or equal to 4, not 5"),
        ("runs/simclr/method/reduction", "Paper", "must be 'paper' or 'official', not 'Paper'; did you mean 'paper'?"),
        ("runs/simclr/sees", ["images"], "must be 'images' or 'labels', not ['images']"),
        ("runs/simclr/input/mean", 0, "must be a list of 3, each a number, not 0"),
        ("runs/simclr/input/mean", [0, 0], "must be a list of 3, each a number, not [0, 0]"),
        ("runs/simclr/input/mean", [0, 0, 0, 0], "must be a list of 3, each a number, not [0, 0, 0, 0]"),
        (
            "runs/simclr/seeds",
            [],
            "must be a list of at least 1, each a whole number greater than or equal to 0, not []",
        ),
        ("runs/simclr/seeds", 0, "must be a list of at least 1, each a whole number greater than or equal to 0, not 0"),
        ("datasets/digits/subset", 0, "must be a whole number greater than or equal to 1, or null, not 0"),
        ("datasets/digits/subset", "all", "must be a whole number greater than or equal to 1, or null, not 'all'"),
        ("datasets/digits/budgets", ["1pct"], "must be a mapping, not ['1pct']"),
        ("datasets/digits/source/path", 7, "must be text, not 7"),
        ("datasets/digits/budgets/1pct/select/share", 2, "greater than 0 and less than or equal to 1, not 2"),
        ("evaluations/simclr/probes/knn/k", 0, "must be a whole number greater than or equal to 1, not 0"),
    ],
)
def test_values(study: dict[str, Any], place: str, value: Any, says: str) -> None:
    """A value of the wrong type or out of range: its place, the whole of what is accepted, what stands there."""
    sentence = refused(put(study, place, value))
    assert sentence.startswith(f"params.yaml: {place.replace('/', '.')}: ")
    assert says in sentence


@pytest.mark.parametrize(
    ("place", "value", "where"),
    [
        ("runs/simclr/seeds", [0, "1"], "runs.simclr.seeds[1]"),
        ("runs/simclr/input/std", [1, 0, 1], "runs.simclr.input.std[1]"),
        ("datasets/digits/pretrain_on", ["training"], "datasets.digits.pretrain_on[0]"),
    ],
)
def test_one_wrong_value_of_a_list(study: dict[str, Any], place: str, value: Any, where: str) -> None:
    """Of a list the refusal names the one that is wrong."""
    assert refused(put(study, place, value)).startswith(f"params.yaml: {where}: must be ")


def test_a_long_value_is_quoted_short(study: dict[str, Any]) -> None:
    """A sentence stays one that can be read."""
    assert len(refused(put(study, "runs/simclr/seeds", "x" * 5000))) < 300


def test_a_rule_between_values_speaks_for_itself(study: dict[str, Any]) -> None:
    """What a block's own check says is passed on with the place of the block."""
    sentence = refused(put(study, "datasets/digits/split/validation", 0.9))
    assert sentence == "params.yaml: datasets.digits.split: validation 0.9 and test 0.2 leave no train images"


class Group(Block):
    """A group for the tests of what is accepted."""

    span: tuple[float, float]
    counts: list[Count]


def test_what_is_accepted_arrives_as_the_types_of_the_signature() -> None:
    """An integer where a float is due, a list where a tuple is due, null where it may be; order is the signature's."""

    def plug_in(*, rate: Positive, label: Name | None, group: Group, table: dict[Name, Count]) -> None: ...

    values = {"table": {"a": 1}, "rate": 1, "group": {"span": [0, 1], "counts": [1, 2]}, "label": None}
    found = params.arguments(plug_in, values, "runs.a")
    assert list(found) == ["rate", "label", "group", "table"]
    assert found == {"rate": 1.0, "label": None, "group": Group(span=(0.0, 1.0), counts=[1, 2]), "table": {"a": 1}}
    assert isinstance(found["rate"], float)
    assert isinstance(found["group"].span, tuple)


def test_several_wrong_values_are_a_line_each() -> None:
    """Everything that is wrong in a block is said at once, each with its place."""

    def plug_in(*, rate: Positive, group: Group) -> None: ...

    with pytest.raises(ParamsError) as error:
        params.arguments(plug_in, {"rate": 0, "group": {"span": [0, "1"], "counts": 3}}, "runs.a")
    places = [line.split(": ")[1] for line in str(error.value).splitlines()]
    assert places == ["runs.a.rate", "runs.a.group.span[1]", "runs.a.group.counts"]


# ---- unions


@pytest.mark.parametrize(
    ("optimizer", "says"),
    [
        (
            {"name": "sgdd"},
            "runs.simclr.training.optimizer.name: must be 'sgd', 'lars' or 'adamw', not 'sgdd'; did you mean 'sgd'?",
        ),
        (
            {"name": "adam"},
            "runs.simclr.training.optimizer.name: must be 'sgd', 'lars' or 'adamw', not 'adam'; did you mean 'adamw'?",
        ),
        ({"name": 3}, "runs.simclr.training.optimizer.name: must be 'sgd', 'lars' or 'adamw', not 3"),
        ({"momentum": 0.9}, "runs.simclr.training.optimizer: 'name' is missing; it is 'sgd', 'lars' or 'adamw'"),
        ("sgd", "runs.simclr.training.optimizer: must be a mapping with the name 'sgd', 'lars' or 'adamw', not 'sgd'"),
        (None, "runs.simclr.training.optimizer: must be a mapping with the name 'sgd', 'lars' or 'adamw', not null"),
    ],
)
def test_a_union_that_is_told_apart_by_a_name(study: dict[str, Any], optimizer: Any, says: str) -> None:
    """The name decides which keys are taken; without a right one the names are listed."""
    assert refused(put(study, "runs/simclr/training/optimizer", optimizer)) == f"params.yaml: {says}"


@pytest.mark.parametrize(
    ("place", "value", "says"),
    [
        (
            "nesterov",
            True,
            "optimizer: unknown key 'nesterov'. It takes learning_rate, momentum, name, trust, weight_decay",
        ),
        ("trust", 0, "optimizer.trust: must be a number greater than 0, not 0"),
        (
            "trust",
            MISSING,
            "optimizer: 'trust' is missing; it takes learning_rate, momentum, name, trust, weight_decay",
        ),
    ],
)
def test_inside_a_named_union_only_its_own_block_speaks(
    study: dict[str, Any], place: str, value: Any, says: str
) -> None:
    """Of two optimizers only the one that was named complains, and its name is no part of the place."""
    assert f"runs.lars.training.{says}" in refused(put(study, f"runs/lars/training/optimizer/{place}", value))


@pytest.mark.parametrize(
    ("crop", "says"),
    [
        (3, "must be a mapping with the keys interpolation, ratio, scale; or padding, not 3"),
        ({}, "'scale', 'ratio' and 'interpolation' are missing; it takes interpolation, ratio, scale; or padding"),
        (
            {"pading": 1},
            "unknown key 'pading'; did you mean 'padding'? It takes either interpolation, ratio, scale; or padding",
        ),
        ({"padding": 1, "ratio": 1}, "unknown key 'ratio'. It takes either interpolation, ratio, scale; or padding"),
    ],
)
def test_a_union_of_blocks_lists_the_keys_of_both(study: dict[str, Any], crop: Any, says: str) -> None:
    """Where one of two groups of keys is taken, the refusal has both."""
    assert refused(put(study, "runs/simclr/views/crop", crop)) == f"params.yaml: runs.simclr.views.crop: {says}"


@pytest.mark.parametrize("value", ["Own", 1.5, 0, None, True, [0.2]])
def test_a_union_of_values_is_one_sentence(study: dict[str, Any], value: Any) -> None:
    """Where a number or a word is taken, the refusal has both, once."""
    sentence = refused(put(study, "datasets/digits/split/test", value))
    assert ".split.test: must be a number greater than 0 and less than 1, or 'own', not " in sentence


def test_a_field_may_say_in_words_what_it_accepts() -> None:
    """A pattern is no sentence: a field's description stands for it."""

    def plug_in(*, head: Annotated[str, Field(pattern="^[hz]$", description="h or z")], tail: Literal["x"]) -> None: ...

    with pytest.raises(ParamsError, match=r"^params\.yaml: runs\.a\.head: must be h or z, not 'q'$"):
        params.arguments(plug_in, {"head": "q", "tail": "x"}, "runs.a")
