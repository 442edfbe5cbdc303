"""No network: the image itself as its features, the floor that every learned encoder must clear."""

from torch import Tensor, nn


class Pixels(nn.Module):
    """Float images (n, 3, h, w) → features (n, 3·h·w)."""

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)

    def taps(self) -> dict[str, nn.Module]:
        """Nothing is on the way."""
        return {}
