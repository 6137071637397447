"""Compiled blocks, fused kernels: the same numbers under the same names; what is not possible is said."""

import inspect
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from transformers.models.llama import modeling_llama

from tests.models.tiny import report_model
from xraygpt.common.errors import ConfigError
from xraygpt.runners.compiling import compile_blocks, use_liger

CPU = torch.device("cpu")
BATCH = {"image": torch.ones(2, 3, 16, 16), "caption": ["Clear lungs.", "No effusion."]}


def test_compiled_blocks_compute_the_same_under_the_same_names() -> None:
    plain, compiled = report_model(), report_model()
    # The two blocks of the vision encoder, the two layers of the Q-Former and of the language model.
    assert compile_blocks(compiled, CPU, backend="eager") == 6
    assert list(compiled.state_dict()) == list(plain.state_dict())
    losses = [model(BATCH)["loss"] for model in (plain, compiled)]
    for loss in losses:
        loss.backward()
    torch.testing.assert_close(losses[1], losses[0])
    torch.testing.assert_close(compiled.llama_proj.weight.grad, plain.llama_proj.weight.grad)


def test_only_the_innermost_blocks_are_compiled() -> None:
    def stage() -> nn.ModuleList:
        return nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])

    model = nn.ModuleList([stage(), stage()])
    assert compile_blocks(model, CPU, backend="eager") == 4


def test_a_machine_without_compiler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise RuntimeError("No working C++ compiler found")

    monkeypatch.setattr(torch, "compile", refuse)
    with pytest.raises(ConfigError, match="run.compile: this machine cannot compile for cpu: No working"):
        compile_blocks(nn.Linear(1, 1), CPU)


def test_kernels_that_cannot_be_used_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model, gpu = report_model(), torch.device("cuda")
    with pytest.raises(ConfigError, match="run.kernels: liger is for GPUs, and run.device is cpu; set"):
        use_liger(model, CPU)
    with pytest.raises(ConfigError, match="run.kernels: Linear has no language model"):
        use_liger(nn.Linear(1, 1), gpu)
    monkeypatch.setitem(sys.modules, "liger_kernel", None)
    with pytest.raises(ConfigError, match=r"run.kernels: .*liger_kernel.*; run python -m pip .*liger"):
        use_liger(model, gpu)


def test_a_language_model_gets_the_kernels_of_its_kind_but_not_their_loss(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    applied: list[Any] = []
    package = ModuleType("liger_kernel.transformers")
    package.monkey_patch = SimpleNamespace(  # type: ignore[attr-defined]
        MODEL_TYPE_TO_APPLY_LIGER_FN={"llama": None},
        _apply_liger_kernel_to_instance=lambda llm, **kernels: applied.append((llm, kernels)),
    )
    monkeypatch.setitem(sys.modules, "liger_kernel", ModuleType("liger_kernel"))
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers", package)
    model = report_model()
    use_liger(model, torch.device("cuda"))
    assert applied == [(model.llama_model, {"cross_entropy": False, "fused_linear_cross_entropy": False})]
    model.llama_model.config.model_type = "opt"
    with pytest.raises(ConfigError, match="nothing for a language model of the type opt; .* knows llama"):
        use_liger(model, torch.device("cuda"))


def test_the_names_that_are_called_are_in_the_package() -> None:
    liger = pytest.importorskip("liger_kernel.transformers.monkey_patch")
    assert "llama" in liger.MODEL_TYPE_TO_APPLY_LIGER_FN
    assert callable(liger._apply_liger_kernel_to_instance)
    parameters = inspect.signature(liger.apply_liger_kernel_to_llama).parameters
    assert {"cross_entropy", "fused_linear_cross_entropy", "model"} <= set(parameters)


@pytest.mark.cuda
def test_fused_kernels_compute_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("liger_kernel")
    for name in ("apply_rotary_pos_emb", "LlamaRMSNorm", "LlamaMLP"):  # put back for the tests after this one
        monkeypatch.setattr(modeling_llama, name, getattr(modeling_llama, name))
    plain, fused = report_model().cuda(), report_model().cuda()
    samples = {**BATCH, "image": BATCH["image"].cuda()}
    expected = plain(samples)["loss"]
    use_liger(fused, torch.device("cuda"))
    torch.testing.assert_close(fused(samples)["loss"], expected, rtol=1e-4, atol=1e-5)
