"""Names for the parts that a configuration may choose between.

A class announces itself with a decorator, ``@registry.register_model("mini_gpt4")``, and is found again by
name, ``registry.get_model_class("mini_gpt4", BaseModel)``. The package that holds a noun's classes is
imported on the first look-up, so that a look-up works without the caller importing anything, and this module
imports nothing from above.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import ClassVar, Generic, Protocol, TypeVar, overload

from xraygpt.common.errors import ConfigError, UnknownNameError
from xraygpt.common.run_config import RunConfig

B = TypeVar("B")
C = TypeVar("C", bound=type)
T = TypeVar("T")


class Configured(Protocol):
    """A class whose settings are a section of the configuration."""

    config_class: ClassVar[type]
    """Dataclass of the section's keys."""


class ConfiguredModel(Configured, Protocol):
    """What a configuration reads of a model's class."""

    PRETRAINED_MODEL_CONFIG_DICT: ClassVar[Mapping[str, str]]
    """File of defaults of each ``model_type``, relative to the package."""
    MODEL_TYPE_REQUIRED: ClassVar[bool]
    """Whether a configuration has to start from one of these."""


class ConfiguredBuilder(Configured, Protocol):
    """What a configuration reads of a data set builder's class."""

    DATASET_CONFIG_DICT: ClassVar[Mapping[str, str]]
    """File of defaults of each ``type``, relative to the package."""


class ConfiguredRunner(Protocol):
    """What a configuration reads of a runner's class."""

    config_class: ClassVar[type[RunConfig]]
    """Dataclass of the section ``run``."""


class LRScheduler(Protocol):
    """A schedule of the learning rate."""

    def __init__(self, **settings: object) -> None: ...

    def step(self, cur_epoch: int, cur_step: int) -> None:
        """Set the rate for step `cur_step` (counted within the epoch) of epoch `cur_epoch`, both from 0."""
        ...


class Table(Generic[T]):
    """The classes registered for one noun; T is what all of them are known to have.

    Args:
        noun: what the entries are, for messages ("model").
        package: imported before the first look-up; importing it must register its classes.
    """

    def __init__(self, noun: str, package: str) -> None:
        self.noun = noun
        self.package = package
        self._classes: dict[str, type[T]] = {}

    def register(self, name: str) -> Callable[[C], C]:
        """Return a class decorator that files the class under `name`.

        Raises:
            ValueError: the name is taken.
        """

        def wrap(cls: C) -> C:
            taken = self._classes.get(name)
            if taken is not None:
                raise ValueError(
                    f"cannot register {cls.__module__}.{cls.__qualname__}: the {self.noun} name '{name}' "
                    f"is taken by {taken.__module__}.{taken.__qualname__}"
                )
            self._classes[name] = cls
            return cls

        return wrap

    @overload
    def get(self, name: str) -> type[T]: ...

    @overload
    def get(self, name: str, base: type[B]) -> type[B]: ...

    def get(self, name: str, base: type[B] | None = None) -> type[T] | type[B]:
        """Return the class registered under `name`, as a subclass of `base` if that is given.

        Raises:
            UnknownNameError: there is none; the message gives the nearest name and all names.
            ConfigError: it does not derive from `base`.
        """
        importlib.import_module(self.package)
        if name not in self._classes:
            raise UnknownNameError(self.noun, name, self._classes)
        found = self._classes[name]
        if base is None:
            return found
        if not issubclass(found, base):
            raise ConfigError(
                f"the {self.noun} '{name}' ({found.__module__}.{found.__qualname__}) does not derive from "
                f"{base.__module__}.{base.__qualname__}"
            )
        return found

    def names(self) -> list[str]:
        """Return all registered names, sorted."""
        importlib.import_module(self.package)
        return sorted(self._classes)


class Registry:
    """One `Table` for each noun, behind the names that LAVIS gave to what one does with it."""

    def __init__(self) -> None:
        self._models = Table[ConfiguredModel]("model", "xraygpt.models")
        self.register_model = self._models.register
        self.get_model_class = self._models.get
        self.list_models = self._models.names
        self._vision_encoders = Table[object]("vision encoder", "xraygpt.models.encoders")
        self.register_vision_encoder = self._vision_encoders.register
        self.get_vision_encoder_class = self._vision_encoders.get
        self.list_vision_encoders = self._vision_encoders.names
        self._bridges = Table[object]("bridge", "xraygpt.models.bridges")
        self.register_bridge = self._bridges.register
        self.get_bridge_class = self._bridges.get
        self.list_bridges = self._bridges.names
        self._tasks = Table[Configured]("task", "xraygpt.tasks")
        self.register_task = self._tasks.register
        self.get_task_class = self._tasks.get
        self.list_tasks = self._tasks.names
        self._builders = Table[ConfiguredBuilder]("dataset", "xraygpt.datasets.builders")
        self.register_builder = self._builders.register
        self.get_builder_class = self._builders.get
        self.list_datasets = self._builders.names
        self._processors = Table[Configured]("processor", "xraygpt.processors")
        self.register_processor = self._processors.register
        self.get_processor_class = self._processors.get
        self.list_processors = self._processors.names
        self._runners = Table[ConfiguredRunner]("runner", "xraygpt.runners")
        self.register_runner = self._runners.register
        self.get_runner_class = self._runners.get
        self.list_runners = self._runners.names
        self._lr_schedulers = Table[LRScheduler]("learning-rate schedule", "xraygpt.common.optims")
        self.register_lr_scheduler = self._lr_schedulers.register
        self.get_lr_scheduler_class = self._lr_schedulers.get
        self.list_lr_schedulers = self._lr_schedulers.names


registry = Registry()
