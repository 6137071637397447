from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import nn

from xraygpt.common.errors import ConfigError
from xraygpt.common.optims import (
    LinearWarmupCosineLRScheduler,
    LinearWarmupStepLRScheduler,
    MuonAdamW,
    build_optimizer,
    hidden_weights,
    param_groups,
)
from xraygpt.common.run_config import RunConfig
from xraygpt.models.eva_vit import VisionConfig, VisionTransformer

settings = partial(RunConfig, init_lr=0.01, beta2=0.98)


class Toy(nn.Module):
    """Tied embedding and output layer around two hidden layers; names as in the real models."""

    def __init__(self) -> None:
        super().__init__()
        self.query_tokens = nn.Parameter(torch.randn(1, 2, 4))
        self.embed = nn.Embedding(8, 4)
        self.first = nn.Linear(4, 6)
        self.LayerNorm = nn.LayerNorm(6)
        self.ln_vision = nn.Linear(6, 6)
        self.second = nn.Linear(6, 4)
        self.lm_head = nn.Linear(4, 8, bias=False)
        self.lm_head.weight = self.embed.weight
        self.second.bias.requires_grad_(False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.ln_vision(self.LayerNorm(self.first(self.embed(ids) + self.query_tokens.mean())))
        return self.lm_head(self.second(x)).square().mean()


def sgd() -> torch.optim.Optimizer:
    return torch.optim.SGD([{"params": [nn.Parameter(torch.zeros(1))]} for _ in range(2)], lr=1.0)


def test_cosine_with_warm_up() -> None:
    optimizer = sgd()
    schedule = LinearWarmupCosineLRScheduler(
        optimizer,
        max_epoch=2,
        iters_per_epoch=10,
        min_lr=0.2,
        init_lr=1.0,
        warmup_steps=4,
        warmup_start_lr=0.0,
    )
    rates = []
    for epoch in range(2):
        for step in range(10):
            schedule.step(cur_epoch=epoch, cur_step=step)
            rates.append(optimizer.param_groups[1]["lr"])
    assert rates[:4] == pytest.approx([0.0, 0.25, 0.5, 0.75])
    assert rates[4:] == pytest.approx([0.2 + 0.4 * (1 + math.cos(math.pi * t / 20)) for t in range(4, 20)])


def test_warm_up_longer_than_an_epoch_goes_on_in_the_next() -> None:
    optimizer = sgd()
    for schedule in (
        LinearWarmupCosineLRScheduler(optimizer, 3, 10, 0.0, 1.0, warmup_steps=20, warmup_start_lr=0.0),
        LinearWarmupStepLRScheduler(
            optimizer, 3, 0.0, 1.0, warmup_steps=20, warmup_start_lr=0.0, iters_per_epoch=10
        ),
    ):
        schedule.step(cur_epoch=1, cur_step=5)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.75)


def test_negative_warm_up_rate_means_no_ramp() -> None:
    optimizer = sgd()
    LinearWarmupCosineLRScheduler(optimizer, 3, 10, 0.0, 1.0, warmup_steps=5).step(0, 0)
    assert optimizer.param_groups[0]["lr"] == 1.0


def test_step_decay_stops_at_the_minimum() -> None:
    optimizer = sgd()
    schedule = LinearWarmupStepLRScheduler(optimizer, 4, min_lr=0.2, init_lr=1.0, decay_rate=0.5)
    rates = []
    for epoch in range(4):
        schedule.step(cur_epoch=epoch, cur_step=3)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([1.0, 0.5, 0.25, 0.2])


def test_groups_follow_dimensions_and_names() -> None:
    model = Toy()
    names = {id(p): name for name, p in model.named_parameters()}
    decay, no_decay = ([names[id(p)] for p in group["params"]] for group in param_groups(model, 0.05))
    assert decay == ["query_tokens", "embed.weight", "first.weight", "second.weight"]
    assert no_decay == [
        "first.bias",
        "LayerNorm.weight",
        "LayerNorm.bias",
        "ln_vision.weight",
        "ln_vision.bias",
    ]
    assert [group["weight_decay"] for group in param_groups(model, 0.05)] == [0.05, 0.0]


def test_each_layer_of_the_vision_encoder_has_its_rate() -> None:
    vision = VisionTransformer.from_config(VisionConfig(img_size=28, embed_dim=8, depth=2, num_heads=2))
    model = nn.ModuleDict({"visual_encoder": vision, "ln_vision": nn.LayerNorm(8), "proj": nn.Linear(8, 2)})
    optimizer = build_optimizer(model, settings(lr_layer_decay=0.5))
    LinearWarmupStepLRScheduler(optimizer, max_epoch=1, min_lr=0.0, init_lr=0.08).step(0, 0)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    found = {name: rates[id(p)] for name, p in model.named_parameters()}
    expected = {"proj": 0.08, "ln_vision": 0.08, "visual_encoder.blocks.1": 0.04}
    expected |= {"visual_encoder.blocks.0": 0.02, "visual_encoder.p": 0.01, "visual_encoder.cls_token": 0.01}
    for name, rate in found.items():
        (begin,) = (begin for begin in expected if name.startswith(begin))
        assert rate == pytest.approx(expected[begin]), name
    assert [group["weight_decay"] for group in optimizer.param_groups[:2]] == [0.05, 0.0]


