"""Any network of timm (PyTorch Image Models), with random weights; `init` brings trained ones.

Needs the package timm wherever the network is built: for training, features and fine-tuning. What is exported does not:
it holds the network as a program of torch.export.
"""

from difflib import get_close_matches
from types import MethodType
from typing import Any

from torch import nn


class Timm(nn.Module):
    """Float images (n, 3, h, w) → timm's pooled features; `arguments` go to `timm.create_model`, {} for none.

    Making one gives timm's own network, so the state_dict has timm's names. ImportError, or ValueError for a model that
    timm does not have, in one sentence.
    """

    needs = "timm"  # the package without which this file cannot be read

    def __new__(cls, *, model: str, arguments: dict[str, Any]) -> Any:
        try:
            import timm
        except ModuleNotFoundError as error:
            raise ImportError("the encoder timm needs a package: `pip install -e '.[timm]'`") from error
        if not timm.is_model(model):
            known = ", ".join(get_close_matches(model, timm.list_models(), cutoff=0.3))
            raise ValueError(f"timm has no model {model!r}; near it are {known}")
        try:
            network: Any = timm.create_model(model, pretrained=False, num_classes=0, **arguments)
        except TypeError as error:
            raise ValueError(f"timm does not make a {model} of {arguments}: {error}") from error
        network.taps = MethodType(cls.taps, network)
        return network

    def taps(self: Any) -> dict[str, nn.Module]:
        """What may be looked at on the way, from the first to the last: timm's own list, under timm's names."""
        return {info["module"]: self.get_submodule(info["module"]) for info in self.feature_info}
