"""Lightly's training of the same network, in a process of its own.

    PIL images → SimCLRTransform in 2 workers → two forward passes → SimCLRProjectionHead → NTXentLoss → SGD

So its own benchmark on CIFAR-10 does it, here without the trainer around it.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from benchmarks._networks import Network, arguments, photographs
from benchmarks._paired import Side, seconds

WORKERS = 2
AHEAD = 2 * WORKERS  # batches that the workers make before they are asked: not counted


class Pictures(Dataset[Any]):
    """PIL images behind a transform, as a data set of torchvision gives them."""

    def __init__(self, pixels: Any, labels: Any, transform: Any) -> None:
        from PIL import Image

        self.pictures = [Image.fromarray(image) for image in pixels]
        self.labels, self.transform = labels, transform

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, row: int) -> tuple[list[Tensor], int]:
        return self.transform(self.pictures[row]), int(self.labels[row])


class SimCLR(nn.Module):
    """Backbone and head, called once a view."""

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone, self.projection_head = backbone, head

    def forward(self, images: Tensor) -> Tensor:
        return self.projection_head(self.backbone(images).flatten(start_dim=1))


class Lightly:
    """A few steps at a time; each turn starts its workers anew, so that none works out of turn."""

    def __init__(self, network: Network, images: int, device: str, workers: int) -> None:
        from lightly.loss import NTXentLoss
        from lightly.models.modules import SimCLRProjectionHead
        from lightly.transforms import SimCLRTransform

        asked, self.device, self.bf16 = arguments(network), device, device == "cuda"
        backbone = asked["encoder"].make()
        features = backbone.eval()(torch.zeros(1, 3, 32, 32)).shape[1]
        projector = asked["method"].arguments["projector"]
        head = SimCLRProjectionHead(features, projector.hidden, projector.out)
        self.model = SimCLR(backbone, head).to(device).train()
        self.criterion = NTXentLoss()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=6e-2, momentum=0.9, weight_decay=5e-4)
        pixels, labels, _ = photographs(images)
        transform = SimCLRTransform(input_size=32, cj_strength=0.5, gaussian_blur=0.0)
        self.loader = DataLoader(
            Pictures(pixels, labels, transform),
            batch_size=network.batch,
            shuffle=True,
            drop_last=True,
            num_workers=workers,
            pin_memory=device == "cuda",
        )

    def images_a_second(self, count: int) -> float:
        """Over `count` steps, when what the workers had made ahead is used up."""
        batches = self._endless()
        self._steps(batches, AHEAD)
        took = seconds(lambda: self._steps(batches, count))
        batches.close()
        assert self.loader.batch_size is not None
        return count * self.loader.batch_size / took

    def _endless(self) -> Any:
        while True:
            yield from self.loader

    def _steps(self, batches: Any, count: int) -> None:
        for _ in range(count):
            self._step(next(batches))

    def _step(self, batch: Any) -> None:
        views = [view.to(self.device, non_blocking=True) for view in batch[0]]
        with torch.autocast(self.device, torch.bfloat16, enabled=self.bf16):
            a, b = (self.model(view) for view in views)
            loss = self.criterion(a, b)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def side(network: Network, images: int, steps: int, threads: int, device: str, workers: int) -> Side:
    """Images a second of lightly's training: the side for a process of its own."""
    torch.set_num_threads(threads)
    lightly = Lightly(network, images, device, workers)
    return lambda: lightly.images_a_second(steps)
