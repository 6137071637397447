"""Layers of configuration: YAML files and command-line options, merged with OmegaConf.

Nothing here knows what the keys mean; `xraygpt.common.config` checks them afterwards.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from xraygpt.common.errors import ConfigError, MissingFileError
from xraygpt.common.files import read_text
from xraygpt.common.paths import resolve_path, searched
from xraygpt.common.typed import show

OPTIONS = "--options"
MAX_DEPTH = 32
"""How deep mappings and lists may be nested. libyaml's composer recurses: 50,000 `[` overflow the stack."""
MAX_SIZE = 1_000_000
"""How many values and characters the interpolations of a configuration may make of it."""

_KEY = re.compile(rf"[\w-]+(\.[\w-]+){{0,{MAX_DEPTH - 1}}}")
_REFERENCE = re.compile(r"\$\{(\.*)([\w.-]+)\}")
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_BROKEN = (yaml.YAMLError, OmegaConfBaseException, RecursionError, TypeError, ValueError)
"""What PyYAML and OmegaConf raise for text that they cannot make a configuration of."""


@dataclass(frozen=True)
class Layer:
    """The keys that one source sets."""

    origin: str
    """The file, or "--options"."""
    values: dict[str, Any]
    """Plain nested mapping; interpolations (``${a.b}``) not resolved yet."""
    blank: frozenset[str] = frozenset()
    """Dotted keys of the two upper levels with nothing behind the colon, unlike an explicit null."""

    def holds(self, dotted_key: str) -> bool:
        """Tell whether this layer sets `dotted_key`, or what lies below it, or ends above it."""
        node: Any = self.values
        for part in re.sub(r"\[\d+\]", "", dotted_key).split("."):
            if not isinstance(node, Mapping):
                return True
            if part not in node:
                return False
            node = node[part]
        return True


def load_yaml(path: str | Path, what: str = "the configuration file") -> Layer:
    """Read one YAML file.

    Raises:
        MissingFileError: there is no such file.
        DataError: it is not UTF-8.
        ConfigError: it is not YAML, is nested too deeply, has tags, or is not a mapping.
    """
    file = Path(resolve_path(path))
    if not file.is_file():
        kind = f"a folder: {what} {file}" if file.is_dir() else f"missing file: {what} {searched(file)}"
        raise MissingFileError(kind)
    text = read_text(file)
    try:
        _check_structure(text)
        root = yaml.compose(text, Loader=_LOADER)
        if not isinstance(root, yaml.MappingNode | None):
            raise ValueError("expected keys with values at the top level, e.g. 'model:'")
        values: Any = OmegaConf.to_container(OmegaConf.load(io.StringIO(text)))
    except _BROKEN as error:
        raise ConfigError(f"{file}: not a readable configuration: {_reason(error, text)}") from error
    return Layer(str(path), values, frozenset(_blank_keys(root)))


def parse_options(options: Sequence[str] | None) -> Layer:
    """Read ``--options``, given as ``a.b=c`` or as ``a.b c``; the two forms may be mixed.

    Values are YAML: ``null``, ``3e-5``, ``[1, 2]``, ``{a: 1}``.

    Raises:
        ConfigError: a key without a value, a malformed key, or a value that is not YAML.
    """
    words = list(options or [])
    problems: list[str] = []
    values: dict[str, Any] = {}
    while words:
        word = words.pop(0)
        if "=" in word:
            key, _, text = word.partition("=")
        elif words:
            key, text = word, words.pop(0)
        else:
            problems.append(f"{OPTIONS}: '{word}' has no value; write {word}=VALUE")
            break
        try:
            values = _merge([values, _parse_option(key, text)])
        except _BROKEN as error:
            problems.append(f"{OPTIONS}: {_reason(error)}")
    if problems:
        raise ConfigError(problems)
    return Layer(OPTIONS, values)


def _parse_option(key: str, text: str) -> dict[str, Any]:
    if not _KEY.fullmatch(key):
        raise ValueError(f"{show(key)} is not a dotted key such as run.max_epoch")
    advice = f"""quotes inside the value, e.g. "{key}='{text}'\"""" if len(text) < 80 else "quotes inside it"
    if re.match(r"""\s*[^"'\s].*""", text) and re.search(r"(^|\s)#", text):
        raise ValueError(f"{key}: YAML takes what follows '#' in {show(text)} for a comment; put {advice}")
    try:
        _check_structure(text)
        return dict(OmegaConf.to_container(OmegaConf.from_dotlist([f"{key}={text}"])))  # type: ignore[arg-type]
    except _BROKEN as error:
        reason = f"cannot read {show(text)} as YAML ({_reason(error, text)})"
        raise ValueError(f"{key}: {reason}; text with : or {{}} needs {advice}") from error


