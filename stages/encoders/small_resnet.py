"""A three-stage ResNet for tiny images (He et al. 2016, section 4.2), torch only.

    3×3 stem ─ stage of width w ─ stage of 2w, stride 2 ─ stage of 4w, stride 2 ─ mean over space → (n, 4w)

Small enough for a CPU: at width 16 it takes 32×32 images, at width 32 the 8×8 digits.
"""

from typing import Annotated

from torch import Tensor, nn


class SmallResNet(nn.Module):
    """Float images (n, 3, h, w) of at least 4 pixels → features (n, 4 · width); `blocks` residual blocks a stage."""

    def __init__(self, *, width: Annotated[int, range(1, 1025)], blocks: Annotated[int, range(1, 101)]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = _stage(width, width, 1, blocks)
        self.layer2 = _stage(width, 2 * width, 2, blocks)
        self.layer3 = _stage(2 * width, 4 * width, 2, blocks)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        if min(images.shape[2:]) < 4:
            height, width = images.shape[2:]
            raise ValueError(f"the encoder takes images of at least 4×4 pixels, not {height}×{width}")
        x = self.relu(self.bn1(self.conv1(images)))
        return self.layer3(self.layer2(self.layer1(x))).mean(dim=(2, 3))

    def taps(self) -> dict[str, nn.Module]:
        """What may be looked at on the way, from the first to the last; the mean of layer3 is the output."""
        return {"stem": self.relu, "layer1": self.layer1, "layer2": self.layer2}


class _Block(nn.Module):
    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample: nn.Module | None = None
        if stride != 1 or channels != width:
            self.downsample = nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        branch = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(branch + (x if self.downsample is None else self.downsample(x)))


def _stage(channels: int, width: int, stride: int, blocks: int) -> nn.Sequential:
    first = _Block(channels, width, stride)
    return nn.Sequential(first, *(_Block(width, width, 1) for _ in range(blocks - 1)))
