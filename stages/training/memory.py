"""When a batch does not fit into the memory of its device: find out how much of it would."""

from collections.abc import Callable

import torch

from pipeline.errors import TrainingError


def exhausted(error: BaseException) -> bool:
    """Whether the error says that memory ran out, on a GPU or on the CPU, whose allocator has no type for it."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def most_that_fits(attempt: Callable[[int], object], size: int) -> int:
    """The largest half, quarter, … of `size` images for which `attempt` finds enough memory; 0 if none."""
    while size := size // 2:
        torch.cuda.empty_cache()
        try:
            attempt(size)
        except ValueError:  # one image has no batch statistics
            return 0
        except (RuntimeError, MemoryError) as error:
            if not exhausted(error):
                raise
        else:
            return size
    return 0


def out_of_memory(name: str, step: int, size: int, fits: int | None, pieces: int, kept: int) -> TrainingError:
    """The error for `size` images at once, of which `fits` do fit (None: not tried); `kept`: step of the checkpoint."""
    asked = f"{name}: memory ran out at step {step} with {size} images at once"
    if fits == 0:
        return TrainingError(f"{asked}, and no part of them fits: choose a smaller encoder or smaller views")
    tried = "half as many may fit" if fits is None else f"{fits} fit"
    more = pieces * (2 if fits is None else -(-size // fits))
    return TrainingError(
        f"{asked}; {tried}: training.accumulate {more} makes the same step in {more} pieces (negatives and batch "
        f"statistics are then those of a piece). The checkpoint of step {kept} is kept for these settings"
    )
