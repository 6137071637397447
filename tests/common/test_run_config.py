from __future__ import annotations

from typing import Any

import pytest

from xraygpt.common.errors import ConfigError
from xraygpt.common.run_config import RunConfig
from xraygpt.common.typed import build_typed


def test_defaults_obey_their_own_rules() -> None:
    assert build_typed(RunConfig, {}, where="run") == RunConfig()


def test_generation_settings_are_nested() -> None:
    assert build_typed(RunConfig, {"generate": {"num_beams": 3}}, where="run").generate.num_beams == 3


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("max_epoch", 0, "at least 1"),
        ("iters_per_epoch", 0, "at least 1"),
        ("batch_size_train", 0, "at least 1"),
        ("accum_grad_iters", 0, "at least 1"),
        ("checkpoint_steps", 0, "at least 1"),
        ("profile_steps", 0, "at least 1"),
        ("num_workers", -1, "not be negative"),
        ("warmup_steps", -1, "not be negative"),
        ("init_lr", -1e-3, "not be negative"),
        ("min_lr", 1.0, "not be larger than init_lr"),
        ("beta2", 1.0, "below 1"),
        ("grad_clip", 0.0, "must be positive"),
        ("lr_decay_rate", 0.0, "above 0"),
        ("lr_layer_decay", 1.1, "at most 1"),
        ("precision", "fp8", "expected one of"),
        ("optimizer", "sgd", "expected one of"),
        ("generate", {"num_beams": 0}, "num_beams"),
    ],
)
def test_rules(key: str, value: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        build_typed(RunConfig, {key: value}, where="run")
    assert caught.value.problems[0].startswith(f"run.{key}")


def test_loading_processes_take_the_cores_that_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(12)), raising=False)
    assert RunConfig(num_workers="auto").loading_processes() == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert RunConfig(num_workers="auto").loading_processes() == 2
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "12")
    assert RunConfig(num_workers="auto").loading_processes() == 0
    assert RunConfig(num_workers=3).loading_processes() == 3
