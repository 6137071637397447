"""Layers of the EVA vision transformer.

Shapes: B images, N tokens (class token + patches), D = `dim`, H heads.
Parameter names are those of the published EVA / BLIP-2 weights, e.g. `attn.q_bias`, `attn.qkv.weight`.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xraygpt.common.errors import DataError

NormLayer = Callable[[int], nn.Module]


def to_pair(value: int | tuple[int, int] | list[int]) -> tuple[int, int]:
    """A (height, width) pair from one number or two."""
    if isinstance(value, int):
        return value, value
    height, width = value
    return int(height), int(width)


class DropPath(nn.Module):
    """Stochastic depth: during training drops a whole residual branch, per sample, and rescales the rest."""

    def __init__(self, drop_prob: float | None = None) -> None:
        super().__init__()
        self.drop_prob = drop_prob or 0.0

    def forward(self, x: Tensor) -> Tensor:
        if self.drop_prob == 0.0 or not self.training:
            return x
        keep = 1.0 - self.drop_prob
        shape = (x.shape[0],) + (1,) * (x.ndim - 1)
        return x * x.new_empty(shape).bernoulli_(keep).div_(keep)

    def extra_repr(self) -> str:
        return f"p={self.drop_prob}"


class Mlp(nn.Module):
    """The feed-forward half of a block: linear, activation, linear, dropout."""

    def __init__(
        self,
        in_features: int,
        hidden_features: int | None = None,
        out_features: int | None = None,
        act_layer: Callable[[], nn.Module] = nn.GELU,
        drop: float = 0.0,
    ) -> None:
        super().__init__()
        hidden = hidden_features or in_features
        self.fc1 = nn.Linear(in_features, hidden)
        self.act = act_layer()
        self.fc2 = nn.Linear(hidden, out_features or in_features)
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.fc2(self.act(self.fc1(x))))


def relative_position_index(window_size: tuple[int, int]) -> Tensor:
    """Row of the bias table for every pair of tokens, (N, N) int64 (BEiT).

    Patches are numbered by their offset in the grid; the last three rows of the table stand for
    class-to-patch, patch-to-class and class-to-class.
    """
    height, width = window_size
    rows, cols = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    coords = torch.stack([rows.flatten(), cols.flatten()])  # (2, H*W)
    offset = coords[:, :, None] - coords[:, None, :]
    num_distances = (2 * height - 1) * (2 * width - 1) + 3
    index = torch.zeros((height * width + 1,) * 2, dtype=torch.long)
    index[1:, 1:] = (offset[0] + height - 1) * (2 * width - 1) + offset[1] + width - 1
    index[0, :] = num_distances - 3
    index[:, 0] = num_distances - 2
    index[0, 0] = num_distances - 1
    return index


def bias_from_table(table: Tensor, index: Tensor) -> Tensor:
    """(H, N, N) attention bias from the (distances, H) table."""
    return table[index.flatten()].view(*index.shape, -1).permute(2, 0, 1)


class RelativePositionBias(nn.Module):
    """A relative position bias shared by all blocks. Returns (H, N, N)."""

    relative_position_index: Tensor

    def __init__(self, window_size: tuple[int, int], num_heads: int) -> None:
        super().__init__()
        self.window_size = window_size
        num_distances = (2 * window_size[0] - 1) * (2 * window_size[1] - 1) + 3
        self.relative_position_bias_table = nn.Parameter(torch.zeros(num_distances, num_heads))
        self.register_buffer("relative_position_index", relative_position_index(window_size))

    def forward(self) -> Tensor:
        return bias_from_table(self.relative_position_bias_table, self.relative_position_index)


class Attention(nn.Module):
    """Multi-head self-attention with biases on query and value only, as EVA and BEiT have it.

    A bias on the keys would shift all scores of a row alike and so change nothing.
    """

    relative_position_index: Tensor

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        qkv_bias: bool = False,
        qk_scale: float | None = None,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        window_size: tuple[int, int] | None = None,
        attn_head_dim: int | None = None,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        head_dim = attn_head_dim or dim // num_heads
        inner_dim = head_dim * num_heads
        self.scale = qk_scale or head_dim**-0.5

        self.qkv = nn.Linear(dim, inner_dim * 3, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(inner_dim)) if qkv_bias else None
        self.v_bias = nn.Parameter(torch.zeros(inner_dim)) if qkv_bias else None
        self.window_size = window_size
        self.relative_position_bias_table: nn.Parameter | None = None
        if window_size is not None:
            num_distances = (2 * window_size[0] - 1) * (2 * window_size[1] - 1) + 3
            self.relative_position_bias_table = nn.Parameter(torch.zeros(num_distances, num_heads))
            self.register_buffer("relative_position_index", relative_position_index(window_size))
        self.attn_drop = attn_drop
        self.proj = nn.Linear(inner_dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def _qkv(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        bias = None
        if self.q_bias is not None and self.v_bias is not None:
            bias = torch.cat([self.q_bias, torch.zeros_like(self.v_bias), self.v_bias])
        batch, tokens, _ = x.shape
        qkv = F.linear(x, self.qkv.weight, bias).view(batch, tokens, 3, self.num_heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each (B, H, N, head_dim)
        return query, key, value

    def forward(self, x: Tensor, rel_pos_bias: Tensor | None = None) -> Tensor:
        """`x` (B, N, D); `rel_pos_bias` (H, N, N) is added to this block's own bias, if any."""
        query, key, value = self._qkv(x)
        bias = rel_pos_bias
        if self.relative_position_bias_table is not None:
            own = bias_from_table(self.relative_position_bias_table, self.relative_position_index)
            bias = own if bias is None else own + bias
        out = F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=None if bias is None else bias.to(query.dtype).unsqueeze(0),
            dropout_p=self.attn_drop if self.training else 0.0,
            scale=self.scale,
        )
        return self.proj_drop(self.proj(out.transpose(1, 2).flatten(2)))


