"""The views of a plug-in as an encoder wants them: of its side, normalized."""

from collections.abc import Callable

from torch import Tensor

from pipeline.plugins import Spec, partial_of
from stages.encoders._model import Model
from stages.views._draws import Source
from stages.views._operations import Pixels


def viewer(views: Spec, model: Model) -> Callable[[Pixels, Source], list[Tensor]]:
    """A function from n images and where their draws come from to float views (n, 3, side, side)."""
    make_views = partial_of(views)
    return lambda images, source: [model.normalize(view) for view in make_views(images, source, model.side)]
