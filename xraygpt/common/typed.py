"""From a plain mapping to a typed configuration dataclass, collecting every problem on the way."""

from __future__ import annotations

import math
import re
import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from pathlib import Path
from typing import (
    Any,
    Literal,
    Protocol,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    runtime_checkable,
)

from xraygpt.common.errors import ConfigError, did_you_mean

T = TypeVar("T")

SCALAR_NAMES: dict[type, str] = {int: "int", float: "float", str: "str", bool: "bool"}


@dataclass(frozen=True)
class Problem:
    """One thing wrong in a configuration."""

    key: str
    """Dotted key, e.g. "run.init_lr"."""
    text: str
    """What is wrong with it."""

    def __str__(self) -> str:
        return f"{self.key if self.key.isprintable() else show(self.key)}: {self.text}"


class _Mismatch(Exception):
    """A value does not have the type that a field asks for; the argument says so."""


@runtime_checkable
class ChoosesTypes(Protocol):
    """A dataclass in which what one field says decides about the type of another."""

    @classmethod
    def field_types(cls, section: Mapping[str, Any]) -> dict[str, type]:
        """The types of such fields for a section; raises ValueError if the deciding field is of no use."""
        ...


def build_typed(config_class: type[T], mapping: Mapping[str, Any] | None, where: str = "config") -> T:
    """Build `config_class` from `mapping`, checking names, types and the class's own rules.

    Args:
        config_class: a dataclass; nested dataclasses, lists, tuples, dicts, Literal and unions are
            understood. Its `__post_init__` may raise ValueError for a broken rule.
        mapping: field names to plain values.
        where: dotted key of the mapping itself, put before the names in messages.

    Raises:
        ConfigError: with all problems found, not only the first.
    """
    problems: list[Problem] = []
    instance = collect(config_class, mapping or {}, where, problems)
    if problems or instance is None:
        raise ConfigError([str(problem) for problem in problems])
    return instance


def collect(
    config_class: type[T],
    mapping: Mapping[str, Any],
    where: str,
    problems: list[Problem],
    elsewhere: Iterable[str] = (),
) -> T | None:
    """Like `build_typed`, but append to `problems` and return None if there were any.

    Args:
        elsewhere: further keys that the mapping may hold; passed over.
    """
    before = len(problems)
    known: dict[str, Field[Any]] = {f.name: f for f in fields(config_class) if f.init}  # type: ignore[arg-type]
    hints = get_type_hints(config_class)
    if issubclass(config_class, ChoosesTypes):
        try:
            hints |= config_class.field_types(mapping)
        except ValueError as error:
            problems.append(Problem(_blame(str(error), where, known), str(error)))
            return None
    for name in mapping:
        if name not in known and name not in elsewhere:
            hint = did_you_mean(str(name), [*known, *elsewhere])
            problems.append(Problem(f"{where}.{name}", f"unknown key{hint}"))
    values: dict[str, Any] = {}
    for name, declared in known.items():
        key = f"{where}.{name}"
        if name in mapping:
            values[name] = _convert(mapping[name], hints[name], key, problems)
        elif declared.default is MISSING and declared.default_factory is MISSING:
            problems.append(Problem(key, f"missing; expected {_type_name(hints[name])}"))
    if len(problems) > before:
        return None
    try:
        return config_class(**values)
    except ValueError as error:
        problems.append(Problem(_blame(str(error), where, known), str(error)))
        return None


def _blame(message: str, where: str, known: Mapping[str, object]) -> str:
    """Return the key of the first field that a broken rule's message names, else the whole section's."""
    for word in re.findall(r"\w+", message):
        if word in known:
            return f"{where}.{word}"
    return where


def _convert(value: Any, hint: Any, key: str, problems: list[Problem]) -> Any:
    """Return `value` as the type `hint`; on a mismatch note a problem and return None."""
    try:
        return _checked(value, hint, key, problems)
    except _Mismatch as mismatch:
        problems.append(Problem(key, str(mismatch)))
        return None


def _checked(value: Any, hint: Any, key: str, problems: list[Problem]) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any or hint is object:
        return value
    if origin in (Union, types.UnionType):
        return _as_union(value, hint, key, problems)
    if hint is type(None):
        if value is not None:
            raise _mismatch(value, hint)
        return None
    if origin is Literal:
        return _as_literal(value, hint)
    if is_dataclass(hint):
        return _as_dataclass(value, hint, key, problems)
    if hint in (list, tuple, Sequence) or origin in (list, tuple, Sequence):
        return _as_sequence(value, hint, key, problems)
    if hint in (dict, Mapping) or origin in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise _mismatch(value, hint)
        inner = arguments[1] if arguments else Any
        return {str(k): _convert(v, inner, f"{key}.{k}", problems) for k, v in value.items()}
    return _as_scalar(value, hint)


