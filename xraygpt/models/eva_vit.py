"""EVA vision transformer (EVA-CLIP ViT-g in XrayGPT and BLIP-2), without head and without final norm.

Shapes: B images, N = 1 + patches tokens, D = `embed_dim`. Paper: "EVA: Exploring the Limits of Masked
Visual Representation Learning at Scale" (Fang et al., 2022). Parameter names are those of the published
weights, e.g. `attn.q_bias`, `attn.qkv.weight`.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from timm.layers.drop import DropPath
from timm.layers.helpers import to_2tuple
from timm.layers.mlp import Mlp
from timm.layers.patch_embed import PatchEmbed as TimmPatchEmbed
from timm.layers.pos_embed import resample_abs_pos_embed
from timm.layers.pos_embed_rel import gen_relative_position_index
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from xraygpt.common.checkpoint import load_state
from xraygpt.common.errors import CheckpointError
from xraygpt.common.registry import registry
from xraygpt.models.key_translation import load_image_half, translate_eva_keys
from xraygpt.models.parts import EncoderConfig, VisionEncoder, check_size
from xraygpt.processors import Preprocessing


class BiasTable(nn.Module):
    """Base of what learns a relative position bias (BEiT): a number for each head and each offset from one
    patch to another, and three more for class to patch, patch to class and class to class.
    """

    relative_position_bias_table: nn.Parameter
    relative_position_index: Tensor
    """Row of the table for every pair of tokens, (N, N) int64."""

    def add_table(self, window_size: tuple[int, int] | None, num_heads: int) -> None:
        """Make the table for a grid of (height, width) patches; without a grid there is none."""
        self.window_size = window_size
        if window_size is None:
            self.register_parameter("relative_position_bias_table", None)
            return
        num_distances = (2 * window_size[0] - 1) * (2 * window_size[1] - 1) + 3
        self.relative_position_bias_table = nn.Parameter(torch.zeros(num_distances, num_heads))
        index = gen_relative_position_index(window_size, class_token=True)
        self.register_buffer("relative_position_index", index)

    def bias_from_table(self) -> Tensor:
        """Attention bias (H, N, N)."""
        return self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)


class RelativePositionBias(BiasTable):
    """A relative position bias shared by all blocks. Returns (H, N, N)."""

    def __init__(self, window_size: tuple[int, int], num_heads: int) -> None:
        super().__init__()
        self.add_table(window_size, num_heads)

    def forward(self) -> Tensor:
        return self.bias_from_table()


class GivenBiasLinear(nn.Linear):
    """A linear layer whose bias comes with its input."""

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        return F.linear(x, self.weight, bias)


class Attention(BiasTable):
    """Multi-head self-attention with biases on query and value only, as EVA and BEiT have it.

    A bias on the keys would shift all scores of a row alike and so change nothing.
    """

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

        self.qkv = GivenBiasLinear(dim, inner_dim * 3, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(inner_dim)) if qkv_bias else None
        self.v_bias = nn.Parameter(torch.zeros(inner_dim)) if qkv_bias else None
        self.add_table(window_size, num_heads)
        self.attn_drop = attn_drop
        self.proj = nn.Linear(inner_dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor, rel_pos_bias: Tensor | None = None) -> Tensor:
        """`x` (B, N, D); `rel_pos_bias` (H, N, N) is added to this block's own bias, if any."""
        qkv_bias = None
        if self.q_bias is not None and self.v_bias is not None:
            qkv_bias = torch.cat([self.q_bias, torch.zeros_like(self.v_bias), self.v_bias])
        qkv = self.qkv(x, qkv_bias).view(*x.shape[:2], 3, self.num_heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each (B, H, N, head_dim)
        bias = rel_pos_bias
        if self.window_size is not None:
            own = self.bias_from_table()
            bias = own if bias is None else own + bias
        mask = None if bias is None else bias.to(query.dtype).unsqueeze(0)
        dropout = self.attn_drop if self.training else 0.0
        out = F.scaled_dot_product_attention(query, key, value, mask, dropout, scale=self.scale)
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
        act_layer: type[nn.Module] = nn.GELU,
        norm_layer: Callable[[int], nn.Module] = nn.LayerNorm,
        window_size: tuple[int, int] | None = None,
        attn_head_dim: int | None = None,
    ) -> None:
        super().__init__()
        self.norm1 = norm_layer(dim)
        self.attn = Attention(dim, num_heads, qkv_bias, qk_scale, attn_drop, drop, window_size, attn_head_dim)
        self.drop_path = DropPath(drop_path)
        self.norm2 = norm_layer(dim)
        # Dropout behind its second layer alone, as in EVA.
        self.mlp = Mlp(dim, hidden_features=int(dim * mlp_ratio), act_layer=act_layer, drop=(0.0, drop))
        scale = float(init_values or 0)
        self.gamma_1 = nn.Parameter(torch.full((dim,), scale)) if scale > 0 else None
        self.gamma_2 = nn.Parameter(torch.full((dim,), scale)) if scale > 0 else None

    def forward(self, x: Tensor, rel_pos_bias: Tensor | None = None) -> Tensor:
        attended = self.attn(self.norm1(x), rel_pos_bias=rel_pos_bias)
        x = x + self.drop_path(attended if self.gamma_1 is None else self.gamma_1 * attended)
        mixed = self.mlp(self.norm2(x))
        return x + self.drop_path(mixed if self.gamma_2 is None else self.gamma_2 * mixed)


