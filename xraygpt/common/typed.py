"""From a plain mapping to a typed configuration dataclass, collecting every problem on the way."""

from __future__ import annotations

import math
import re
import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from xraygpt.common.errors import ConfigError, did_you_mean

T = TypeVar("T")


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


class ChoosesTypes:
    """Base of a dataclass in which what one field says decides about others."""

    BELONGS_TO: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Field -> fields whose defaults in a file go with the value that this field has there."""

    @classmethod
    def field_types(cls, section: Mapping[str, Any]) -> dict[str, type]:
        """The types of fields in `section` that depend on others; ValueError if one of those is of no use."""
        return {}


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
            problems.append(_broken_rule(str(error), where, known))
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
        problems.append(_broken_rule(str(error), where, known))
        return None


def _broken_rule(message: str, where: str, known: Mapping[str, object]) -> Problem:
    """Return the problem with the first field that the message names, else with the whole section."""
    named = next((word for word in re.findall(r"\w+", message) if word in known), None)
    key = where if named is None else f"{where}.{named}"
    return Problem(key, message.removeprefix(f"{named}: "))


def _convert(value: Any, hint: Any, key: str, problems: list[Problem]) -> Any:
    """Return `value` as the type `hint`; on a mismatch note a problem and return None."""
    try:
        return _checked(value, hint, key, problems)
    except _Mismatch as mismatch:
        problems.append(Problem(key, str(mismatch)))
        return None


def _checked(value: Any, hint: Any, key: str, problems: list[Problem]) -> Any:
    """Like `_convert`, but raise _Mismatch if the value as a whole does not fit."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any or hint is object:
        return value
    if origin in (Union, types.UnionType):
        return _as_union(value, hint, key, problems)
    if origin is Literal:
        for choice in arguments:
            if choice == value and type(choice) is type(value):
                return value
        nearest = did_you_mean(str(value), map(str, arguments)).rstrip(".")
        raise _Mismatch(f"expected {_type_name(hint)}, got {show(value)}{nearest}")
    if is_dataclass(hint):
        if value is None:
            value = {}  # "section:" with nothing under it
        if isinstance(value, Mapping):
            return collect(cast(type, hint), value, key, problems)
        if not isinstance(value, cast(type, hint)):
            raise _Mismatch(f"expected a mapping of keys, got {show(value)}")
        return value
    if origin in (dict, Mapping) and isinstance(value, Mapping):
        return {str(k): _convert(v, arguments[1], f"{key}.{k}", problems) for k, v in value.items()}
    if origin in (list, tuple, Sequence) and isinstance(value, list | tuple):
        inner = arguments
        if origin is not tuple or arguments[-1] is Ellipsis:
            inner = arguments[:1] * len(value)
        if len(inner) != len(value):
            raise _Mismatch(f"expected {len(inner)} values, got {len(value)}: {show(value)}")
        pairs = enumerate(zip(value, inner, strict=True))
        items = [_convert(v, each, f"{key}[{i}]", problems) for i, (v, each) in pairs]
        return tuple(items) if origin is tuple else items
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


def _as_union(value: Any, hint: Any, key: str, problems: list[Problem]) -> Any:
    options = [option for option in get_args(hint) if option is not type(None)]
    if value is None and len(options) < len(get_args(hint)):
        return None
    if len(options) == 1:  # the everyday `X | None`: let the messages of X through
        try:
            return _checked(value, options[0], key, problems)
        except _Mismatch:
            raise _mismatch(value, hint) from None
    for option in sorted(options, key=lambda option: type(value) is not option):
        trial: list[Problem] = []
        try:
            result = _checked(value, option, key, trial)
        except _Mismatch:
            continue
        if not trial:
            return result
    raise _mismatch(value, hint)


def _mismatch(value: Any, hint: Any) -> _Mismatch:
    in_quotes = " (put it in quotes)" if hint is str and isinstance(value, (int, float, bool)) else ""
    return _Mismatch(f"expected {_type_name(hint)}, got {show(value)}{in_quotes}")


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
    if origin in (Union, types.UnionType):
        return " or ".join(map(_type_name, arguments))
    if origin is Literal:
        return "one of " + ", ".join(map(show, arguments))
    if origin in (list, Sequence) or (origin is tuple and arguments[-1] is Ellipsis):
        return f"a list of {_type_name(arguments[0])}"
    if origin is tuple:
        return f"a list of {len(arguments)} values ({', '.join(map(_type_name, arguments))})"
    if is_dataclass(hint) or origin in (dict, Mapping):
        return "a mapping"
    return "null" if hint is type(None) else getattr(hint, "__name__", str(hint))
