"""ResNet-18/34/50 (He et al. 2016, arXiv:1512.03385), torch only, with torchvision's state_dict names.

    stem ─ layer1 ─ layer2 ─ layer3 ─ layer4 ─ mean over space → (n, 512 · expansion)

`stem: cifar` is a 3×3 convolution of stride 1 without pooling, for images of about 32 pixels (SimCLR, B.9).
"""

from typing import Literal

from torch import Tensor, nn

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}


class ResNet(nn.Module):
    """Float images (n, 3, h, w) → features (n, 512) for depth 18 and 34, (n, 2048) for depth 50.

    `zero_init_residual` starts every residual branch at zero (Goyal et al. 2017), as SimCLR's own code does.
    """

    def __init__(
        self, *, depth: Literal[18, 34, 50], stem: Literal["imagenet", "cifar"], zero_init_residual: bool
    ) -> None:
        super().__init__()
        block: type[_Basic | _Bottleneck] = _Bottleneck if depth == 50 else _Basic
        kernel, stride = (7, 2) if stem == "imagenet" else (3, 1)
        self.least = 32 if stem == "imagenet" else 8  # pixels a side: one in the last stage
        self.conv1 = nn.Conv2d(3, 64, kernel, stride, kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1) if stem == "imagenet" else nn.Identity()
        first, second, third, fourth = BLOCKS[depth]
        self.layer1 = _stage(block, 64, 64, 1, first)
        self.layer2 = _stage(block, 64 * block.expansion, 128, 2, second)
        self.layer3 = _stage(block, 128 * block.expansion, 256, 2, third)
        self.layer4 = _stage(block, 256 * block.expansion, 512, 2, fourth)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if zero_init_residual:
            for module in self.modules():
                if isinstance(module, _Basic | _Bottleneck):
                    nn.init.zeros_(module.last_norm.weight)

    def forward(self, images: Tensor) -> Tensor:
        if min(images.shape[2:]) < self.least:
            height, width = images.shape[2:]
            raise ValueError(
                f"the encoder takes images of at least {self.least}×{self.least} pixels, not {height}×{width}"
            )
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
        return x.mean(dim=(2, 3))

    def taps(self) -> dict[str, nn.Module]:
        """What may be looked at on the way, from the first to the last; the mean of layer4 is the output."""
        return {"stem": self.maxpool, "layer1": self.layer1, "layer2": self.layer2, "layer3": self.layer3}


class _Block(nn.Module):
    """A residual branch beside a shortcut, which is projected where the shape changes."""

    expansion: int
    downsample: nn.Module | None
    relu: nn.Module

    def branch(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu(self.branch(x) + shortcut)


class _Basic(_Block):
    expansion = 1

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _projection(channels, width, stride)

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        return self.bn2

    def branch(self, x: Tensor) -> Tensor:
        return self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))


class _Bottleneck(_Block):
    expansion = 4

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _projection(channels, 4 * width, stride)

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        return self.bn3

    def branch(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.bn3(self.conv3(x))


def _stage(block: type[_Basic | _Bottleneck], channels: int, width: int, stride: int, blocks: int) -> nn.Sequential:
    first = block(channels, width, stride)
    return nn.Sequential(first, *(block(width * block.expansion, width, 1) for _ in range(blocks - 1)))


def _projection(channels: int, width: int, stride: int) -> nn.Module | None:
    if stride == 1 and channels == width:
        return None
    return nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width))