class Block(nn.Module):
    """Pre-norm transformer block, optionally with layer scale (`init_values`) and stochastic depth."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = False,
        qk_scale: float | None = None,
        drop: float = 0.0,
        attn_drop: float = 0.0,
        drop_path: float = 0.0,
        init_values: float | None = None,
        act_layer: Callable[[], nn.Module] = nn.GELU,
        norm_layer: NormLayer = nn.LayerNorm,
        window_size: tuple[int, int] | None = None,
        attn_head_dim: int | None = None,
    ) -> None:
        super().__init__()
        self.norm1 = norm_layer(dim)
        self.attn = Attention(
            dim,
            num_heads=num_heads,
            qkv_bias=qkv_bias,
            qk_scale=qk_scale,
            attn_drop=attn_drop,
            proj_drop=drop,
            window_size=window_size,
            attn_head_dim=attn_head_dim,
        )
        self.drop_path = DropPath(drop_path)
        self.norm2 = norm_layer(dim)
        self.mlp = Mlp(dim, hidden_features=int(dim * mlp_ratio), act_layer=act_layer, drop=drop)
        scaled = init_values is not None and init_values > 0
        self.gamma_1 = nn.Parameter(torch.full((dim,), float(init_values or 0))) if scaled else None
        self.gamma_2 = nn.Parameter(torch.full((dim,), float(init_values or 0))) if scaled else None

    def forward(self, x: Tensor, rel_pos_bias: Tensor | None = None) -> Tensor:
        attended = self.attn(self.norm1(x), rel_pos_bias=rel_pos_bias)
        x = x + self.drop_path(attended if self.gamma_1 is None else self.gamma_1 * attended)
        mixed = self.mlp(self.norm2(x))
        return x + self.drop_path(mixed if self.gamma_2 is None else self.gamma_2 * mixed)


class PatchEmbed(nn.Module):
    """Cuts an image (B, C, height, width) into patches and projects each: (B, num_patches, D)."""

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int | tuple[int, int] = 16,
        in_chans: int = 3,
        embed_dim: int = 768,
    ) -> None:
        super().__init__()
        self.img_size = to_pair(img_size)
        self.patch_size = to_pair(patch_size)
        self.patch_shape = (
            self.img_size[0] // self.patch_size[0],
            self.img_size[1] // self.patch_size[1],
        )
        self.num_patches = self.patch_shape[0] * self.patch_shape[1]
        self.proj = nn.Conv2d(in_chans, embed_dim, kernel_size=self.patch_size, stride=self.patch_size)

    def forward(self, x: Tensor) -> Tensor:
        if tuple(x.shape[-2:]) != self.img_size:
            raise DataError(
                f"the vision encoder was built for images of {self.img_size[0]}x{self.img_size[1]} pixels "
                f"and got {x.shape[-2]}x{x.shape[-1]}; set image_size of the processor and img_size of the "
                "model to the same number"
            )
        return self.proj(x).flatten(2).transpose(1, 2)
