"""Compiled blocks: the same numbers under the same names; a machine without compiler is told so."""

from typing import Any

import pytest
import torch
from torch import nn

from tests.models.tiny import report_model
from xraygpt.common.errors import ConfigError
from xraygpt.runners.compiling import compile_blocks

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