def merge_layers(layers: Sequence[Layer], *, resolve: bool = True) -> dict[str, Any]:
    """Merge layers, later ones first in rank: mappings are merged, lists and plain values replaced.

    Interpolations are resolved in the merged whole, unless `resolve` is false.

    Raises:
        ConfigError: an interpolation that leads nowhere, in a circle or to too much, or a mapping met by
            something else.
    """
    try:
        return _merge([layer.values for layer in layers], resolve)
    except _BROKEN as error:
        key = getattr(error, "full_key", None)
        origins = [layer.origin for layer in layers if (layer.holds(key) if key else layer.values)]
        raise ConfigError(f"{', '.join(origins)}: {_reason(error)}") from error


def merge_files(
    paths: Sequence[str | Path], options: Sequence[str] | None = None, *, resolve: bool = True
) -> dict[str, Any]:
    """Merge YAML files, later ones first in rank, then ``--options``; no key is checked."""
    return merge_layers([*(load_yaml(path) for path in paths), parse_options(options)], resolve=resolve)


def select(values: Mapping[str, Any], key: str) -> Any:
    """Return the value at a dotted key, resolved if `values` holds what it interpolates; None if absent."""
    try:
        return OmegaConf.select(OmegaConf.create(dict(values)), key)
    except OmegaConfBaseException:
        return _at(values, key.split("."))


def _at(values: Mapping[str, Any], path: Sequence[str]) -> Any:
    node: Any = values
    for part in path:
        node = node.get(part) if isinstance(node, Mapping) else None
    return node


def _merge(values: Sequence[Mapping[str, Any]], resolve: bool = False) -> dict[str, Any]:
    merged = OmegaConf.merge(*(OmegaConf.create(dict(each)) for each in values))
    plain: Any = OmegaConf.to_container(merged)
    if not resolve:
        return dict(plain)
    if _resolved_size(plain) > MAX_SIZE:
        raise ValueError(f"the interpolations make more than {MAX_SIZE:,} values and characters of it")
    return dict(OmegaConf.to_container(merged, resolve=True))  # type: ignore[arg-type]


def _resolved_size(values: dict[str, Any]) -> int:
    """Count the values and characters that `values` will have once its interpolations are resolved."""
    known: dict[tuple[str, ...], int] = {}

    def size(node: Any, path: tuple[str, ...]) -> int:
        if isinstance(node, Mapping):
            return 1 + sum(size(child, (*path, str(key))) for key, child in node.items())
        if isinstance(node, list):
            return 1 + sum(size(child, (*path, str(index))) for index, child in enumerate(node))
        if not isinstance(node, str):
            return 1
        above = [(path[: -len(dots)] if dots else (), key) for dots, key in _REFERENCE.findall(node)]
        return 1 + len(node) + sum(referenced((*start, *key.split("."))) for start, key in above)

    def referenced(path: tuple[str, ...]) -> int:
        if path not in known:
            known[path] = 0  # what leads in a circle is reported by OmegaConf
            known[path] = size(_at(values, path), path)
        return known[path]

    return size(values, ())


def _check_structure(text: str) -> None:
    """Refuse deep nesting, before anything recurses, and tags, which make PyYAML raise whatever it likes."""
    depth = 0
    for event in yaml.parse(text, Loader=_LOADER):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        tag = getattr(event, "tag", None)
        if depth > MAX_DEPTH:
            problem = f"nested more than {MAX_DEPTH} deep"
        elif tag not in (None, "!", "tag:yaml.org,2002:str"):
            problem = f"tags such as {tag.replace('tag:yaml.org,2002:', '!!')} are not used here; remove it"
        elif "\0" in (getattr(event, "value", None) or ""):
            problem = "a NUL character"
        else:
            continue
        raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)


def _reason(error: Exception, text: str = "") -> str:
    """Say in one line what is wrong, and where if that is known."""
    if isinstance(error, RecursionError):
        return "nested too deeply"
    mark, key = getattr(error, "problem_mark", None), getattr(error, "full_key", None)
    reason = str(getattr(error, "problem", None) or error).partition("\n")[0].partition("; use sys.")[0][:400]
    if mark is None:
        return f"{key}: {reason}" if key else reason
    lines = text.splitlines()
    if mark.line < len(lines) and lines[mark.line][mark.column :].startswith("\t"):
        reason += " (a tab; indent with spaces)"
    return f"{reason} (line {mark.line + 1}, column {mark.column + 1})"


def _blank_keys(node: yaml.Node | None, prefix: str = "") -> Iterator[str]:
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        name = f"{prefix}{key.value}"
        if value.tag == "tag:yaml.org,2002:null" and not value.value:
            yield name
        elif not prefix:
            yield from _blank_keys(value, f"{name}.")
