"""Claims about several processes that train one encoder together, and about a batch in pieces.

- two ranks give the loss, gradients, statistics and weights of one rank with the same whole batch
- a training of two ranks, interrupted in mid-epoch, ends in the same bits
- whichever rank dies, the others end too, and rank 0 says who it was
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from rank_cases import EXAMPLES, NORMALIZATIONS, TRAINED, Outcome, all_outcomes
from torch import Tensor
from torch.distributed import TCPStore

from pipeline import params, quick

TESTS = Path(__file__).resolve().parent


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Outcome]]:
    """What came out on one rank, and on each of two."""
    folder = tmp_path_factory.mktemp("ranks")
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port)}
    shared |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": str(TESTS.parent)}
    processes = [
        subprocess.Popen(
            [sys.executable, str(TESTS / "rank_cases.py"), str(folder / str(rank))],
            env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]
    alone = all_outcomes(folder / "alone")
    assert [process.wait() for process in processes] == [0, 0]
    return [alone, *(torch.load(folder / str(rank)) for rank in range(2))]


def difference(a: Outcome, b: Outcome, smallest: float = 1e-6) -> float:
    """The largest difference of two outcomes of the same names, relative to the norm of each tensor."""
    assert a.keys() == b.keys()
    pairs = [(a[name].double(), b[name].double()) for name in a]
    return max(float((x - y).norm() / x.norm().clamp_min(smallest)) for x, y in pairs)


def gradient(outcome: Outcome) -> Tensor:
    return torch.cat([value.flatten() for name, value in outcome.items() if name.startswith("gradient.")])


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("name", ["gather", *(f"normalization {name} torch.float64" for name in NORMALIZATIONS)])
def test_parts_see_the_whole_batch(outcomes: list[dict[str, Outcome]], name: str, rank: int) -> None:
    """Gathered rows and shared normalization: values, gradients and running statistics are those of one rank."""
    assert difference(outcomes[0][name], outcomes[1 + rank][name]) < 1e-9


@pytest.mark.parametrize("name", NORMALIZATIONS)
def test_normalization_keeps_its_digits(outcomes: list[dict[str, Outcome]], name: str) -> None:
    """In single precision 1e-5, although the mean is thirty times the spread."""
    name = f"normalization {name} torch.float32"
    assert difference(outcomes[0][name], outcomes[1][name]) < 1e-5


@pytest.mark.parametrize("name", TRAINED)
def test_every_method_works_with_two_ranks(outcomes: list[dict[str, Outcome]], name: str) -> None:
    """Losses of two steps, every gradient and all that is kept are those of one rank: 1e-9 in double precision."""
    alone, one, other = (outcome[f"method {name} torch.float64"] for outcome in outcomes)
    assert difference(alone, one) < 1e-9
    assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("name", EXAMPLES)
def test_methods_keep_their_digits(outcomes: list[dict[str, Outcome]], name: str) -> None:
    """In single precision loss and gradient are those of one rank: 1e-5."""
    alone, shared = (outcome[f"method {name} torch.float32"] for outcome in outcomes[:2])
    assert float(shared["0.loss"]) == pytest.approx(float(alone["0.loss"]), rel=1e-5)
    assert (gradient(alone) - gradient(shared)).norm() < 1e-5 * gradient(alone).norm()


@pytest.mark.parametrize("pieces", [1, 2])
def test_trainings_end_alike(outcomes: list[dict[str, Outcome]], pieces: int) -> None:
    """Weights, running statistics and curves after fifteen steps, also where a batch comes in pieces."""
    name = f"training in {pieces}"
    assert difference(outcomes[0][name], outcomes[1][name]) < 1e-4
    assert difference(outcomes[1][name], outcomes[2][name]) == 0


def test_pieces_make_up_the_batch(outcomes: list[dict[str, Outcome]]) -> None:
    """Without batch normalization and negatives, four pieces train as the whole batch does, on one rank and on two."""
    whole = outcomes[0]["training without normalization in 1"]
    for outcome in outcomes:
        assert difference(whole, outcome["training without normalization in 4"]) < 1e-5
    assert difference(outcomes[0]["training in 1"], outcomes[0]["training in 2"]) > 1e-2


@pytest.mark.parametrize("rank", [0, 1])
def test_two_ranks_resume_to_the_same_bits(outcomes: list[dict[str, Outcome]], rank: int) -> None:
    """Stopped in mid-epoch by rank 0 alone, whose checkpoint is the only one, both ranks end in the same bits."""
    outcome = outcomes[1 + rank]
    assert difference(outcome["training in 1"], outcome["training interrupted"]) == 0


# ---- whichever rank dies

FAMILY = """\
import sys, time
import torch
from pipeline import ranks
from pipeline.errors import RankLost
from stages.training.distributed import agreed, joined

