"""What was compared in a case, how far it is off, and whether that is within the recorded tolerance."""

import re
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
COMPARABLE_VALUE = re.compile(r"(^|[._])(loss(_\w+)?|grad_abs_sum)$")


@dataclass
class Comparison:
    """Collects the differences between a case's expectations and what was computed.

    Attributes:
        max_abs: largest absolute difference.
        max_rel: largest difference relative to the largest expected magnitude of its array.
        tightest: part of its tolerance that the worst array uses; above 1 is a failure.
        tolerance: absolute tolerance of that array.
        problems: what falls short, in words.
        decided: recorded results that this library answers differently on purpose, with the reason.
    """

    spec: dict[str, Any]
    arrays: dict[str, NDArray[Any]]
    max_abs: float = 0.0
    max_rel: float = 0.0
    tightest: float = 0.0
    tolerance: float = 0.0
    problems: list[str] = field(default_factory=list)
    decided: dict[str, str] = field(default_factory=dict)
    _seen: set[str] = field(default_factory=set)

    @property
    def ok(self) -> bool:
        return not self.problems

    def problem(self, name: str, text: str) -> None:
        self.problems.append(f"{name}: {text}")

    def differs(self, name: str, reason: str) -> None:
        """Note a result, an array or a value, that is answered differently on purpose."""
        self.decided[name] = reason
        self._seen.add(name)

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

    def value(self, name: str, got: Tensor | float) -> None:
        """Compare a number with the recorded value `name`, such as a loss."""
        self._seen.add(name)
        number = float(got.detach()) if isinstance(got, Tensor) else got
        self._close(name, np.asarray(number), np.asarray(self.spec["values"][name]), LOSS_RTOL, 0.0)

    def exact(self, name: str, got: object, expected: object) -> None:
        """Compare ids, strings or other plain values."""
        self._seen.add(name)
        if got != expected:
            self.problem(name, f"{_short(got)}, expected {_short(expected)}")

    def gradients(self, model: nn.Module, name: str = "grad_abs_sum") -> None:
        """Compare the sum of absolute gradients of each parameter; None means that it has none."""
        self._seen.add(name)
        recorded: dict[str, float | None] = self.spec["values"][name]
        floor = GRADIENT_ATOL * max((total for total in recorded.values() if total), default=0.0)
        parameters = dict(model.named_parameters(remove_duplicate=False))
        for key, expected in recorded.items():
            if key.endswith(VANISHING):
                continue
            if key not in parameters:
                self.problem(name, f"no parameter {key}")
                continue
            gradient = parameters[key].grad
            total = None if gradient is None else float(gradient.double().abs().sum())
            if expected is None or total is None:
                if total or expected:
                    self.problem(f"{name} {key}", f"{total}, expected {expected}")
            elif abs(total - expected) > GRADIENT_RTOL * abs(expected) + floor or not np.isfinite(total):
                self.problem(f"{name} {key}", f"{total:.6g}, expected {expected:.6g}")

    def finish(self) -> None:
        """Report recorded arrays, losses and gradient sums that nothing was compared with."""
        values = [name for name in self.spec.get("values", {}) if COMPARABLE_VALUE.search(name)]
        comparable = [*self.spec.get("outputs", {}), *(n for n in values if not n.endswith("_fp64"))]
        for name in comparable:
            if name not in self._seen:
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
        largest = float(np.abs(expected).max(initial=0.0))
        self.max_rel = max(self.max_rel, worst / largest if largest else worst)
        if used >= self.tightest:
            self.tightest, self.tolerance = used, float(allowed.max(initial=0.0))
        if used > 1.0:
            self.problem(name, f"differs by {worst:.3g}, {used:.3g} times what is allowed")


def _short(value: object, length: int = 160) -> str:
    text = repr(value.tolist() if isinstance(value, torch.Tensor) else value)
    return text if len(text) <= length else f"{text[:length]}…"