class PatchEmbed(TimmPatchEmbed):
    """Cuts an image (B, C, height, width) into patches and projects each: (B, num_patches, D)."""

    def forward(self, x: Tensor) -> Tensor:
        check_size(x, self.img_size)
        return super().forward(x)


@dataclass
class VisionConfig(EncoderConfig):
    """Sizes of the vision encoder; the defaults are the EVA-CLIP ViT-g that BLIP-2 and XrayGPT use."""

    img_size: int = 224
    """Side of the square input image, in pixels."""
    patch_size: int = 14
    """Side of a patch, in pixels."""
    in_chans: int = 3
    """Image channels."""
    embed_dim: int = 1408
    """Width D of the tokens."""
    depth: int = 39
    """Number of blocks (the 40th of the published ViT-g is left out, as in BLIP-2)."""
    num_heads: int = 16
    """Attention heads per block."""
    mlp_ratio: float = 4.3637
    """Feed-forward width divided by `embed_dim`."""
    qkv_bias: bool = True
    """Whether queries and values have a bias."""
    init_values: float | None = None
    """Start value of the layer scale; none: no layer scale."""
    use_abs_pos_emb: bool = True
    """Whether a learnt embedding is added per position."""
    use_rel_pos_bias: bool = False
    """Whether each block has its own relative position bias."""
    use_shared_rel_pos_bias: bool = False
    """Whether one relative position bias is shared by all blocks."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.img_size % self.patch_size:
            raise ValueError(f"img_size {self.img_size} is not a multiple of patch_size {self.patch_size}")
        if self.embed_dim % self.num_heads:
            raise ValueError(f"embed_dim {self.embed_dim} is not a multiple of num_heads {self.num_heads}")
        if self.layer is not None and not -self.depth <= self.layer < self.depth:
            raise ValueError(f"layer {self.layer}: there are {self.depth} blocks (depth)")


@registry.register_vision_encoder("eva_clip_g")
class VisionTransformer(VisionEncoder):
    """The encoder: (B, C, height, width) image -> (B, N, D) tokens, class token first.

    The signature is the reference's; its `num_classes`, `use_mean_pooling` and `init_scale` describe a head
    that neither it nor this encoder has, so they change nothing. `from_config` builds it from its settings.
    """

    config_class: ClassVar[type[EncoderConfig]] = VisionConfig

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        in_chans: int = 3,
        num_classes: int = 1000,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = False,
        qk_scale: float | None = None,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        norm_layer: Callable[[int], nn.Module] = nn.LayerNorm,
        init_values: float | None = None,
        use_abs_pos_emb: bool = True,
        use_rel_pos_bias: bool = False,
        use_shared_rel_pos_bias: bool = False,
        use_mean_pooling: bool = True,
        init_scale: float = 0.001,
        use_checkpoint: bool = False,
    ) -> None:
        super().__init__()
        self.image_size = to_2tuple(img_size)
        self.width = self.num_features = self.embed_dim = embed_dim
        self.preprocessing = Preprocessing(self.image_size[0])
        self.prefix_tokens, self.layer, self.identity = 1, -1, "eva_clip_g"
        self.use_checkpoint = use_checkpoint

        self.patch_embed = PatchEmbed(self.image_size, patch_size, in_chans, embed_dim)
        window = self.patch_embed.grid_size
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.num_tokens = self.patch_embed.num_patches + 1
        self.pos_embed = nn.Parameter(torch.zeros(1, self.num_tokens, embed_dim)) if use_abs_pos_emb else None
        self.pos_drop = nn.Dropout(drop_rate)
        self.rel_pos_bias = RelativePositionBias(window, num_heads) if use_shared_rel_pos_bias else None
        self.blocks = nn.ModuleList(
            Block(
                dim=embed_dim,
                num_heads=num_heads,
                mlp_ratio=mlp_ratio,
                qkv_bias=qkv_bias,
                qk_scale=qk_scale,
                drop=drop_rate,
                attn_drop=attn_drop_rate,
                drop_path=drop_path_rate * i / max(depth - 1, 1),
                norm_layer=norm_layer,
                init_values=init_values,
                window_size=window if use_rel_pos_bias else None,
            )
            for i in range(depth)
        )
        self._init_parameters()

    @classmethod
    def preprocessing_of(cls, config: VisionConfig, name: str) -> Preprocessing:
        return Preprocessing(config.img_size)

    @classmethod
    def check(cls, config: VisionConfig, name: str) -> None:
        if name:
            raise ValueError(f"vit_model: eva_clip_g takes no name behind a colon (not {name!r})")

    @classmethod
    def from_config(cls, config: VisionConfig, name: str = "") -> Self:
        """A vision encoder of these sizes, randomly initialised, float32."""
        others = ("layer", "class_tokens", "use_grad_checkpoint")
        encoder = cls(
            **{key: value for key, value in vars(config).items() if key not in others},
            use_checkpoint=config.use_grad_checkpoint,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
        )
        encoder.layer = -1 if config.layer is None else config.layer
        encoder.prefix_tokens = int(config.class_tokens)
        encoder.num_tokens = encoder.patch_embed.num_patches + encoder.prefix_tokens
        return encoder

    def layers(self) -> list[nn.Module]:
        return list(self.blocks)

    def load(self, path: Path) -> None:
        """Load an EVA-CLIP, BLIP-2, XrayGPT or own file, or a folder of Hugging Face's BLIP-2; positions are
        resized to this image size if need be."""
        state = translate_eva_keys(load_image_half(path), depth=len(self.blocks))
        try:
            interpolate_pos_embed(self, state)
        except ValueError as error:
            raise CheckpointError(f"{path} does not fit the encoder of model.vision: {error}") from error
        load_state(self, state, where=str(path))

    def _init_parameters(self) -> None:
        """Truncated normal (0.02); residual branches shrink with depth so that the sum stays bounded."""
        for parameter in (self.cls_token, self.pos_embed):
            if parameter is not None:
                nn.init.trunc_normal_(parameter, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        with torch.no_grad():
            for number, block in enumerate(self.blocks, start=1):
                assert isinstance(block, Block)
                block.attn.proj.weight.div_(math.sqrt(2.0 * number))
                block.mlp.fc2.weight.div_(math.sqrt(2.0 * number))

    def _block_outputs(self, x: Tensor) -> Iterator[Tensor]:
        x = self.patch_embed(x)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1)
        x = self.pos_drop(x if self.pos_embed is None else x + self.pos_embed)
        bias = None if self.rel_pos_bias is None else self.rel_pos_bias()
        recompute = self.use_checkpoint and torch.is_grad_enabled()
        for block in self.blocks:
            x = checkpoint(block, x, bias, use_reentrant=False) if recompute else block(x, bias)
            yield x

    def layers_to_output(self, name: str) -> int:
        # A bias table shared by all blocks counts as the last block's, as in BEiT and LAVIS.
        return 1 if name.startswith("rel_pos_bias.") else super().layers_to_output(name)

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, C, height, width) -> (B, N, D), the output of the last block or of the one asked for."""
        wanted = range(len(self.blocks))[self.layer]
        output = next(islice(self._block_outputs(x), wanted, None))
        return output[:, 1 - self.prefix_tokens :]

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, height, width) -> (B, N, D). Raises DataError for another image size than built for."""
        return self.forward_features(x)

    def get_intermediate_layers(self, x: Tensor) -> list[Tensor]:
        """The (B, N, D) output of every block, first to last."""
        return list(self._block_outputs(x))


def interpolate_pos_embed(model: VisionTransformer, checkpoint_model: dict[str, Tensor]) -> None:
    """Resize `checkpoint_model["pos_embed"]`, if there is one, to the patch grid of `model` (bicubic).

    Its own grid is taken to be square; the class token's embedding is kept as it is.
    """
    source = checkpoint_model.get("pos_embed")
    if source is None or model.pos_embed is None:
        return
    grid = list(model.patch_embed.grid_size)
    tokens, width = source.shape[-2:] if source.dim() == 3 else (0, 0)
    side = math.isqrt(max(tokens - 1, 0))
    if [side, side] == grid:
        return
    if not side or side * side + 1 != tokens or width != model.embed_dim:
        raise ValueError(
            f"a position embedding of shape {tuple(source.shape)} cannot be resized to "
            f"{tuple(model.pos_embed.shape)}: it needs a square patch grid and width {model.embed_dim}"
        )
    checkpoint_model["pos_embed"] = resample_abs_pos_embed(source, grid, [side, side], antialias=False)


def convert_weights_to_fp16(model: nn.Module) -> None:
    """Make weights and biases of convolutions and linear layers float16; everything else stays float32."""
    for module in model.modules():
        if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Linear)):
            module.half()


def create_eva_vit_g(
    img_size: int = 224, drop_path_rate: float = 0.4, use_checkpoint: bool = False, precision: str = "fp16"
) -> VisionTransformer:
    """The ViT-g of BLIP-2 and XrayGPT (986 M parameters), random; "fp16": `convert_weights_to_fp16`."""
    cfg = VisionConfig(img_size=img_size, drop_path_rate=drop_path_rate, use_grad_checkpoint=use_checkpoint)
    model = VisionTransformer.from_config(cfg)
    if precision == "fp16":
        convert_weights_to_fp16(model)
    return model
