"""The linear probe on every layer, from the stem to the end of the projector (Guillotine regularization, Bordes et al.
2022, arXiv:2206.13378): where along the way is what the task needs?

    image ─ stem ─ stages … ─ pool ─ projector.1 ─ projector.2        each, averaged over the image, to a linear probe

`pool` is the encoder's output, which all other probes judge; its accuracy here is that of `linear` with the same
penalties. A projector that is better than its input, or far worse, tells that task and training disagree.
"""

from pipeline.errors import Refusal
from stages.probes._logistic import Penalties, classify, fit_best
from stages.probes._table import JUDGED, Table, Verdict


def score(table: Table, *, penalties: Penalties) -> Verdict:
    """`<tap>.top1` of every tap, from the first to the last; a penalty for each is chosen on validation."""
    table.require_labels()
    if not table.taps:
        raise Refusal(
            "the layers probe judges what every layer gives, and this evaluation kept the last one alone: "
            "set `taps: true` in its block of params.yaml"
        )
    rows = {split: table.labeled(split) for split in ("train", *JUDGED)}
    values: dict[str, dict[str, float]] = {split: {} for split in JUDGED}
    for name, features in table.taps.items():
        examples = {split: (features[at], table.labels[at]) for split, at in rows.items()}
        fitted = fit_best(examples["train"], examples["val"], classes=len(table.classes), penalties=penalties)
        for split in JUDGED:
            given, labels = examples[split]
            hits = classify(given, fitted.weight, fitted.bias) == labels
            values[split][f"{name}.top1"] = hits.double().mean().item()
    used = len(rows["train"])
    return Verdict(
        protocol=(
            f"multinomial logistic regression on every layer, averaged over the image, {used} labeled training "
            f"images, {penalties.words} by top-1 on {len(rows['val'])} validation images"
        ),
        labels_used=used,
        values=values,
    )
