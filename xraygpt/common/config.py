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
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from xraygpt.common.errors import ConfigError, UnknownNameError, did_you_mean
from xraygpt.common.merge import OPTIONS, Layer, load_yaml, merge_files, merge_layers, parse_options, select
from xraygpt.common.paths import package_root
from xraygpt.common.registry import registry
from xraygpt.common.typed import Problem, build_typed, collect, show

__all__ = ["Config", "build_typed", "default_layer", "merge_files"]

SECTIONS = ("model", "datasets", "run", "preprocess")
MAX_NAME_LENGTH = 80
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
        user, options = _with_empty_sections(load_yaml(args.cfg_path)), parse_options(args.options)
        self._problems: list[Problem] = []
        self._layers: list[Layer] = [user, options]
        self._wanted = merge_layers(self._layers, resolve=False)
        self._check_sections(self._wanted)
        self._layers = [*self._model_layers(), *self._dataset_layers(), user, options]
        try:
            merged = merge_layers(self._layers)
        except ConfigError:
            self._raise_problems()  # without its defaults, a section may lack what an interpolation names
            raise
        self._preprocess = self._checked_preprocess(merged)
        self._run = self._typed_run(merged, default_output=f"output/{Path(args.cfg_path).stem}")
        self._model = self._typed_model(merged)
        self._datasets = self._typed_datasets(merged)
        self._raise_problems()

    @property
    def arch(self) -> str:
        """The registered name of the model."""
        assert self._arch is not None  # else __init__ has raised
        return self._arch

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
            elif value is not None and not isinstance(value, Mapping):
                self._problem(key, f"expected a mapping of keys, got {show(value)}")

    def _model_layers(self) -> list[Layer]:
        self._arch: str | None = select(self._wanted, "model.arch")
        self._model_type: str | None = select(self._wanted, "model.model_type")
        self._model_class: Any = None
        if self._arch is None:
            self._problem("model.arch", "missing; expected the registered name of a model")
            return []
        self._model_class = self._look_up(registry.get_model_class, self._arch, "model.arch")
        if self._model_class is None:
            return []
        known = self._model_class.PRETRAINED_MODEL_CONFIG_DICT
        required = self._model_class.MODEL_TYPE_REQUIRED
        if self._model_type is None:
            if known and required:
                self._problem("model.model_type", f"missing; expected one of {', '.join(sorted(known))}")
        elif isinstance(self._model_type, str) and self._model_type in known:
            return [default_layer(known[self._model_type])]
        else:
            problem = f"{self._arch} has {_no_type(self._model_type, known)}"
            self._problem("model.model_type", f"{problem} Known: {', '.join(sorted(known))}.")
        return []

    def _dataset_layers(self) -> list[Layer]:
        layers: list[Layer] = []
        self._builders: dict[str, Any] = {}
        for name, section in _section(self._wanted, "datasets").items():
            key = f"datasets.{name}"
            if section is None:  # a layer of higher rank takes the data set away
                continue
            if not isinstance(section, Mapping):
                self._problem(key, f"expected a mapping of keys, got {show(section)}")
                continue
            builder = self._look_up(registry.get_builder_class, name, key)
            if builder is None:
                continue
            known = builder.DATASET_CONFIG_DICT
            choice = select(self._wanted, f"{key}.type") or "default"
            if isinstance(choice, str) and choice in known:
                self._builders[name] = builder
                layers.append(default_layer(known[choice]))
            else:
                self._problem(f"{key}.type", _no_type(choice, known))
        return layers

    def _look_up(self, get: Callable[[str], Any], name: Any, key: str) -> Any:
        """Return the class registered as `name`; note a problem and return None if there is none."""
        try:
            if isinstance(name, str) and name.isprintable() and len(name) <= MAX_NAME_LENGTH:
                return get(name)
            self._problem(key, f"expected a registered name, got {show(name)}")
        except UnknownNameError as error:
            self._problem(key, str(error))
        return None

    # Typed sections

    def _typed_run(self, merged: dict[str, Any], default_output: str) -> Any:
        section = {"output_dir": default_output, **_section(merged, "run")}
        name = section.get("runner") or "runner_base"
        runner = self._look_up(registry.get_runner_class, name, "run.runner")
        if runner is None:
            return None
        instance = collect(runner.config_class, section, "run", self._problems)
        if instance is not None:
            self._look_up(registry.get_task_class, instance.task, "run.task")
            self._look_up(registry.get_lr_scheduler_class, instance.lr_sched, "run.lr_sched")
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
            section = without_selectors(_section(_section(merged, "datasets"), name), ("type",))
            for kind in PROCESSOR_KINDS:
                own = self._checked_processors(section.get(kind), f"{key}.{kind}")
                section[kind] = self._completed(name, kind, own)
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
            if kind in PROCESSOR_KINDS:
                checked[kind] = self._checked_processors(splits, f"preprocess.{kind}")
            else:
                self._problem(f"preprocess.{kind}", f"unknown key{did_you_mean(str(kind), PROCESSOR_KINDS)}")
        return checked

    def _checked_processors(self, splits: Any, where: str) -> dict[str, Any]:
        if splits is not None and not isinstance(splits, Mapping):
            self._problem(where, f"expected a mapping of train and eval, got {show(splits)}")
            return {}
        return {
            split: self._checked_processor(node, f"{where}.{split}")
            for split, node in (splits or {}).items()
            if node is not None
        }

    def _checked_processor(self, node: Any, key: str) -> dict[str, Any]:
        if not isinstance(node, Mapping) or node.get("name") is None:
            self._problem(f"{key}.name", "missing; expected the registered name of a processor")
            return {}
        processor = self._look_up(registry.get_processor_class, node["name"], f"{key}.name")
        if processor is None:
            return {}
        instance = collect(processor.config_class, without_selectors(node, ("name",)), key, self._problems)
        return {} if instance is None else {"name": node["name"]} | _plain(instance)

    # Messages

    def _problem(self, key: str, text: str) -> None:
        self._problems.append(Problem(str(key), text))

    def _raise_problems(self) -> None:
        if self._problems:
            raise ConfigError([f"{problem} ({self._origin(problem.key)})" for problem in self._problems])

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
    """Turn ``run:`` or a data set with nothing behind its colon into an empty mapping.

    An explicit null stays one: it takes away what layers of lower rank say.
    """
    values = {key: {} if key in layer.blank else value for key, value in layer.values.items()}
    datasets = _section(values, "datasets")
    if datasets:
        values["datasets"] = {
            name: {} if f"datasets.{name}" in layer.blank else section for name, section in datasets.items()
        }
    return Layer(layer.origin, values)


def _no_type(choice: object, known: Iterable[str]) -> str:
    return f"no type {show(choice)}{did_you_mean(show(choice)[1:-1], known)}"


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
