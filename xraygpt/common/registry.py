"""Names for the parts that a configuration may choose between.

A class announces itself with a decorator, ``@registry.register_model("mini_gpt4")``, and is found again by
name, ``registry.get_model_class("mini_gpt4")``. The package that holds a noun's classes is imported on the
first look-up, so that a look-up works without the caller importing anything, and this module imports
nothing.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, TypeVar

from xraygpt.common.errors import UnknownNameError

C = TypeVar("C", bound=type)


class Table:
    """The classes registered for one noun.

    Args:
        noun: what the entries are, for messages ("model").
        package: imported before the first look-up; importing it must register its classes.
    """

    def __init__(self, noun: str, package: str) -> None:
        self.noun = noun
        self.package = package
        self._classes: dict[str, type] = {}

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

    def get(self, name: str) -> Any:
        """Return the class registered under `name`.

        Raises:
            UnknownNameError: there is none; the message gives the nearest name and all names.
        """
        importlib.import_module(self.package)
        if name not in self._classes:
            raise UnknownNameError(self.noun, name, self._classes)
        return self._classes[name]

    def names(self) -> list[str]:
        """Return all registered names, sorted."""
        importlib.import_module(self.package)
        return sorted(self._classes)


class Registry:
    """One `Table` for each noun, with a method for each thing one does with it."""

    def __init__(self) -> None:
        self._models = Table("model", "xraygpt.models")
        self._tasks = Table("task", "xraygpt.tasks")
        self._builders = Table("dataset", "xraygpt.datasets.builders")
        self._processors = Table("processor", "xraygpt.processors")
        self._runners = Table("runner", "xraygpt.runners")
        self._lr_schedulers = Table("learning-rate schedule", "xraygpt.common.optims")

    def register_model(self, name: str) -> Callable[[C], C]:
        return self._models.register(name)

    def register_task(self, name: str) -> Callable[[C], C]:
        return self._tasks.register(name)

    def register_builder(self, name: str) -> Callable[[C], C]:
        return self._builders.register(name)

    def register_processor(self, name: str) -> Callable[[C], C]:
        return self._processors.register(name)

    def register_runner(self, name: str) -> Callable[[C], C]:
        return self._runners.register(name)

    def register_lr_scheduler(self, name: str) -> Callable[[C], C]:
        return self._lr_schedulers.register(name)

    # The classes of one noun share no base that this module could name without importing upward: Any.
    def get_model_class(self, name: str) -> Any:
        return self._models.get(name)

    def get_task_class(self, name: str) -> Any:
        return self._tasks.get(name)

    def get_builder_class(self, name: str) -> Any:
        return self._builders.get(name)

    def get_processor_class(self, name: str) -> Any:
        return self._processors.get(name)

    def get_runner_class(self, name: str) -> Any:
        return self._runners.get(name)

    def get_lr_scheduler_class(self, name: str) -> Any:
        return self._lr_schedulers.get(name)

    def list_models(self) -> list[str]:
        return self._models.names()

    def list_tasks(self) -> list[str]:
        return self._tasks.names()

    def list_datasets(self) -> list[str]:
        return self._builders.names()

    def list_processors(self) -> list[str]:
        return self._processors.names()

    def list_runners(self) -> list[str]:
        return self._runners.names()

    def list_lr_schedulers(self) -> list[str]:
        return self._lr_schedulers.names()


registry = Registry()
