"""The configuration of a run: YAML files and ``--options`` turned into typed, checked values.

Rank, from low to high: the defaults of the config dataclasses, the model's default YAML, the data sets'
default YAMLs, the user's YAML, ``--options``. A file has the sections `model`, `datasets`, `run` and, for
the processors that go with a model, `preprocess`. Each section is checked against the dataclass beside the
class it configures (`config_class`), and all problems are reported together.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from xraygpt.common.errors import ConfigError, UnknownNameError, did_you_mean
from xraygpt.common.merge import OPTIONS, Layer, load_yaml, merge_files, merge_layers, parse_options
from xraygpt.common.paths import package_root
from xraygpt.common.registry import registry
from xraygpt.common.typed import Problem, build_typed, collect

__all__ = ["Config", "build_typed", "default_layer", "merge_files"]

SECTIONS = ("model", "datasets", "run", "preprocess")
PROCESSOR_KINDS = ("vis_processor", "text_processor")
MODEL_SELECTORS = ("arch", "model_type")
"""Keys of the section ``model`` that choose its class and its file of defaults."""

logger = logging.getLogger(__name__)


class CommandLine(Protocol):
    """What `Config` reads from the parsed command line (an `argparse.Namespace` will do)."""

    cfg_path: str
    options: list[str] | None


class Config:
    """The merged and checked configuration.

    Args:
        args: `cfg_path`, the user's YAML file, and `options`, a list of ``a.b=c`` or None.

    Raises:
        ConfigError: with every problem found, each with its key and the file it comes from.
        MissingFileError: `cfg_path` does not exist.
    """

    def __init__(self, args: CommandLine) -> None:
        user = _with_empty_sections(load_yaml(args.cfg_path))
        options = _with_empty_sections(parse_options(args.options))
        self._problems: list[Problem] = []
        self._layers: list[Layer] = [user, options]
        wanted = merge_layers(self._layers)
        self._check_sections(wanted)
        self._layers = [*self._model_layers(wanted), *self._dataset_layers(wanted), user, options]
        merged = merge_layers(self._layers)
        self._wanted = wanted
        self._preprocess = self._checked_preprocess(merged)
        self._run = self._typed_run(merged, default_output=f"output/{Path(args.cfg_path).stem}")
        self._model = self._typed_model(merged)
        self._datasets = self._typed_datasets(merged)
        if self._problems:
            raise ConfigError([f"{problem} ({self._origin(problem.key)})" for problem in self._problems])

    @property
    def run_cfg(self) -> Any:
        """The `run` section, an instance of the runner's `config_class`."""
        return self._run

    @property
    def model_cfg(self) -> Any:
        """The `model` section, an instance of the model's `config_class`."""
        return self._model

    @property
    def datasets_cfg(self) -> dict[str, Any]:
        """For each data set's name an instance of its builder's `config_class`."""
        return self._datasets

    @property
    def preprocess_cfg(self) -> dict[str, Any]:
        """The model's default processors: {"vis_processor": {"train": {"name": …}, "eval": …}, …}."""
        return self._preprocess

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values; written to YAML and read again, it gives the same config."""
        model = {"arch": self._arch, "model_type": self._model_type} | _plain(self._model)
        datasets = {name: _plain(section) for name, section in self._datasets.items()}
        return {
            "run": _plain(self._run),
            "model": {key: value for key, value in model.items() if value is not None or key != "model_type"},
            "datasets": datasets,
            "preprocess": self._preprocess,
        }

    def pretty_print(self) -> None:
        """Write the whole configuration to the log."""
        for section, values in self.to_dict().items():
            logger.info("%s: %s", section, json.dumps(values, indent=2, ensure_ascii=False))

    # Sections and default files

    def _check_sections(self, wanted: dict[str, Any]) -> None:
        for key, value in wanted.items():
            if key not in SECTIONS:
                self._problem(key, f"unknown section{did_you_mean(str(key), SECTIONS)}")
            elif not isinstance(value, Mapping):
                self._problem(key, f"expected a mapping of keys, got {value!r}")

    def _model_layers(self, wanted: dict[str, Any]) -> list[Layer]:
        section = _section(wanted, "model")
        self._arch: str | None = section.get("arch")
        self._model_type: str | None = section.get("model_type")
        self._model_class: Any = None
        if self._arch is None:
            self._problem("model.arch", "missing; expected the registered name of a model")
            return []
        try:
            self._model_class = registry.get_model_class(self._arch)
        except UnknownNameError as error:
            self._problem("model.arch", str(error))
            return []
        known = self._model_class.PRETRAINED_MODEL_CONFIG_DICT
        required = getattr(self._model_class, "MODEL_TYPE_REQUIRED", True)
        if self._model_type is None and known and required:
            self._problem("model.model_type", f"missing; expected one of {', '.join(sorted(known))}")
        elif self._model_type is not None and self._model_type not in known:
            self._problem(
                "model.model_type",
                f"{self._arch} has no type '{self._model_type}'{did_you_mean(self._model_type, known)} "
                f"Known: {', '.join(sorted(known))}.",
            )
        elif self._model_type is not None:
            return [default_layer(known[self._model_type])]
        return []

    def _dataset_layers(self, wanted: dict[str, Any]) -> list[Layer]:
        layers: list[Layer] = []
        self._builders: dict[str, Any] = {}
        for name, section in _section(wanted, "datasets").items():
            key = f"datasets.{name}"
            if not isinstance(section, Mapping):
                self._problem(key, f"expected a mapping of keys, got {section!r}")
                continue
            try:
                builder = registry.get_builder_class(name)
            except UnknownNameError as error:
                self._problem(key, str(error))
                continue
            known = builder.DATASET_CONFIG_DICT
            choice = section.get("type", "default")
            if choice in known:
                self._builders[name] = builder
                layers.append(default_layer(known[choice]))
            else:
                self._problem(f"{key}.type", f"no type '{choice}'{did_you_mean(str(choice), known)}")
        return layers

    # Typed sections

    def _typed_run(self, merged: dict[str, Any], default_output: str) -> Any:
        section = {"output_dir": default_output, **_section(merged, "run")}
        try:
            runner = registry.get_runner_class(section.get("runner") or "runner_base")
        except UnknownNameError as error:
            self._problem("run.runner", str(error))
            return None
        instance = collect(runner.config_class, section, "run", self._problems)
        for key, look_up in (
            ("task", registry.get_task_class),
            ("lr_sched", registry.get_lr_scheduler_class),
        ):
            if instance is not None:
                try:
                    look_up(getattr(instance, key))
                except UnknownNameError as error:
                    self._problem(f"run.{key}", str(error))
        return instance

    def _typed_model(self, merged: dict[str, Any]) -> Any:
        if self._model_class is None:
            return None
        section = without_selectors(_section(merged, "model"), MODEL_SELECTORS)
        return collect(self._model_class.config_class, section, "model", self._problems)

    def _typed_datasets(self, merged: dict[str, Any]) -> dict[str, Any]:
        typed: dict[str, Any] = {}
        for name, builder in self._builders.items():
            key = f"datasets.{name}"
            section = dict(_section(_section(merged, "datasets"), name))
            for kind in PROCESSOR_KINDS:
                own = section.get(kind)
                if own is not None and not isinstance(own, Mapping):
                    self._problem(f"{key}.{kind}", f"expected a mapping of train and eval, got {own!r}")
                    own = None
                own = self._checked_processors(own or {}, f"{key}.{kind}")
                section[kind] = self._completed(name, kind, own)
            section = without_selectors(section, ("type",))
            typed[name] = collect(builder.config_class, section, key, self._problems)
        return typed

    # Processors

    def _completed(self, dataset: str, kind: str, own: dict[str, Any]) -> dict[str, Any]:
        """Return a data set's processors, with the model's defaults for what the user leaves open.

        A user's processor for training decides about evaluation too: without one of the user's for that,
        none is given here, and the data set's builder derives it.
        """
        chosen = _section(_section(_section(self._wanted, "datasets"), dataset), kind)
        if chosen.get("train") is not None and chosen.get("eval") is None:
            return {"train": own.get("train", {})}
        return dict(self._preprocess.get(kind, {})) | own

    def _checked_preprocess(self, merged: dict[str, Any]) -> dict[str, Any]:
        checked: dict[str, Any] = {}
        for kind, splits in _section(merged, "preprocess").items():
            key = f"preprocess.{kind}"
            if kind not in PROCESSOR_KINDS:
                self._problem(key, f"unknown key{did_you_mean(str(kind), PROCESSOR_KINDS)}")
            elif splits is not None and not isinstance(splits, Mapping):
                self._problem(key, f"expected a mapping of train and eval, got {splits!r}")
            else:
                checked[kind] = self._checked_processors(splits or {}, key)
        return checked

    def _checked_processors(self, splits: Mapping[str, Any], where: str) -> dict[str, Any]:
        return {
            split: self._checked_processor(node, f"{where}.{split}")
            for split, node in splits.items()
            if node is not None
        }

    def _checked_processor(self, node: Any, key: str) -> dict[str, Any]:
        if not isinstance(node, Mapping) or not isinstance(node.get("name"), str):
            self._problem(f"{key}.name", "missing; expected the registered name of a processor")
            return {}
        try:
            processor = registry.get_processor_class(node["name"])
        except UnknownNameError as error:
            self._problem(f"{key}.name", str(error))
            return {}
        section = without_selectors(node, ("name",))
        instance = collect(processor.config_class, section, key, self._problems)
        return {} if instance is None else {"name": node["name"]} | _plain(instance)

    # Messages

    def _problem(self, key: str, text: str) -> None:
        self._problems.append(Problem(str(key), text))

    def _origin(self, key: str) -> str:
        """Return the source of highest rank that sets `key`, or the nearest section above it."""
        parts = key.split(".")
        for length in range(len(parts), 0, -1):
            for layer in reversed(self._layers):
                if layer.holds(".".join(parts[:length])):
                    return layer.origin
        files: Sequence[str] = [layer.origin for layer in self._layers if layer.origin != OPTIONS]
        return files[-1]


def default_layer(relative_path: str) -> Layer:
    """Read a default YAML of the package, e.g. "configs/models/minigpt4_vicuna.yaml"."""
    layer = load_yaml(package_root() / relative_path, "the default configuration")
    return Layer(f"xraygpt/{relative_path}", layer.values)


def _section(mapping: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return a section; an empty one if it is absent, null, or (noted elsewhere) no mapping."""
    section = mapping.get(name)
    return section if isinstance(section, Mapping) else {}


def _with_empty_sections(layer: Layer) -> Layer:
    """Turn ``run:`` with nothing below it into an empty mapping; null would erase the defaults."""
    values = {key: {} if value is None and key in SECTIONS else value for key, value in layer.values.items()}
    datasets = values.get("datasets")
    if isinstance(datasets, Mapping):
        values["datasets"] = {name: {} if value is None else value for name, value in datasets.items()}
    return Layer(layer.origin, values)


def without_selectors(section: Mapping[str, Any], selectors: Sequence[str]) -> dict[str, Any]:
    """Drop the keys that chose which class the section configures."""
    return {key: value for key, value in section.items() if key not in selectors}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