if ranks.rank():
    ranks.obey()
try:
    with ranks.started("pretrain@simclr", 3), joined(torch.device("cpu")):
        agreed(False)
        print("together", flush=True)
        while True:
            if ranks.rank() == 2 and sys.argv[1] == "fails":
                raise ValueError("a bug")
            agreed(False)
            time.sleep(0.02)
except RankLost as error:
    sys.exit(ranks.BEREFT if ranks.rank() else f"error: {error}")
"""


def family(how: str, root: Path) -> tuple[subprocess.Popen[str], list[psutil.Process]]:
    """Three ranks that work together without end, and the processes of the second and the third."""
    environment = os.environ | {"PYTHONPATH": str(TESTS.parent)}
    (root / "family.py").write_text(FAMILY)
    first = subprocess.Popen(
        [sys.executable, "family.py", how],
        cwd=root,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert first.stdout is not None
    assert first.stdout.readline() == "together\n"
    return first, sorted(psutil.Process(first.pid).children(), key=lambda process: process.environ()["RANK"])


@pytest.mark.parametrize(
    ("how", "status"),
    [
        ("is killed", "rank 1 of 3 was killed by SIGKILL"),
        # gloo may abort a process that leaves the others
        ("fails", "rank [12] of 3 (ended with exit status 1|was killed by SIGABRT)"),
    ],
)
def test_a_rank_that_dies_is_named_and_ends_all(tmp_path: Path, how: str, status: str) -> None:
    """Rank 0 says which rank it was, how it ended and how to go on; no process is left."""
    first, others = family(how, tmp_path)
    if how == "is killed":
        others[0].kill()
    _, said = first.communicate(timeout=60)
    if how == "is killed" or first.returncode != -signal.SIGABRT:  # gloo may abort rank 0 as well
        assert first.returncode == 1
        assert re.search(f"error: {status}, so all were stopped; `dvc repro pretrain@simclr` goes on", said)
    assert not psutil.wait_procs(others, timeout=10)[1]


def test_no_rank_outlives_rank_0(tmp_path: Path) -> None:
    """Rank 0 is killed without a chance to end the others: the kernel does. SIGTERM and SIGINT they leave to it."""
    first, others = family("is killed", tmp_path)
    for process in others:
        process.terminate()
        process.send_signal(signal.SIGINT)
    assert not psutil.wait_procs(others, timeout=1)[0]
    first.kill()
    assert not psutil.wait_procs(others, timeout=30)[1]
    first.communicate()


# ---- the command


def test_the_command_with_two_ranks_is_stopped_and_resumed_to_the_same_bytes(tmp_path: Path, root: Path) -> None:
    """`python -m stages.pretrain`, ended by SIGTERM to all its processes: the next one completes the same encoder."""
    folder = tmp_path / "project"
    quick._copy(root, folder)
    values = quick.shrink(params.read(root / "params.yaml"))
    values |= {"runs": {"simclr": values["runs"]["simclr"]}, "evaluations": {}, "finetunes": {}}
    values["hardware"] |= {"ranks": 2, "device": "cpu"}
    values["runs"]["simclr"]["training"] |= {"epochs": 8, "batch_size": 32}
    (folder / "params.yaml").write_text(json.dumps(values))
    environment = os.environ | {"CONTRAIL_TRACKING": "off", "CONTRAIL_LOCKS": str(tmp_path)}

    def start(*command: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    assert start("stages.prepare", "digits").wait() == 0
    trained = folder / "data/encoders/simclr/seed-0/encoder.safetensors"
    scratch = folder / ".scratch/pretrain@simclr"
    whole = start("stages.pretrain", "simclr")
    assert whole.wait() == 0, whole.communicate()[0]
    expected = trained.read_bytes()
    shutil.rmtree(scratch)
    trained.unlink()
    stopped = start("stages.pretrain", "simclr")
    while not list(scratch.glob("*/state/seed-0/*.pt")):
        assert stopped.poll() is None, stopped.communicate()[0]
        time.sleep(0.01)
    os.killpg(stopped.pid, signal.SIGTERM)
    said = stopped.communicate()[0]
    assert stopped.returncode == 128 + signal.SIGTERM, said
    assert "goes on from here" in said
    resumed = start("stages.pretrain", "simclr")
    assert resumed.wait() == 0, resumed.communicate()[0]
    assert trained.read_bytes() == expected
    assert not list(scratch.glob("rank-*"))