def _as_scalar(value: Any, hint: Any) -> Any:
    if hint in (int, float) and not isinstance(value, bool):
        try:
            number = float(value)  # 3e-5 in quotes, or from a YAML parser that takes it for text
        except (TypeError, ValueError, OverflowError):
            raise _mismatch(value, hint) from None
        if hint is float and math.isfinite(number):
            return number
        if hint is int and isinstance(value, (int, float)) and number.is_integer() and abs(number) < 2**63:
            return int(value)  # 1e4 too
    if hint is Path and isinstance(value, (str, Path)):
        return Path(value)
    if hint in (str, bool) and isinstance(value, hint):
        return value
    raise _mismatch(value, hint)


def _as_literal(value: Any, hint: Any) -> Any:
    choices = get_args(hint)
    for choice in choices:
        if choice == value and type(choice) is type(value):
            return value
    hint_text = did_you_mean(str(value), [str(choice) for choice in choices]).rstrip(".")
    raise _Mismatch(f"expected {_type_name(hint)}, got {show(value)}{hint_text}")


def _as_union(value: Any, hint: Any, key: str, problems: list[Problem]) -> Any:
    options = get_args(hint)
    if value is None and type(None) in options:
        return None
    options = tuple(option for option in options if option is not type(None))
    if len(options) == 1:  # the everyday `X | None`: let the messages of X through
        try:
            return _checked(value, options[0], key, problems)
        except _Mismatch:
            raise _mismatch(value, hint) from None
    exact = [option for option in options if isinstance(option, type) and type(value) is option]
    for option in (*exact, *options):
        trial: list[Problem] = []
        try:
            result = _checked(value, option, key, trial)
        except _Mismatch:
            continue
        if not trial:
            return result
    raise _mismatch(value, hint)


def _as_dataclass(value: Any, hint: Any, key: str, problems: list[Problem]) -> Any:
    if isinstance(value, hint):
        return value
    if value is None:
        value = {}  # "section:" with nothing under it
    if not isinstance(value, Mapping):
        raise _Mismatch(f"expected a mapping of keys, got {show(value)}")
    return collect(hint, value, key, problems)


def _as_sequence(value: Any, hint: Any, key: str, problems: list[Problem]) -> Any:
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
        raise _mismatch(value, hint)
    arguments = get_args(hint)
    is_tuple = hint is tuple or get_origin(hint) is tuple
    inner: list[Any] = [arguments[0] if arguments else Any] * len(value)
    if is_tuple and arguments and arguments[-1] is not Ellipsis:
        if len(arguments) != len(value):
            raise _Mismatch(f"expected {len(arguments)} values, got {len(value)}: {show(value)}")
        inner = list(arguments)
    items = [
        _convert(v, t, f"{key}[{i}]", problems) for i, (v, t) in enumerate(zip(value, inner, strict=True))
    ]
    return tuple(items) if is_tuple else items


def _mismatch(value: Any, hint: Any) -> _Mismatch:
    message = f"expected {_type_name(hint)}, got {show(value)}"
    if hint is str and isinstance(value, (int, float, bool)):
        message += " (put it in quotes)"
    return _Mismatch(message)


def show(value: object) -> str:
    """Return a value as YAML would write it, at most 80 characters long."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    try:
        text = repr(value)
    except ValueError:  # Python writes no number of more than 4,300 digits
        return "a number of thousands of digits"
    return text if len(text) <= 80 else text[:77] + "..."


def _type_name(hint: Any) -> str:
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is type(None):
        return "null"
    if hint in SCALAR_NAMES:
        return SCALAR_NAMES[hint]
    if origin in (Union, types.UnionType):
        return " or ".join(_type_name(argument) for argument in arguments)
    if origin is Literal:
        return "one of " + ", ".join(show(argument) for argument in arguments)
    if origin in (list, Sequence) or (origin is tuple and arguments[-1:] == (Ellipsis,)):
        return f"a list of {_type_name(arguments[0])}"
    if origin is tuple:
        return f"a list of {len(arguments)} values ({', '.join(_type_name(a) for a in arguments)})"
    if hint in (list, tuple, Sequence):
        return "a list"
    if is_dataclass(hint) or hint in (dict, Mapping) or origin in (dict, Mapping):
        return "a mapping"
    return getattr(hint, "__name__", str(hint))
