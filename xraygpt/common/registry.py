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
    """One `Table` for each noun, behind the names that LAVIS gave to what one does with it.

    Classes of one noun share no base that this module could name without importing upward: looked up, they
    are Any.
    """

    def __init__(self) -> None:
        self._models = Table("model", "xraygpt.models")
        self.register_model = self._models.register
        self.get_model_class = self._models.get
        self.list_models = self._models.names
        self._tasks = Table("task", "xraygpt.tasks")
        self.register_task = self._tasks.register
        self.get_task_class = self._tasks.get
        self.list_tasks = self._tasks.names
        self._builders = Table("dataset", "xraygpt.datasets.builders")
        self.register_builder = self._builders.register
        self.get_builder_class = self._builders.get
        self.list_datasets = self._builders.names
        self._processors = Table("processor", "xraygpt.processors")
        self.register_processor = self._processors.register
        self.get_processor_class = self._processors.get
        self.list_processors = self._processors.names
        self._runners = Table("runner", "xraygpt.runners")
        self.register_runner = self._runners.register
        self.get_runner_class = self._runners.get
        self.list_runners = self._runners.names
        self._lr_schedulers = Table("learning-rate schedule", "xraygpt.common.optims")
        self.register_lr_scheduler = self._lr_schedulers.register
        self.get_lr_scheduler_class = self._lr_schedulers.get
        self.list_lr_schedulers = self._lr_schedulers.names


registry = Registry()
