"""Guards against a silently bad encoder: a loss that is not finite, features that have collapsed."""

from torch import Tensor

from pipeline.errors import TrainingError

COLLAPSED = 0.2  # of the spread that isotropic features have (1/√d per dimension of unit vectors)
ADVICE = "try a lower learning rate, a longer warmup, a higher temperature or a larger batch"


def not_finite(name: str, step: int, index: Tensor) -> TrainingError:
    """The error for a loss that is not finite twice at the same step."""
    images = ", ".join(map(str, index.tolist()[:16]))
    return TrainingError(
        f"{name}: the loss is not finite at step {step}, twice from the same checkpoint, so it is not the hardware. "
        f"The batch holds the images (rows) {images}{', …' if len(index) > 16 else ''}; {ADVICE}"
    )


def spread(features: Tensor) -> float:
    """Mean standard deviation per dimension of unit features (n, d), as a share of the isotropic 1/√d."""
    unit = features / features.norm(dim=1, keepdim=True).clamp_min(1e-12)
    return float(unit.std(dim=0, correction=0).mean() * features.shape[1] ** 0.5)


def collapse_warning(name: str, share: float) -> str | None:
    """A sentence if the features have collapsed, else None."""
    if share >= COLLAPSED:
        return None
    return f"warning: {name}: the features have collapsed (spread {share:.3f}, healthy above {COLLAPSED}); {ADVICE}"
