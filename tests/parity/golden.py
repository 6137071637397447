"""One golden case: its weights and inputs, made again from the rules in its JSON, and what is expected.

A case is ``<name>.json`` with ``<name>.npz`` beside it. Weights are drawn from a seed that follows from the
name of the ``state_dict`` entry, inputs from their own names; expected arrays stand in the npz under
``out/``, plain values in the JSON under ``values``.
"""

import json
import re
import zlib
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tests.parity.comparison import Comparison

Array = NDArray[Any]
COMPUTED = re.compile(r"(rotary_emb\.inv_freq|position_ids|relative_position_index)$")
"""Buffers that a model computes and need not have."""


class Recorded(dict[str, Any]):
    """A case's plain values; notes the names of those that are read."""

    def __init__(self, values: dict[str, Any], read: set[str]) -> None:
        super().__init__(values)
        self._read = read

    def __getitem__(self, name: str) -> Any:
        self._read.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self._read.add(name)
        return super().get(name, default)


@dataclass
class Case:
    """A case and the comparison that a runner fills."""

    file: Path
    spec: dict[str, Any]
    comparison: Comparison = field(init=False)

    def __post_init__(self) -> None:
        self.comparison = Comparison(self.spec, self.arrays)

    @classmethod
    def read(cls, file: Path) -> "Case | None":
        """The case in a JSON file; None if the file holds something else, such as an index."""
        spec = json.loads(file.read_text(encoding="utf-8"))
        return cls(file, spec) if isinstance(spec, dict) and "case" in spec else None

    @property
    def name(self) -> str:
        return str(self.spec["case"])

    @property
    def folder(self) -> Path:
        """Where the case lies, with the tokenizers and pictures that it uses."""
        return self.file.parent

    @cached_property
    def values(self) -> Recorded:
        return Recorded(self.spec.get("values", {}), self.comparison.read)

    @property
    def constructor(self) -> dict[str, Any]:
        return dict(self.spec.get("constructor", {}))

    @property
    def outputs(self) -> dict[str, Any]:
        return dict(self.spec.get("outputs", {}))

    @cached_property
    def arrays(self) -> dict[str, Array]:
        """What the npz holds."""
        if not self.spec.get("npz"):
            return {}
        with np.load(self.folder / self.spec["npz"]) as stored:
            return {name: stored[name] for name in stored.files}

    @cached_property
    def inputs(self) -> dict[str, Tensor]:
        return {name: self._input(name, rule) for name, rule in self.spec.get("inputs", {}).items()}

    def call_number(self, pattern: str) -> float:
        """As `call_text`, a number."""
        return float(self.call_text(pattern))

    def call_numbers(self, pattern: str) -> list[int]:
        """As `call_text`, whole numbers, one for each group."""
        return [int(text) for text in self._call(pattern).groups()]

    def call_text(self, pattern: str) -> str:
        """What the only group of `pattern` finds in the description of the calls."""
        return str(self._call(pattern).group(1))

    def _call(self, pattern: str) -> re.Match[str]:
        found = re.search(pattern, "\n".join(self.spec.get("calls", [])))
        if found is None:
            raise LookupError(f"{self.name}: the calls do not say {pattern}")
        return found

    def numbered(self, pattern: str) -> list[tuple[str, int]]:
        """Outputs whose whole name matches `pattern`, with the number in its only group."""
        found = ((name, re.fullmatch(pattern, name)) for name in self.outputs)
        return [(name, int(match.group(1))) for name, match in found if match]

    def weights(self, key: str = "state_dict") -> dict[str, Tensor]:
        """The floating-point entries of a ``state_dict`` by the case's rule."""
        made: dict[str, Tensor] = {}
        for name, rule in self.spec[key].items():
            if not rule["dtype"].startswith("float"):
                continue
            if "alias_of" in rule:
                made[name] = made[rule["alias_of"]]
            elif "exception" not in rule:
                drawn = self._normal(name, tuple(rule["shape"]))
                made[name] = self.spec["weight_scale"] * drawn + (1.0 if rule.get("gain") else 0.0)
            elif isinstance(rule["exception"], float):
                made[name] = torch.full(tuple(rule["shape"]), rule["exception"])
        return made

    def load(self, model: nn.Module, key: str = "state_dict") -> None:
        """Give `model` the case's weights, in evaluation mode; names and shapes must be the reference's."""
        self.check_names(model, key)
        own = model.state_dict()
        fitting = {n: w for n, w in self.weights(key).items() if n in own and own[n].shape == w.shape}
        model.load_state_dict(fitting, strict=False)
        model.eval()

    def check_names(self, model: nn.Module, key: str = "state_dict") -> None:
        """Report entries that only one side has, and other shapes."""
        own = {n: list(w.shape) for n, w in model.state_dict().items() if not COMPUTED.search(n)}
        theirs = {n: rule["shape"] for n, rule in self.spec[key].items() if not COMPUTED.search(n)}
        for name in sorted(own.keys() | theirs.keys()):
            if own.get(name) != theirs.get(name):
                problem = f"shape {own.get(name)}, expected {theirs.get(name)}"
                self.comparison.problem(f"{key} {name}", problem)

    def _generator(self, name: str) -> torch.Generator:
        return torch.Generator().manual_seed(zlib.crc32((self.spec["salt"] + name).encode()))

    def _normal(self, name: str, shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape, generator=self._generator(name))

    def _input(self, name: str, rule: dict[str, Any]) -> Tensor:
        shape, kind = tuple(rule["shape"]), rule["kind"]
        if kind == "randn":
            return float(rule["scale"]) * self._normal(f"input:{name}", shape)
        if kind == "randint":
            low, high = rule["low"], rule["high"]
            return torch.randint(low, high, shape, generator=self._generator(f"input:{name}"))
        if kind == "lengths":
            lengths = torch.tensor(rule["lengths"]).unsqueeze(1)
            return (torch.arange(shape[1]).unsqueeze(0) < lengths).long()
        return torch.from_numpy(self.arrays[rule["npz_key"]])


def cases(folder: Path) -> list[Case]:
    """All cases of a folder, by name."""
    read = (Case.read(file) for file in sorted(folder.glob("*.json")))
    return [case for case in read if case is not None]


def plain(config: dict[str, Any], config_class: type) -> dict[str, Any]:
    """The entries of a reference configuration that a configuration class of this library knows."""
    known = config_class.__dataclass_fields__  # type: ignore[attr-defined]
    return {name: value for name, value in config.items() if name in known}
