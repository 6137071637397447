"""The comparison itself: a wrong number is reported, an exact one is not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.parity import __main__ as parity_main
from tests.parity.__main__ import main
from tests.parity.arithmetic import in_reference_order, reference_order
from tests.parity.comparison import Comparison
from tests.parity.golden import Case, cases
from tests.parity.runners import runner_of
from tests.tolerance import rounding


def comparison() -> Comparison:
    spec = {
        "outputs": {
            "hidden": {"recommended": {"rtol": 1e-4, "atol": 1e-5}},
            "ids": {"recommended": "exact"},
        },
        "values": {"loss": 2.0, "loss_fp64": 2.0, "grad_abs_sum": {"weight": 3.0, "bias": None}},
    }
    arrays = {"out/hidden": np.array([1.0, -2.0], dtype=np.float32), "out/ids": np.array([1, 2])}
    return Comparison(spec, arrays)


def layer(weight: float, bias: float | None = None) -> nn.Linear:
    model = nn.Linear(1, 1)
    model.weight.grad = torch.full_like(model.weight, weight)
    model.bias.grad = None if bias is None else torch.full_like(model.bias, bias)
    return model


def test_exact_numbers_pass() -> None:
    found = comparison()
    found.output("hidden", torch.tensor([1.0, -2.0]))
    found.output("ids", torch.tensor([1, 2]))
    found.value("loss", torch.tensor(2.0))
    found.gradients(layer(-3.0))
    found.finish()
    assert found.ok
    assert (found.max_abs, found.max_rel) == (0.0, 0.0)


def test_differences_are_measured() -> None:
    found = comparison()
    found.output("hidden", np.array([1.0, -2.0001]))
    assert found.ok
    assert found.max_abs == pytest.approx(1e-4)
    assert found.max_rel == pytest.approx(5e-5)
    assert found.tolerance == pytest.approx(2.1e-4)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("hidden", [1.0, -2.001]),
        ("hidden", [1.0, float("nan")]),
        ("hidden", [1.0]),
        ("ids", [1, 3]),
    ],
)
def test_wrong_arrays_are_reported(name: str, wrong: list[float]) -> None:
    found = comparison()
    found.output(name, np.array(wrong))
    assert len(found.problems) == 1
    assert found.problems[0].startswith(name)


def test_wrong_values_and_gradients_are_reported() -> None:
    found = comparison()
    found.value("loss", torch.tensor(2.001))
    found.exact("text", "a", "b")
    found.gradients(layer(3.01))
    found.gradients(layer(3.0, bias=0.5))
    assert [problem.split(":")[0] for problem in found.problems] == [
        "loss",
        "text",
        "grad_abs_sum weight",
        "grad_abs_sum bias",
    ]


def test_a_loss_is_as_exact_as_the_terms_it_is_the_difference_of() -> None:
    terms = torch.tensor([100.0, -98.0])
    for shift, passes in ((5e-4, True), (5e-3, False)):
        found = comparison()
        found.value("loss", terms.sum() + shift, terms)
        assert found.ok == passes
    found = comparison()
    found.value("loss", torch.tensor(2.0 + 5e-4))
    assert not found.ok


def test_a_gradient_is_as_exact_as_the_terms_it_is_the_difference_of() -> None:
    for terms, passes in ((None, False), ({"weight": 1e5}, True), ({"bias": 1e5}, False)):
        found = comparison()
        found.gradients(layer(3.01), terms=terms)
        assert found.ok == passes


def test_what_nothing_was_compared_with_is_reported() -> None:
    found = comparison()
    found.differs("hidden", "a reason")
    found.finish()
    assert found.problems == ["ids: never compared", "loss: never compared", "grad_abs_sum: never compared"]


def test_plain_values_must_at_least_be_looked_at(tmp_path: Path) -> None:
    values = {
        "stop_ids": [1],
        "greedy_min_top2_margin": 0.1,
        "reference_errors": {"long": "RuntimeError: too long"},
        "prompt": "RuntimeError is what it says",
    }
    case = Case(tmp_path / "x.json", {"case": "x", "values": values})
    case.comparison.finish()
    assert case.comparison.problems == ["stop_ids: never compared", "prompt: never compared"]
    case = Case(tmp_path / "x.json", {"case": "x", "values": values})
    assert case.values["stop_ids"] == [1]
    assert case.values.get("prompt") == values["prompt"]
    assert case.values.get("nothing") is None
    case.comparison.finish()
    assert case.comparison.ok


def test_rounding_of_the_reference() -> None:
    found = comparison()
    found.spec["values"]["loss_fp64"] = 2.5
    found.spec["outputs"]["hidden"]["fp64_maxdiff"] = 1e-6
    assert [found.rounding(name) for name in ("loss", "hidden", "ids")] == [0.5, 1e-6, None]


@pytest.mark.parametrize("scale", [None, 0.3])
@pytest.mark.parametrize("kind", ["none", "added", "bool"])
def test_attention_written_out_is_attention(scale: float | None, kind: str) -> None:
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 2, 4, 5, 8).unbind()
    seen = torch.rand(5, 5) > 0.4
    seen |= torch.eye(5, dtype=torch.bool)
    mask = {"none": None, "added": torch.randn(5, 5), "bool": seen}[kind]
    fused = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)
    assert not in_reference_order()
    with reference_order():
        assert in_reference_order()
        written = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)
    largest = float(torch.stack([value.abs().max(), fused.abs().max()]).max())
    assert torch.allclose(fused, written, atol=rounding(largest, terms=8 + 5))  # of a score, of the weights
    assert not in_reference_order()


def test_weights_follow_from_their_names(tmp_path: Path) -> None:
    entry = {"shape": [2], "dtype": "float32"}
    spec = {
        "case": "x",
        "salt": "s",
        "weight_scale": 0.5,
        "state_dict": {
            "a": entry,
            "b": entry | {"gain": True},
            "c": entry | {"alias_of": "a"},
            "d": entry | {"exception": 0.07},
            "e": {"shape": [1], "dtype": "int64"},
        },
        "inputs": {"mask": {"kind": "lengths", "lengths": [1, 3], "shape": [2, 3]}},
    }
    case = Case(tmp_path / "x.json", spec)
    weights = case.weights()
    assert list(weights) == ["a", "b", "c", "d"]
    assert torch.equal(weights["a"], weights["c"])
    assert weights["d"].tolist() == pytest.approx([0.07, 0.07])
    again = Case(tmp_path / "x.json", spec | {"salt": "t"}).weights()
    assert not torch.equal(weights["a"], again["a"])
    assert case.inputs["mask"].tolist() == [[1, 0, 0], [1, 1, 1]]


def test_a_case_without_a_runner_is_not_ok(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reference = {"file": "models/unknown.py", "cls": "Unknown"}
    assert runner_of(reference) is None
    (tmp_path / "x.json").write_text(json.dumps({"case": "x", "reference": reference}), encoding="utf-8")
    assert main([str(tmp_path)]) == 1
    assert "not run" in capsys.readouterr().out
    assert main([str(tmp_path / "nowhere")]) == 2


def test_without_arguments_it_prints_the_table_of_the_cases_here(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(parity_main, "cases", lambda folder: cases(folder)[:2])
    assert main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["case", "max", "abs", "max", "rel", "tolerance", "gradients", "1e-5", "ok"]
    assert [line.split()[0] for line in lines if line.endswith(" yes") and ":" not in line] == [
        "a1_eva_vit",
        "a4_eva_vit_rel_pos",
    ]
    assert "within the recorded tolerance: 2 yes" in lines
