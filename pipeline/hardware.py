"""The machine that a stage runs on: which device, how many threads, and what of it the bits depend on."""

import ctypes
import os
import platform
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from pipeline.errors import ParamsError
from pipeline.params import Hardware
from pipeline.ranks import local_rank
from pipeline.scratch import device_lock

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of mallopt(3)


def cores() -> int:
    """The CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def side_by_side(threads: int) -> int:
    """How many may work at once with so many threads each: more than there are cores would slow down every one."""
    return max(1, cores() // threads)


def device_name(hardware: Hardware) -> str:
    """The torch device of this rank that `hardware.device` stands for here; ParamsError if there is none."""
    import torch

    if hardware.device.startswith("cuda") and not torch.cuda.is_available():
        raise ParamsError(
            f"params.yaml: hardware.device is {hardware.device}, but torch finds no GPU here: write auto or cpu"
        )
    if hardware.device == "cuda" or (hardware.device == "auto" and torch.cuda.is_available()):
        return f"cuda:{local_rank()}"
    return "cpu" if hardware.device == "auto" else hardware.device


def set_up(hardware: Hardware) -> None:
    """Fix what the bits depend on: thread count, deterministic kernels, no TF32 where fp32 is asked for."""
    import threadpoolctl
    import torch

    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    torch.set_num_threads(hardware.threads)
    threadpoolctl.threadpool_limits(hardware.threads)
    torch.backends.cudnn.allow_tf32 = hardware.precision != "fp32"
    # what use_deterministic_algorithms sets, but for the compiler's flag, and without loading it (a second per stage)
    torch.set_deterministic_debug_mode("error" if hardware.deterministic else "default")
    # writing NaN into every new tensor is an aid against bugs: it changes no result and costs a tenth of a step
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    _keep_freed_memory()


def _keep_freed_memory() -> None:
    """Let tensors take memory that others left, not pages that the kernel has to fill with zeros (glibc).

    A fifth of a small training's time went there.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, -1)


@contextmanager
def places(hardware: Hardware, ranks: int) -> Iterator[None]:
    """Hold what `ranks` processes of this machine train on: a GPU each, or `threads` cores each.

    ParamsError if there are fewer GPUs.
    """
    name = device_name(hardware)
    if not name.startswith("cuda"):
        slots = side_by_side(hardware.threads)
        with device_lock(name, slots, min(ranks, slots)):
            yield
        return
    with ExitStack() as held:
        for gpu in sorted(_gpus(hardware, ranks)):  # in one order, or two trainings could wait for each other
            held.enter_context(device_lock(gpu, 1, 1))
        yield


def _gpus(hardware: Hardware, ranks: int) -> list[str]:
    """GPUs by their own names: what is cuda:0 depends on CUDA_VISIBLE_DEVICES."""
    import torch

    names = [device_name(hardware)] if ranks == 1 else [f"cuda:{rank}" for rank in range(ranks)]
    if ranks > torch.cuda.device_count():
        raise ParamsError(
            f"params.yaml: hardware.ranks is {ranks}, but torch finds {torch.cuda.device_count()} GPU(s) here: "
            "lower it, or write device: cpu"
        )
    return [str(torch.cuda.get_device_properties(name).uuid) for name in names]


def hardware_class(hardware: Hardware) -> dict[str, Any]:
    """Machines of one hardware class give the same bits."""
    import torch

    name = device_name(hardware)
    model = torch.cuda.get_device_name(name) if name.startswith("cuda") else cpu_model()
    return {
        "device": model,
        "instruction_set": torch.backends.cpu.get_cpu_capability(),
        "threads": hardware.threads,
        "precision": hardware.precision,
    }


def cpu_model() -> str:
    """The name of the processor, of its architecture if it has none."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
