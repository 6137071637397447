"""The configuration of a run: YAML files and ``--options`` turned into typed, checked values.

Rank, from low to high: the defaults of the config dataclasses, the model's default YAML, the data sets'
default YAMLs, the user's YAML, ``--options``. A file has the sections `model`, `datasets`, `run` and, for
the processors that go with a model, `preprocess`. Each section is checked against the dataclass beside the
class it configures (`config_class`), and all problems are reported together. Modules that ``imports`` lists
are imported first, so that what they register can be named.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import logging
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from xraygpt.common.errors import ConfigError, UnknownNameError, did_you_mean
from xraygpt.common.merge import OPTIONS, Layer, load_yaml, merge_files, merge_layers, parse_options, select
from xraygpt.common.paths import package_root
from xraygpt.common.registry import ConfiguredBuilder, ConfiguredModel, registry
from xraygpt.common.run_config import RunConfig
from xraygpt.common.typed import ChoosesTypes, Problem, build_typed, collect, show

__all__ = ["Config", "build_typed", "default_layer", "merge_files"]

C = TypeVar("C")

IMPORTS = "imports"
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


class DatasetSection(Protocol):
    """What every data set's section has, see `xraygpt.datasets.builders.DatasetConfig`."""

    sample_ratio: float
    vis_processor: dict[str, Any]
    text_processor: dict[str, Any]


