"""Random images, and the shards in which they are kept."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from stages.datasets._images import Record
from stages.datasets._reading import batch, kept
from stages.datasets._storage import Encoded, decode, stored
from stages.datasets._writing import Shards, Written
from stages.prepare import write_table


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def record(pixels: np.ndarray, kind: str = "PNG", **options) -> Record:
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, kind, **options)
    return Record(decode(stream.getvalue()), stream.getvalue())


def keep(folder: Path, records: list[Record], size: int = 2**20) -> Encoded:
    """The records in shards of `size` bytes, as they are read."""
    folder.mkdir(parents=True)
    shards = Shards(folder, size, encoded=True)
    images = batch(kept(each, False) for each in records)
    lines = images.lines
    lines["shard"], lines["offset"] = shards.add(images).T
    shards.close()
    columns = Written(np.arange(len(lines)), lines, {}, encoded=True).places
    write_table(folder / "index.parquet", pa.table({"id": [f"image-{row}" for row in range(len(records))], **columns}))
    there = stored(folder)
    assert isinstance(there, Encoded)
    return there
