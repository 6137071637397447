from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from xraygpt.common.errors import ConfigError
from xraygpt.common.typed import build_typed


@dataclass
class Inner:
    beams: int = 1

    def __post_init__(self) -> None:
        if self.beams < 1:
            raise ValueError("beams must be at least 1")


@dataclass
class Sample:
    name: str
    rate: float = 1.0
    steps: int = 1
    flag: bool = False
    choice: Literal["fp32", "bf16"] = "fp32"
    maybe: int | None = 3
    mixed: int | str = 0
    items: list[str] = field(default_factory=list)
    pair: tuple[float, float] = (0.0, 0.0)
    table: dict[str, float] = field(default_factory=dict)
    inner: Inner = field(default_factory=Inner)
    path: Path | None = None
    anything: Any = None


def errors_of(values: dict[str, Any]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        build_typed(Sample, {"name": "n", **values}, where="s")
    return caught.value.problems


def test_defaults() -> None:
    assert build_typed(Sample, {"name": "n"}) == Sample("n")


@pytest.mark.parametrize(
    ("key", "given", "expected"),
    [
        ("rate", 3, 3.0),
        ("rate", "3e-5", 3e-5),
        ("steps", 1e4, 10000),
        ("flag", True, True),
        ("choice", "bf16", "bf16"),
        ("maybe", None, None),
        ("mixed", "x", "x"),
        ("mixed", 4, 4),
        ("items", ["a", "b"], ["a", "b"]),
        ("pair", [1, 2], (1.0, 2.0)),
        ("table", {"a": 1}, {"a": 1.0}),
        ("inner", {"beams": 4}, Inner(4)),
        ("inner", None, Inner()),
        ("path", "a/b", Path("a/b")),
        ("anything", {"a": [1]}, {"a": [1]}),
    ],
)
def test_values_are_taken_in_the_type_asked_for(key: str, given: Any, expected: Any) -> None:
    value = getattr(build_typed(Sample, {"name": "n", key: given}), key)
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rate": "abc"}, "s.rate: expected float, got 'abc'"),
        ({"rate": None}, "s.rate: expected float, got null"),
        ({"rate": True}, "s.rate: expected float, got true"),
        ({"steps": 1.5}, "s.steps: expected int, got 1.5"),
        ({"steps": True}, "s.steps: expected int, got true"),
        ({"flag": 1}, "s.flag: expected bool, got 1"),
        ({"flag": "yes"}, "s.flag: expected bool, got 'yes'"),
        ({"choice": "bf"}, "s.choice: expected one of 'fp32', 'bf16', got 'bf'; did you mean 'bf16'?"),
        ({"maybe": "x"}, "s.maybe: expected int or null, got 'x'"),
        ({"mixed": 1.5}, "s.mixed: expected int or str, got 1.5"),
        ({"items": "ab"}, "s.items: expected a list of str, got 'ab'"),
        ({"items": ["a", 1]}, "s.items[1]: expected str, got 1 (put it in quotes)"),
        ({"pair": [1]}, "s.pair: expected 2 values, got 1: [1]"),
        ({"table": [1]}, "s.table: expected a mapping, got [1]"),
        ({"table": {"a": "x"}}, "s.table.a: expected float, got 'x'"),
        ({"inner": 3}, "s.inner: expected a mapping of keys, got 3"),
        ({"inner": {"beems": 3}}, "s.inner.beems: unknown key; did you mean 'beams'?"),
        ({"inner": {"beams": 0}}, "s.inner.beams: beams must be at least 1"),
        ({"stepz": 1}, "s.stepz: unknown key; did you mean 'steps'?"),
    ],
)
def test_each_mistake_has_its_message(values: dict[str, Any], message: str) -> None:
    assert errors_of(values) == [message]


def test_all_mistakes_are_reported_together() -> None:
    with pytest.raises(ConfigError) as caught:
        build_typed(Sample, {"rate": "abc", "inner": {"beams": "x"}, "qqq": 1}, where="s")
    assert caught.value.problems == [
        "s.qqq: unknown key.",
        "s.name: missing; expected str",
        "s.rate: expected float, got 'abc'",
        "s.inner.beams: expected int, got 'x'",
    ]