class Config:
    """The merged and checked configuration.

    Args:
        args: `cfg_path`, the user's YAML file, and `options`, a list of ``a.b=c`` or None.

    Raises:
        ConfigError: with every problem found, each with its key and the file it comes from.
        MissingFileError: `cfg_path` does not exist.
    """

    arch: str
    """The registered name of the model."""
    imports: list[str]
    """Modules that were imported before any name was looked up."""
    run_cfg: RunConfig
    """The keys of `run` that every run has, an instance of the runner's `config_class`."""
    task_cfg: object
    """The keys of `run` that belong to the task, an instance of its `config_class`."""
    model_cfg: Any
    """The section `model`, an instance of the model's `config_class`, which only its class knows."""
    datasets_cfg: dict[str, DatasetSection]
    """For each data set's name an instance of its builder's `config_class`."""
    preprocess_cfg: dict[str, Any]
    """The model's default processors: {"vis_processor": {"train": {"name": …}, "eval": …}, …}."""

    def __init__(self, args: CommandLine) -> None:
        user, options = _with_empty_sections(load_yaml(args.cfg_path)), parse_options(args.options)
        self._problems: list[Problem] = []
        self._layers: list[Layer] = [user, options]
        self._wanted = merge_layers(self._layers, resolve=False)
        self._check_sections()
        self.imports = self._import_modules()
        self._layers = [*self._model_layers(), *self._dataset_layers(), user, options]
        try:
            merged = merge_layers(self._layers)
        except ConfigError:
            self._raise_problems()  # without its defaults, a section may lack what an interpolation names
            raise
        self.preprocess_cfg = self._checked_preprocess(merged)
        self._type_run(merged, default_output=f"output/{Path(args.cfg_path).stem}")
        if self._model_class is not None:
            section = without_selectors(_section(merged, "model"), MODEL_SELECTORS)
            self.model_cfg = collect(self._model_class.config_class, section, "model", self._problems)
        self.datasets_cfg = self._typed_datasets(merged)
        self._raise_problems()

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values; written to YAML and read again, it gives the same config."""
        selectors = {"arch": self.arch} | ({"model_type": self._model_type} if self._model_type else {})
        return ({"imports": self.imports} if self.imports else {}) | {
            "run": _plain(self.run_cfg) | _plain(self.task_cfg),
            "model": selectors | _plain(self.model_cfg),
            "datasets": _plain(self.datasets_cfg),
            "preprocess": self.preprocess_cfg,
        }

    def pretty_print(self) -> None:
        """Write the whole configuration to the log."""
        for section, values in self.to_dict().items():
            logger.info("%s: %s", section, json.dumps(values, indent=2, ensure_ascii=False))

    # Sections and default files

    def _check_sections(self) -> None:
        for key, value in self._wanted.items():
            if key not in (*SECTIONS, IMPORTS):
                self._problem(key, f"unknown section{did_you_mean(str(key), (*SECTIONS, IMPORTS))}")
            elif key in SECTIONS and value is not None and not isinstance(value, Mapping):
                self._problem(key, f"expected a mapping of keys, got {show(value)}")

    def _import_modules(self) -> list[str]:
        """Import the user's own modules, from the current folder or PYTHONPATH, so that they register.

        Raises:
            ConfigError: there is no such module, or it fails.
        """
        names = self._wanted.get(IMPORTS) or []
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            self._problem(IMPORTS, f"expected a list of modules, got {show(names)}")
            self._raise_problems()
        if names and os.getcwd() not in sys.path:  # the command ``xraygpt`` does not look there
            sys.path.insert(0, os.getcwd())
        for number, name in enumerate(names):
            try:
                importlib.import_module(name)
            except Exception as error:  # whatever the user's code raises
                reason = f"cannot import {name}: {type(error).__name__}: {error}"
                self._problem(f"{IMPORTS}[{number}]", reason)
                self._raise_problems()
        return names

    def _model_layers(self) -> list[Layer]:
        self._model_type = select(self._wanted, "model.model_type")
        self._model_class: type[ConfiguredModel] | None = None
        arch = select(self._wanted, "model.arch")
        if arch is None:
            self._problem("model.arch", "missing; expected the registered name of a model")
            return []
        self._model_class = self._look_up(registry.get_model_class, arch, "model.arch")
        if self._model_class is None:
            return []
        self.arch = arch
        known = self._model_class.PRETRAINED_MODEL_CONFIG_DICT
        if self._model_type is None:
            if known and self._model_class.MODEL_TYPE_REQUIRED:
                self._problem("model.model_type", f"missing; expected one of {', '.join(sorted(known))}")
        elif isinstance(self._model_type, str) and self._model_type in known:
            layer = default_layer(known[self._model_type])
            return [_without_replaced(layer, _section(self._wanted, "model"), self._model_class.config_class)]
        else:
            problem = f"{arch} has {_no_type(self._model_type, known)}"
            self._problem("model.model_type", f"{problem} Known: {', '.join(sorted(known))}.")
        return []

    def _dataset_layers(self) -> list[Layer]:
        layers: list[Layer] = []
        self._builders: dict[str, type[ConfiguredBuilder]] = {}
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
            elif not known and choice == "default":  # a user's own, whose dataclass has all defaults
                self._builders[name] = builder
            else:
                self._problem(f"{key}.type", _no_type(choice, known))
        return layers

    def _look_up(self, get: Callable[[str], type[C]], name: object, key: str) -> type[C] | None:
        """Return the class registered as `name`; note a problem and return None if there is none."""
        try:
            if isinstance(name, str) and name.isprintable() and len(name) <= MAX_NAME_LENGTH:
                return get(name)
            self._problem(key, f"expected a registered name, got {show(name)}")
        except UnknownNameError as error:
            self._problem(key, str(error))
        return None

    # Typed sections

    def _type_run(self, merged: dict[str, Any], default_output: str) -> None:
        """Set `run_cfg` and `task_cfg`, which share the section."""
        section = {"output_dir": default_output, **_section(merged, "run")}
        choice = section.get("runner") or "runner_base"
        runner = self._look_up(registry.get_runner_class, choice, "run.runner")
        if runner is None:
            return
        name = section.get("task", runner.config_class.task)
        task = self._look_up(registry.get_task_class, name, "run.task") if isinstance(name, str) else None
        owners = {
            key.name: owner
            for owner in registry.list_tasks()
            for key in dataclasses.fields(registry.get_task_class(owner).config_class)
        }
        own = {key.name for key in dataclasses.fields(task.config_class)} if task is not None else set()
        for key in section if task is not None else ():
            if key in owners and key not in own:
                problem = f"belongs to the task {owners[key]}, and run.task is {name}"
                self._problem(f"run.{key}", f"{problem}: leave it out, or set run.task to {owners[key]}")
        run = collect(runner.config_class, section, "run", self._problems, elsewhere=owners)
        if run is not None:
            self._look_up(registry.get_lr_scheduler_class, run.lr_sched, "run.lr_sched")
            self.run_cfg = run
        if task is not None:
            values = {key: value for key, value in section.items() if key in own}
            self.task_cfg = collect(task.config_class, values, "run", self._problems)

    def _typed_datasets(self, merged: dict[str, Any]) -> dict[str, DatasetSection]:
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
        return dict(self.preprocess_cfg.get(kind, {})) | own

    def _checked_preprocess(self, merged: dict[str, Any]) -> dict[str, Any]:
        checked: dict[str, Any] = {}
        for kind, splits in _section(merged, "preprocess").items():
            if kind in PROCESSOR_KINDS:
                checked[kind] = self._checked_processors(splits, f"preprocess.{kind}")
            else:
                self._problem(f"preprocess.{kind}", f"unknown key{did_you_mean(str(kind), PROCESSOR_KINDS)}")
        return checked

    def _checked_processors(self, splits: Any, where: str) -> dict[str, Any]:
        """Return {split: name and all settings of its processor}."""
        if splits is not None and not isinstance(splits, Mapping):
            self._problem(where, f"expected a mapping of train and eval, got {show(splits)}")
            return {}
        checked: dict[str, Any] = {}
        for split, node in (splits or {}).items():
            key = f"{where}.{split}"
            if node is None:
                continue
            checked[split] = {}
            if not isinstance(node, Mapping) or node.get("name") is None:
                self._problem(f"{key}.name", "missing; expected the registered name of a processor")
            elif processor := self._look_up(registry.get_processor_class, node["name"], f"{key}.name"):
                settings = without_selectors(node, ("name",))
                instance = collect(processor.config_class, settings, key, self._problems)
                checked[split] = {"name": node["name"]} | (_plain(instance) or {})
        return checked

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


def _without_replaced(layer: Layer, wanted: Mapping[str, Any], config_class: type) -> Layer:
    """Drop from a file of defaults what belongs to a part of the model that the user replaces by another."""
    if not issubclass(config_class, ChoosesTypes):
        return layer
    section = dict(_section(layer.values, "model"))
    for key, belonging in config_class.BELONGS_TO.items():
        default = section.get(key, getattr(config_class, key))
        if wanted.get(key, default) != default:
            section = without_selectors(section, belonging)
    return Layer(layer.origin, {**layer.values, "model": section})


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
