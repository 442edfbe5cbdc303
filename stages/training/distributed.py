"""The ranks of one training: weights, optimizer, statistics and random streams are the same in all of them.

    rank r of W ─ its rows of the batch ─ loss of the whole batch ─ backward ─ gradients summed over ranks ─ step

Every rank takes the same step, so rank 0's checkpoint is that of all. Sums are taken in one order: the same bits again.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn

from stages.networks.gathering import collective, rank, ranks


@contextmanager
def joined(device: torch.device) -> Iterator[None]:
    """All ranks, as torchrun's environment names them, are one group inside; nothing where this process is alone."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    yield
    dist.destroy_process_group()  # not after an error: the others may never answer


def own(rows: Tensor, pieces: int) -> Tensor:
    """What this rank sees of a batch that is computed in `pieces`: its share of every piece, in the batch's order."""
    return rows if ranks() == 1 else rows.view(pieces, ranks(), -1)[:, rank()].flatten()


def sum_gradients(module: nn.Module) -> None:
    """Every gradient becomes its sum over ranks, in one message."""
    if ranks() == 1:
        return
    gradients: list[Tensor] = [p.grad for p in module.parameters() if p.grad is not None]
    flat = torch.cat([g.flatten() for g in gradients])
    collective(dist.all_reduce, flat)
    parts = flat.split([g.numel() for g in gradients])
    torch._foreach_copy_(gradients, [part.view_as(g) for part, g in zip(parts, gradients, strict=True)])


def share_buffers(module: nn.Module) -> None:
    """Every buffer becomes rank 0's: another machine may have clustered to other bits."""
    if ranks() > 1:
        for buffer in module.buffers():
            collective(dist.broadcast, buffer, src=0)


def agreed(*flags: bool) -> list[bool]:
    """What any rank wants, all do, at the same step."""
    if ranks() == 1:
        return list(flags)
    wanted = torch.tensor(flags, dtype=torch.uint8)
    collective(dist.all_reduce, wanted, op=dist.ReduceOp.MAX)
    return [bool(flag) for flag in wanted]


def handed_out(content: bytes | None) -> bytes | None:
    """Rank 0's bytes, on every rank: a checkpoint need lie on one machine only."""
    if ranks() == 1:
        return content
    length = torch.tensor(-1 if content is None else len(content))
    collective(dist.broadcast, length, src=0)
    if length < 0:
        return None
    buffer = torch.empty(int(length), dtype=torch.uint8)
    if content is not None:
        buffer.copy_(torch.frombuffer(bytearray(content), dtype=torch.uint8))
    collective(dist.broadcast, buffer, src=0)
    return buffer.numpy().tobytes()
