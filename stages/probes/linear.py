"""Multinomial logistic regression on frozen features, solved to a millionth of a nat for a whole path of penalties.

The penalty is chosen by top-1 on the validation images; of equal ones the strongest wins. What is minimized and how:
`_logistic`.
"""

from stages.probes._logistic import Penalties, classify, fit_best
from stages.probes._table import JUDGED, Table, Verdict


def score(table: Table, *, penalties: Penalties) -> Verdict:
    """Classes of the validation and test images by the penalty that does best on validation."""
    table.require_labels()
    train, val = table.examples("train"), table.examples("val")
    weight, bias, penalty = fit_best(train, val, classes=len(table.classes), penalties=penalties)
    used = len(train[1])
    return Verdict(
        protocol=(
            f"multinomial logistic regression, {used} labeled training images, {penalties.words} by top-1 on "
            f"{len(val[1])} validation images"
        ),
        labels_used=used,
        predictions={split: classify(table.examples(split)[0], weight, bias) for split in JUDGED},
        chosen={"penalty": penalty},
    )
