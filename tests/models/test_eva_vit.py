"""The vision encoder: shapes, biases, checkpointing, interpolation, half precision."""

import pytest
import torch
from torch import nn

from xraygpt.common.errors import DataError
from xraygpt.models.eva_vit import (
    DropPath,
    VisionConfig,
    VisionTransformer,
    convert_weights_to_fp16,
    create_eva_vit_g,
    interpolate_pos_embed,
)
from xraygpt.models.key_translation import translate_eva_keys

TINY = VisionConfig(img_size=28, patch_size=14, embed_dim=32, depth=3, num_heads=4, mlp_ratio=2.0)


def tiny(**changes: object) -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer.from_config(VisionConfig(**{**TINY.__dict__, **changes}))


def image(size: int = 28, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1))


def test_one_token_per_patch_and_one_for_the_class() -> None:
    model = tiny().eval()
    out = model(image())
    assert out.shape == (2, 5, 32)
    layers = model.get_intermediate_layers(image())
    assert len(layers) == 3
    assert torch.equal(layers[-1], out)


def test_other_image_size_is_refused_by_name() -> None:
    with pytest.raises(DataError, match="28x28 pixels and got 42x42"):
        tiny()(image(42))


@pytest.mark.parametrize("kind", ["use_rel_pos_bias", "use_shared_rel_pos_bias"])
def test_relative_position_bias_changes_the_output_and_is_learnt(kind: str) -> None:
    model = tiny(**{kind: True}).eval()
    before = model(image())
    tables = [p for n, p in model.named_parameters() if n.endswith("relative_position_bias_table")]
    assert len(tables) == (3 if kind == "use_rel_pos_bias" else 1)
    with torch.no_grad():
        for table in tables:
            table.normal_(generator=torch.Generator().manual_seed(2))
    after = model(image())
    assert not torch.allclose(before, after)
    after.square().sum().backward()
    assert all(table.grad is not None and table.grad.abs().sum() > 0 for table in tables)


def test_attention_agrees_with_its_definition() -> None:
    block = tiny().blocks[0]
    attention = block.attn
    with torch.no_grad():
        attention.q_bias.normal_(generator=torch.Generator().manual_seed(3))
        attention.v_bias.normal_(generator=torch.Generator().manual_seed(4))
    x = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(5))
    bias = torch.randn(4, 5, 5, generator=torch.Generator().manual_seed(6))
    query, key, value = (part.view(2, 5, 4, 8).transpose(1, 2) for part in attention.qkv(x).chunk(3, -1))
    query = query + attention.q_bias.view(1, 4, 1, 8)
    value = value + attention.v_bias.view(1, 4, 1, 8)
    weights = (query @ key.transpose(-1, -2) / 8**0.5 + bias).softmax(-1)
    expected = attention.proj((weights @ value).transpose(1, 2).reshape(2, 5, 32))
    assert torch.allclose(attention(x, rel_pos_bias=bias), expected, atol=1e-6)


def test_gradient_checkpointing_does_not_change_gradients() -> None:
    plain, checkpointed = tiny(), tiny(use_grad_checkpoint=True)
    for model in (plain, checkpointed):
        model.train()(image()).square().sum().backward()
    for (name, a), (_, b) in zip(plain.named_parameters(), checkpointed.named_parameters(), strict=True):
        assert a.grad is not None, name
        assert torch.equal(a.grad, b.grad), name


def test_stochastic_depth_drops_whole_samples_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    drop = DropPath(0.25).train()
    out = drop(torch.ones(4000, 2, 3))
    assert out.unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    assert torch.equal(out[:, 0, 0], out[:, 1, 2])
    assert out.mean().item() == pytest.approx(1.0, abs=0.05)
    assert torch.equal(drop.eval()(torch.ones(3, 2)), torch.ones(3, 2))
    assert [block.drop_path.drop_prob for block in tiny(drop_path_rate=0.2).blocks] == [0.0, 0.1, 0.2]


def test_position_embedding_is_resized_to_another_image_size() -> None:
    small, large = tiny(), tiny(img_size=56)
    state = small.state_dict()
    interpolate_pos_embed(large, state)
    assert state["pos_embed"].shape == (1, 17, 32)
    assert torch.equal(state["pos_embed"][:, 0], small.pos_embed[:, 0])
    large.load_state_dict(state)
    same = small.state_dict()
    kept = same["pos_embed"]
    interpolate_pos_embed(small, same)
    assert same["pos_embed"] is kept
    with pytest.raises(ValueError, match="cannot be resized"):
        interpolate_pos_embed(large, {"pos_embed": torch.zeros(1, 8, 32)})


def test_half_precision_touches_linear_and_convolution_only() -> None:
    model = tiny(init_values=0.1)
    convert_weights_to_fp16(model)
    half = {name for name, p in model.named_parameters() if p.dtype == torch.float16}
    assert {name.rpartition(".")[0].rpartition(".")[2] for name in half} == {"proj", "qkv", "fc1", "fc2"}
    assert model.blocks[0].attn.q_bias.dtype == torch.float32


def test_keys_of_other_files_are_translated() -> None:
    model = tiny()
    own = model.state_dict()
    foreign = {f"visual.{k}": v for k, v in own.items() if not k.endswith(("q_bias", "v_bias"))}
    for i in range(3):
        biases = [own[f"blocks.{i}.attn.q_bias"], torch.zeros(32), own[f"blocks.{i}.attn.v_bias"]]
        foreign[f"visual.blocks.{i}.attn.qkv.bias"] = torch.cat(biases)
    foreign["visual.blocks.3.mlp.fc1.weight"] = torch.zeros(1)
    foreign["visual.head.weight"] = foreign["visual.norm.weight"] = foreign["text.weight"] = torch.zeros(1)
    translated = translate_eva_keys(foreign, depth=3)
    assert translated.keys() == own.keys()
    assert all(torch.equal(translated[k], own[k]) for k in own)
    wrapped = {f"visual_encoder.{k}": v for k, v in own.items()} | {"Qformer.x": torch.zeros(1)}
    assert translate_eva_keys(wrapped, depth=3).keys() == own.keys()


def test_full_size_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        model = create_eva_vit_g(precision="fp16")
    assert sum(p.numel() for p in model.parameters()) == 985_894_528
    assert sum(isinstance(m, nn.LayerNorm) for m in model.modules()) == 78


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"img_size": 30}, "patch_size"), ({"num_heads": 5}, "num_heads"), ({"drop_path_rate": 1.0}, "rate")],
)
def test_impossible_sizes_are_refused(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VisionConfig(**{**TINY.__dict__, **changes})
