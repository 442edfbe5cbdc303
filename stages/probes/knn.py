"""Weighted k nearest neighbors on the cosine (Wu et al. 2018, Unsupervised Feature Learning via Non-Parametric
Instance Discrimination, arXiv:1805.01978, §3.4): nothing is trained.

    q, x on the unit sphere       s_j = q·x_j        N = the k training images with the largest s_j
    votes_c = Σ_{j ∈ N, y_j = c} exp(s_j / T)        predicted = argmax_c votes_c

Exact, in float32, a block of queries against a block of the training images at a time. Ties are settled by position:
the earlier training image is the nearer neighbor, the lower class wins a drawn vote.
"""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from pipeline.params import Count, Positive
from stages.probes._table import JUDGED, Table, Verdict

BLOCK = 2**10, 2**16  # queries and training images at a time: 256 MiB of similarities; fewer make slower products
GROUP = 16  # columns that are passed over together where their largest value is too small


def score(table: Table, *, k: Count, temperature: Positive) -> Verdict:
    """Classes of the validation and test images, voted by the labeled training images."""
    table.require_labels()
    gallery, labels = table.examples("train")
    predictions = {
        split: predict(
            table.examples(split)[0], gallery, labels, classes=len(table.classes), k=k, temperature=temperature
        )
        for split in JUDGED
    }
    neighbors = min(k, len(gallery))
    protocol = f"weighted {neighbors}-NN, cosine, T {temperature:g}, {len(gallery)} labeled training images"
    return Verdict(protocol=protocol, labels_used=len(gallery), predictions=predictions)


def predict(queries: Tensor, gallery: Tensor, labels: Tensor, *, classes: int, k: int, temperature: float) -> Tensor:
    """The classes int64 (q,) of queries (q, d), by gallery (n, d) with labels (n,)."""
    queries, gallery = normalize(queries), normalize(gallery)
    predicted = []
    for block in queries.split(BLOCK[0]):
        similarity, rows = _searched(block, gallery, k)
        predicted.append(votes(similarity, labels[rows], classes, temperature).argmax(1))
    return torch.cat(predicted)


def _searched(queries: Tensor, gallery: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The similarities of the nearest rows of a gallery (n, d), and the rows, in their order."""
    found = [nearest(queries @ block.T, k) for block in gallery.split(BLOCK[1])]
    similarity = torch.cat([values for values, _ in found], 1)
    rows = torch.cat([columns + number * BLOCK[1] for number, (_, columns) in enumerate(found)], 1)
    similarity, chosen = nearest(similarity, k)
    return similarity, rows.gather(1, chosen)


def nearest(similarity: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The min(k, n) largest of each row of similarity (q, n), in the order of the columns: values and columns.

    Of equal values the first come in, which `torch.topk` leaves open.
    """
    k = min(k, similarity.shape[1])
    values, columns = _largest(similarity, min(k + 1, similarity.shape[1]))
    columns = columns[:, :k]
    drawn = (values[:, k - 1 : k] == values[:, k:]).any(1)  # the next one is as near as the last
    columns[drawn] = _first(similarity[drawn], values[drawn, k - 1 : k], k)
    columns = columns.sort(1).values
    return similarity.gather(1, columns), columns


def _largest(similarity: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """`similarity.topk(count)`, faster: the largest values lie in the groups of columns with the largest maxima."""
    groups, rest = divmod(similarity.shape[1], GROUP)
    if groups <= 2 * count:
        return similarity.topk(count)
    maxima = similarity[:, : groups * GROUP].unflatten(1, (GROUP, groups)).amax(1)  # a group is every groups-th column
    chosen = _largest(maxima, count)[1]
    columns = (chosen[:, :, None] + groups * torch.arange(GROUP, device=chosen.device)).flatten(1)
    last = torch.arange(rest, device=chosen.device) + groups * GROUP
    columns = torch.cat([columns, last.expand(len(columns), -1)], 1)
    values, places = similarity.gather(1, columns).topk(count)
    return values, columns.gather(1, places)


def _first(similarity: Tensor, least: Tensor, k: int) -> Tensor:
    """Columns (q, k) of the values above `least` (q, 1) and of the first of those equal to it."""
    above, level = similarity > least, similarity == least
    room = k - above.sum(1, keepdim=True)
    return (above | (level & (level.cumsum(1) <= room))).nonzero()[:, 1].view(-1, k)


def votes(similarity: Tensor, labels: Tensor, classes: int, temperature: float) -> Tensor:
    """Similarity (q, k) and labels (q, k) of the neighbors → votes (q, classes), up to one factor per query.

    The factor exp(-max s / T) keeps small temperatures inside float32.
    """
    weight = ((similarity - similarity.amax(1, keepdim=True)) / temperature).exp()
    return weight.new_zeros(len(weight), classes).scatter_add_(1, labels, weight)
