"""Stage `select`: which images to label next, as the features of one encoder see them.

    data/features/<evaluation>/seed-<seed>.npy, data/datasets/<dataset>/{labels.parquet, splits.parquet}
        → data/selections/<selection>.parquet   id, rank (1 is the best), cluster, density, score

Candidates are the train images without a label: never one of validation or test. `contrail select` makes a list to fill
in of them, `contrail label` merges it.

    python -m stages.select next
"""

from typing import Annotated

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pydantic import Field

from pipeline import paths
from pipeline.errors import Refusal
from pipeline.hardware import device_name
from pipeline.params import Count, Hardware, Name
from pipeline.plugins import plugin
from pipeline.stage import Stage, run
from stages.datasets._prepared import Prepared


def select(
    stage: Stage,
    *,
    hardware: Hardware,
    evaluation: Name,
    dataset: Name,
    seed: Annotated[int, Field(ge=0)],
    images: Count,
    select: plugin("selectors"),  # type: ignore[valid-type]  # the annotation is made from the folder
) -> None:
    """`images` of the candidates, by the features of the run's seed `seed`, which is the selector's seed, too."""
    prepared = Prepared(paths.dataset(dataset))
    train = prepared.rows("train")
    known = prepared.labels[train] >= 0
    candidates = train[~known]
    if not len(candidates):
        raise Refusal(f"every train image of {dataset} has a label: add images, there is nothing to select from")
    with stage.device():
        features = np.load(paths.features(evaluation) / f"seed-{seed}.npy", mmap_mode="r")
        device = torch.device(device_name(hardware))
        seen, other = (torch.from_numpy(features[rows]).to(device) for rows in (candidates, train[known]))
        require_finite(seen, other, f"the features of seed {seed} of {evaluation}")
        picked = select.make(seen, other, seed, images)
    rows = candidates[picked.positions.cpu().numpy()]
    print(f"{len(rows)} of {len(candidates)} train images without a label, {int(known.sum())} have one", flush=True)
    columns = {"id": prepared.ids[rows], "rank": np.arange(1, len(rows) + 1)}
    columns |= {name: getattr(picked, name).cpu().numpy() for name in ("cluster", "density", "score")}
    out = stage.out(paths.selection(stage.item))
    pq.write_table(pa.table(columns), out, compression="zstd", use_dictionary=False, store_schema=False)


def require_finite(seen: torch.Tensor, other: torch.Tensor, what: str) -> None:
    """Refusal if a feature is not: nothing is near it."""
    if not (seen.isfinite().all() and other.isfinite().all()):
        raise Refusal(f"{what} are not finite: its encoder diverged, name another seed or evaluation")


if __name__ == "__main__":
    run(select)
