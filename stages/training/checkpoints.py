"""Checkpoints that survive a kill at any instant: written whole or not at all, checked before they are used."""

import hashlib
import io
import time
from pathlib import Path
from typing import Any

import torch

from pipeline.scratch import write_atomically

KEEP = 2  # the newest, and the one before it in case the newest is damaged
SHARE = 0.01  # of the time that checkpoints may cost
LEAST = 5.0  # seconds between two checkpoints at the least


class Checkpoints:
    """The checkpoints of one training, `<step>.pt` with its sha256 in front, newest two kept."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._due = time.monotonic() + LEAST

    @property
    def due(self) -> bool:
        """Whether enough time has passed for another one: they cost at most SHARE of it."""
        return time.monotonic() >= self._due

    def save(self, step: int, state: dict[str, Any]) -> None:
        start = time.monotonic()
        buffer = io.BytesIO()
        torch.save(state, buffer)
        content = buffer.getvalue()
        write_atomically(self.folder / f"{step:09d}.pt", hashlib.sha256(content).digest() + content)
        for old in self._files()[:-KEEP]:
            old.unlink()
        now = time.monotonic()
        self._due = now + max(LEAST, (now - start) / SHARE)

    def newest(self) -> bytes | None:
        """The newest checkpoint that is whole, as torch wrote it, or None; a damaged one is named and passed over."""
        for file in reversed(self._files()):
            content = file.read_bytes()
            if hashlib.sha256(content[32:]).digest() == content[:32]:
                return content[32:]
            print(f"warning: {file} is damaged, going back to the checkpoint before it", flush=True)
            file.unlink()
        return None

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("*.pt"))
