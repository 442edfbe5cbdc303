"""Vision Transformer (Dosovitskiy et al. 2021, arXiv:2010.11929), torch only, with timm's state_dict names.

    patches ─ linear ┬ + position ─ blocks ─ norm ┬ class token: pool class
         class token ┘                            └ mean of the patches: pool mean → (n, width)

The sizes of the field (patch 16, side 224) are width 192, 384, 768, 1024 with 3, 6, 12, 16 heads at depth 12, 12, 12,
24; for images of 32 pixels patch 4 makes 64 of them. Checkpoints of DINO, MoCo v3, MAE, DeiT and timm have these names.
"""

from typing import Annotated, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

Number = Annotated[int, range(1, 65537)]
EPSILON = 1e-6  # of the normalizations, as in the authors' code and timm


class VisionTransformer(nn.Module):
    """Float images (n, 3, side, side) → features (n, width); each block has `heads` heads and an MLP of 4 · width."""

    def __init__(
        self,
        *,
        side: Number,
        patch: Number,
        width: Number,
        depth: Number,
        heads: Number,
        pool: Literal["class", "mean"],
    ) -> None:
        super().__init__()
        if side % patch:
            raise ValueError(f"patches of {patch} pixels do not tile images of side {side}: choose a divisor of {side}")
        if width % heads:
            raise ValueError(f"width {width} cannot be split among {heads} heads: choose a multiple of {heads}")
        self.side, self.pool = side, pool
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + (side // patch) ** 2, width))
        self.patch_embed = _Patches(patch, width)
        self.blocks = nn.Sequential(*(_Block(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, EPSILON)
        nn.init.normal_(self.cls_token, std=1e-6)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[2:] != (self.side, self.side):
            height, width = images.shape[2:]
            raise ValueError(f"the encoder takes images of {self.side}×{self.side} pixels, not {height}×{width}")
        patches = self.patch_embed(images)
        x = torch.cat([self.cls_token.expand(len(patches), -1, -1), patches], dim=1) + self.pos_embed
        x = self.norm(self.blocks(x))
        return x[:, 0] if self.pool == "class" else x[:, 1:].mean(dim=1)

    def taps(self) -> dict[str, nn.Module]:
        """What may be looked at on the way, from the first to the last."""
        return {"stem": self.patch_embed} | {f"block{k}": block for k, block in enumerate(self.blocks, 1)}


class _Patches(nn.Module):
    """Images (n, 3, h, w) → tokens (n, patches, width), row by row."""

    def __init__(self, patch: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, patch)

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(images).flatten(2).transpose(1, 2)


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, EPSILON)
        self.attn = _Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, EPSILON)
        self.mlp = _Perceptron(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, width = x.shape
        q, k, v = self.qkv(x).view(n, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4).unbind()
        return self.proj(scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, tokens, width))


class _Perceptron(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))
