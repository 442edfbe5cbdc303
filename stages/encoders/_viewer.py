"""The views of a plug-in as an encoder wants them: of its side, normalized."""

from collections.abc import Callable

from torch import Tensor

from pipeline.plugins import Spec, partial_of
from stages.encoders._model import Model
from stages.views._draws import Source


def viewer(views: Spec, model: Model) -> Callable[[Tensor, Source], list[Tensor]]:
    """A function from uint8 (n, h, w, 3) and where their draws come from to float views (n, 3, side, side)."""
    make_views = partial_of(views)
    return lambda pixels, source: [model.normalize(view) for view in make_views(pixels, source, model.side)]
