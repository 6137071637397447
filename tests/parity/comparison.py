"""What was compared in a case, how far it is off, and whether that is within the recorded tolerance."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

LOSS_RTOL = 1e-5
GRADIENT_RTOL = 3e-4
GRADIENT_ATOL = 1e-6
"""Times the largest gradient sum of the model."""
VANISHING = "self.key.bias"
"""Its gradient is zero in exact arithmetic: what is recorded is rounding noise."""
NUMBERS = re.compile(r"(^|[._])(loss(_\w+)?|grad_abs_sum)$")
"""Values that must be compared; of the others a runner may also take settings."""
NOT_COMPARED = re.compile(r"_fp64$|_margin$|^(equal|maxdiff)_to_transformers")
"""Twins in float64, how far generation was from a tie, and what is said about the reference alone."""
FAILURE = re.compile(r"\w+(Error|Exception): ")
"""A call that fails in the reference."""


@dataclass
class Comparison:
    """Collects the differences between a case's expectations and what was computed.

    Attributes:
        max_abs: largest absolute difference.
        max_rel: largest difference relative to the largest expected magnitude of its array.
        tightest: part of its tolerance that the worst array uses; above 1 is a failure.
        tolerance: absolute tolerance of that array.
        max_gradient: largest relative difference of a parameter's gradient sum (`GRADIENT_RTOL` is allowed).
        differences: absolute difference of each array and number.
        read: names of the values that a runner looked at.
        problems: what falls short, in words.
        decided: recorded results that this library answers differently on purpose, each with the row of
            ``docs/differences.md`` that says why.
    """

    spec: dict[str, Any]
    arrays: dict[str, NDArray[Any]]
    max_abs: float = 0.0
    max_rel: float = 0.0
    tightest: float = 0.0
    tolerance: float = 0.0
    max_gradient: float = 0.0
    differences: dict[str, float] = field(default_factory=dict)
    read: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)
    decided: dict[str, str] = field(default_factory=dict)
    _seen: set[str] = field(default_factory=set)

    @property
    def ok(self) -> bool:
        return not self.problems

    def problem(self, name: str, text: str) -> None:
        self.problems.append(f"{name}: {text}")

    def differs(self, name: str, row: str) -> None:
        """Note a result, an array or a value, that is answered differently on purpose; `row` says why."""
        self.decided[name] = row
        self._seen.add(name)

    def mended(self, name: str, got: Tensor, row: str) -> None:
        """Note a call, if the case has it, that fails in the reference and gives the numbers `got` here."""
        if name not in self.spec.get("values", {}):
            return
        self.differs(name, row)
        if not torch.isfinite(got).all():
            self.problem(name, "not finite")

    def output(self, name: str, got: Tensor | NDArray[Any]) -> None:
        """Compare an array with the recorded output `name`."""
        self._seen.add(name)
        found = got.detach().cpu().numpy() if isinstance(got, Tensor) else np.asarray(got)
        expected = self.arrays[f"out/{name}"]
        recommended = self.spec["outputs"][name]["recommended"]
        if found.shape != expected.shape:
            self.problem(name, f"shape {found.shape}, expected {expected.shape}")
        elif recommended == "exact":
            self._exact_array(name, found, expected)
        else:
            self._close(name, found, expected, recommended["rtol"], recommended["atol"])

    def optional(self, name: str, got: Tensor | None) -> None:
        """Compare an array if the case recorded it."""
        if name in self.spec["outputs"]:
            if got is None:
                self.problem(name, "nothing was computed")
            else:
                self.output(name, got)

    def value(self, name: str, got: Tensor, terms: Tensor | None = None) -> None:
        """Compare a number with the recorded value `name`, such as a loss.

        Args:
            terms: what was added and subtracted to make it, where it may be much smaller than that. Each
                term is as exact as a loss that is no difference, and independent errors add as squares.
        """
        self._seen.add(name)
        size = 0.0 if terms is None else float(terms.detach().norm())
        found, expected = np.asarray(float(got.detach())), np.asarray(self.spec["values"][name])
        self._close(name, found, expected, LOSS_RTOL, max(0.0, LOSS_RTOL * (size - abs(float(expected)))))

    def exact(self, name: str, got: object, expected: object) -> None:
        """Compare ids, strings or other plain values."""
        self._seen.add(name)
        if got != expected:
            self.problem(name, f"{_short(got)}, expected {_short(expected)}")

    def gradients(
        self, model: nn.Module, name: str = "grad_abs_sum", terms: Mapping[str, float] | None = None
    ) -> None:
        """Compare the sum of absolute gradients of each parameter; None means that it has none.

        `terms` gives the size of what was added and subtracted to make a parameter's gradient, where that
        exceeds every sum of the model.
        """
        self._seen.add(name)
        recorded: dict[str, float | None] = self.spec["values"][name]
        largest = max((total for total in recorded.values() if total), default=0.0)
        parameters = dict(model.named_parameters(remove_duplicate=False))
        for key, expected in recorded.items():
            if key.endswith(VANISHING):
                continue
            if key not in parameters:
                self.problem(name, f"no parameter {key}")
                continue
            floor = GRADIENT_ATOL * max(largest, (terms or {}).get(key, 0.0))
            gradient = parameters[key].grad
            total = None if gradient is None else float(gradient.double().abs().sum())
            if expected is None or total is None:
                if total or expected:
                    self.problem(f"{name} {key}", f"{total}, expected {expected}")
                continue
            difference = abs(total - expected)
            if not difference <= GRADIENT_RTOL * abs(expected) + floor:
                self.problem(f"{name} {key}", f"{total:.6g}, expected {expected:.6g}")
            self.max_gradient = max(self.max_gradient, difference / (abs(expected) + floor / GRADIENT_RTOL))

    def rounding(self, name: str) -> float | None:
        """How far a recorded result is from the same in float64, where that was recorded too."""
        values = self.spec.get("values", {})
        if f"{name}_fp64" in values:
            return abs(float(values[name]) - float(values[f"{name}_fp64"]))
        recorded: float | None = self.spec.get("outputs", {}).get(name, {}).get("fp64_maxdiff")
        return recorded

    def finish(self) -> None:
        """Report recorded results that nothing was compared with."""
        values = self.spec.get("values", {})
        expected = [*self.spec.get("outputs", {}), *(n for n in values if NUMBERS.search(n))]
        settings = [name for name in values if not NUMBERS.search(name) and name not in self.read]
        for name in [*expected, *settings]:
            if name not in self._seen and not NOT_COMPARED.search(name) and not _fails(values.get(name)):
                self.problem(name, "never compared")

    def _exact_array(self, name: str, found: NDArray[Any], expected: NDArray[Any]) -> None:
        wrong = int((found != expected).sum())
        if wrong:
            self.problem(name, f"{wrong} of {expected.size} entries differ")

    def _close(
        self, name: str, found: NDArray[Any], expected: NDArray[Any], rtol: float, atol: float
    ) -> None:
        difference = np.abs(found.astype(np.float64) - expected.astype(np.float64))
        allowed = atol + rtol * np.abs(expected.astype(np.float64))
        worst = float(difference.max(initial=0.0))
        if not np.isfinite(found).all():
            self.problem(name, "not finite")
            return
        used = float(np.divide(difference, np.maximum(allowed, np.finfo(np.float64).tiny)).max(initial=0.0))
        self.max_abs = max(self.max_abs, worst)
        self.differences[name] = max(worst, self.differences.get(name, 0.0))
        largest = float(np.abs(expected).max(initial=0.0))
        self.max_rel = max(self.max_rel, worst / largest if largest else worst)
        if used >= self.tightest:
            self.tightest, self.tolerance = used, float(allowed.max(initial=0.0))
        if used > 1.0:
            self.problem(name, f"differs by {worst:.3g}, {used:.3g} times what is allowed")


def _fails(value: object) -> bool:
    """Tell whether a value is the message of a failing call, or several of them."""
    if isinstance(value, dict):
        return bool(value) and all(_fails(entry) for entry in value.values())
    return isinstance(value, str) and bool(FAILURE.match(value))


def _short(value: object, length: int = 160) -> str:
    text = repr(value.tolist() if isinstance(value, torch.Tensor) else value)
    return text if len(text) <= length else f"{text[:length]}…"
