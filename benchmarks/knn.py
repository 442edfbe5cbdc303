"""Queries a second of the exact kNN probe against faiss's flat index, with equal neighbors.

Both normalize, search the whole gallery by cosine and let the neighbors vote; ours is what the probe calls.
The features are clusters with noise, as many as CIFAR-10 has training images.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks._networks import SMALL, arguments
from benchmarks._paired import Record, compared, cores, plainly, rounds, side
from benchmarks._results import command
from pipeline.hardware import set_up
from stages.probes import knn

COMMAND = f"python -m {__spec__.name}"
CLASSES, TEMPERATURE = 10, 0.1


class Case(NamedTuple):
    """Sizes of a search."""

    gallery: int
    queries: int
    width: int
    k: int
    target: str


CASES = {
    "knn_vs_faiss": Case(50_000, 2_000, 128, 20, "≥ 0.7"),
    "knn_vs_faiss_512": Case(50_000, 2_000, 512, 200, "≥ 0.7"),
}


class Features(NamedTuple):
    """float32 (n, d) galleries and queries, int64 labels of the gallery."""

    gallery: Tensor
    labels: Tensor
    queries: Tensor


def features(case: Case) -> Features:
    """Ten clusters."""
    torch.manual_seed(0)
    centers = torch.randn(CLASSES, case.width)
    labels = torch.randint(CLASSES, (case.gallery,))
    gallery = centers[labels] + torch.randn(case.gallery, case.width)
    queries = centers[torch.randint(CLASSES, (case.queries,))] + torch.randn(case.queries, case.width)
    return Features(gallery, labels, queries)


def ours(made: Features, k: int) -> Callable[[], Tensor]:
    """The classes by the probe."""
    return lambda: knn.predict(made.queries, made.gallery, made.labels, classes=CLASSES, k=k, temperature=TEMPERATURE)


def faiss(made: Features, k: int) -> Callable[[], Tensor]:
    """The classes by faiss's neighbors."""
    import faiss as library

    library.omp_set_num_threads(torch.get_num_threads())
    normalize = torch.nn.functional.normalize

    def work() -> Tensor:
        index = library.IndexFlatIP(made.gallery.shape[1])
        index.add(normalize(made.gallery).numpy())
        similarity, rows = index.search(normalize(made.queries).numpy(), k)
        neighbors = made.labels[torch.from_numpy(rows)]
        return knn.votes(torch.from_numpy(similarity), neighbors, CLASSES, TEMPERATURE).argmax(1)

    return work


def agreement(made: Features, k: int) -> float:
    """Share of the neighbors that both find; only nearly equal distances may differ, by rounding."""
    import faiss as library

    gallery, queries = (torch.nn.functional.normalize(x) for x in (made.gallery, made.queries[:200]))
    _, rows = knn.nearest(queries @ gallery.T, k)
    index = library.IndexFlatIP(gallery.shape[1])
    index.add(gallery.numpy())
    _, found = index.search(queries.numpy(), k)
    shared = [len(np.intersect1d(a, b)) for a, b in zip(rows.numpy(), found, strict=True)]
    return sum(shared) / found.size


def measured(case: Case, count: int) -> Record:
    """One size of gallery."""
    set_up(arguments(SMALL, threads=cores(), device="cpu")["hardware"])
    made = features(case)
    equal = agreement(made, case.k)
    assert equal > 0.999, f"the neighbors are not equal: {equal}"
    sides = {
        "ours": side(case.queries, ours(made, case.k)),
        "faiss": plainly(side(case.queries, faiss(made, case.k))),
    }
    found = rounds(sides, count)
    return compared(
        found["ours"],
        found["faiss"],
        what=f"queries/s in {case.gallery:,} × {case.width} at k {case.k} over faiss's IndexFlatIP, "
        f"{100 * equal:.2f} % equal neighbors, {cores()} thread(s)",
        unit="queries/s",
        target=case.target,
        command=COMMAND,
    )


def measure(smoke: bool) -> dict[str, Record]:
    """The widths of *small* and of r18."""
    if smoke:
        return {"knn_vs_faiss": measured(Case(500, 20, 16, 5, ""), 2)}
    return {name: measured(case, 7) for name, case in CASES.items()}


if __name__ == "__main__":
    command(measure)
