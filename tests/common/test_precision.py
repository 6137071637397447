import pytest
import torch

from xraygpt.common.errors import ConfigError
from xraygpt.common.precision import frozen_dtype, resolve_device, resolve_precision, vision_precision

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("precision", "amp", "device", "has_bf16", "expected"),
    [
        ("auto", None, CPU, True, torch.float32),
        ("auto", True, CPU, True, torch.float32),
        ("auto", None, CUDA, True, torch.bfloat16),
        ("auto", True, CUDA, True, torch.bfloat16),
        ("auto", False, CUDA, True, torch.float32),
        ("auto", None, CUDA, False, torch.float32),
        ("auto", True, CUDA, False, torch.float16),
        ("bf16", None, CPU, False, torch.bfloat16),
        ("fp16", False, CUDA, True, torch.float16),
        ("fp32", True, CUDA, True, torch.float32),
    ],
)
def test_the_one_decision(
    monkeypatch: pytest.MonkeyPatch,
    precision: str,
    amp: bool | None,
    device: torch.device,
    has_bf16: bool,
    expected: torch.dtype,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bf16)
    decided = resolve_precision(precision, amp, device)
    assert decided.dtype is expected
    assert decided.needs_scaler == (expected is torch.float16)


def test_unknown_precision() -> None:
    with pytest.raises(
        ConfigError, match=r"run\.precision: expected one of auto, fp32, bf16, fp16, got 'fp8'"
    ):
        resolve_precision("fp8", None, CPU)


def test_autocast_changes_the_forward_pass_only_when_asked() -> None:
    layer, x = torch.nn.Linear(2, 2), torch.randn(1, 2)
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        precision = resolve_precision(name, None, CPU)
        for _ in range(2):  # a new context each time
            with precision.autocast():
                assert layer(x).dtype is dtype


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert resolve_device("auto") == CPU
    with pytest.raises(ConfigError, match="PyTorch sees 0"):
        resolve_device("cuda")
    with pytest.raises(ConfigError, match="'gpu' is not a device"):
        resolve_device("gpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("auto", local_rank=1) == torch.device("cuda", 1)
    assert resolve_device("cuda:0", local_rank=1) == torch.device("cuda", 0)
    with pytest.raises(ConfigError, match="GPU 2"):
        resolve_device("cuda", local_rank=2)


@pytest.mark.parametrize("gpu_here", [True, False])
def test_frozen_parts_follow_the_device_that_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, gpu_here: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu_here)
    for has_bf16, expected in ((True, torch.bfloat16), (False, torch.float16)):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bf16)  # noqa: B023
        assert frozen_dtype("auto", "cpu") is torch.float32
        assert frozen_dtype("auto", "cuda:0") is expected
        assert frozen_dtype("fp32", CUDA) is torch.float32
    assert (vision_precision("fp16", CPU), vision_precision("fp16", CUDA)) == ("fp32", "fp16")
    assert vision_precision("fp32", CUDA) == "fp32"