def test_one_rate_for_all_layers_adds_nothing_to_the_groups() -> None:
    vision = VisionTransformer.from_config(VisionConfig(img_size=28, embed_dim=8, depth=2, num_heads=2))
    assert [set(group) for group in param_groups(vision, 0.05)] == [{"params", "weight_decay"}] * 2


def test_numbers_have_no_weight_decay() -> None:
    temperature = nn.ParameterDict({"temp": nn.Parameter(torch.tensor(0.07))})
    assert [len(group["params"]) for group in param_groups(temperature, 0.05)] == [0, 1]


def test_adamw_has_the_settings() -> None:
    optimizer = build_optimizer(Toy(), settings())
    assert type(optimizer) is torch.optim.AdamW
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.05, 0.0]
    assert all(group["betas"] == (0.9, 0.98) and group["lr"] == 0.01 for group in optimizer.param_groups)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_frozen_model_is_refused(name: str) -> None:
    model = Toy().requires_grad_(False)
    with pytest.raises(ValueError, match="no trainable parameter"):
        build_optimizer(model, settings(optimizer=name))


def test_hidden_weights_leave_out_embedding_and_output() -> None:
    model = Toy()
    assert [id(p) for p in hidden_weights(model)] == [
        id(layer.weight) for layer in (model.first, model.ln_vision, model.second)
    ]


def train(model: Toy, optimizer: torch.optim.Optimizer, steps: int) -> list[float]:
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = model(torch.arange(8))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_muon_takes_each_parameter_once_and_trains() -> None:
    torch.manual_seed(0)
    model = Toy()
    optimizer = build_optimizer(model, settings(optimizer="muon"))
    assert isinstance(optimizer, MuonAdamW)
    taken = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(taken) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    frozen = model.second.bias.clone()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    losses = train(model, optimizer, 20)
    assert losses[-1] < losses[0] / 2
    assert torch.equal(model.second.bias, frozen)
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == set(before) - {"second.bias"}


def test_a_rate_set_on_the_groups_is_the_one_used() -> None:
    model = Toy()
    optimizer = build_optimizer(model, settings(optimizer="muon"))
    optimizer.load_state_dict(optimizer.state_dict())
    LinearWarmupCosineLRScheduler(optimizer, 1, 10, 0.0, 0.0).step(0, 0)
    before = [p.detach().clone() for p in model.parameters()]
    train(model, optimizer, 1)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_muon_resumes_exactly(tmp_path) -> None:
    torch.manual_seed(0)
    whole = Toy()
    optimizer = build_optimizer(whole, settings(optimizer="muon"))
    train(whole, optimizer, 3)
    torch.save({"model": whole.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "state.pth")
    expected = train(whole, optimizer, 3)

    resumed = Toy()
    optimizer = build_optimizer(resumed, settings(optimizer="muon"))
    state = torch.load(tmp_path / "state.pth", weights_only=True)
    resumed.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    assert train(resumed, optimizer, 3) == expected


def test_state_of_another_optimizer_is_refused() -> None:
    model = Toy()
    adamw = build_optimizer(model, settings())
    muon = build_optimizer(model, settings(optimizer="muon"))
    with pytest.raises(ValueError, match=r"expected \['adamw', 'muon'\]"):
        muon.load_state_dict(adamw.state_dict())


def test_parts_have_rates_of_their_own() -> None:
    model = nn.ModuleDict(
        {"llama_proj": nn.Linear(2, 2), "head": nn.Linear(2, 2), "llama_model": nn.Module()}
    )
    model["llama_model"].register_module("q", nn.ModuleDict({"lora_A": nn.Linear(2, 1, bias=False)}))
    run = RunConfig(init_lr=1e-4, warmup_steps=0, learning_rates={"llama_proj": 1e-3, "adapter": 2e-4})
    optimizer = build_optimizer(model, run)
    schedule = LinearWarmupCosineLRScheduler(
        optimizer, max_epoch=1, iters_per_epoch=4, min_lr=0.0, init_lr=1e-4
    )
    schedule.step(0, 2)  # half way: half the rate
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    rates = {names[id(p)]: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    expected = {"llama_proj": 5e-4, "head": 5e-5, "llama_model": 1e-4}
    assert rates == pytest.approx({name: expected[name.partition(".")[0]] for name in names.values()})
    with pytest.raises(ConfigError, match=r"learning_rates: bridge.*adapter, head, llama_proj"):
        build_optimizer(model, RunConfig(learning_rates={"bridge": 1e-3}))
    with pytest.raises(ValueError, match="need the optimizer 'adamw'"):
        RunConfig(learning_rates={"head": 1e-3}, optimizer="muon")
