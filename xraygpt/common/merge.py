"""Layers of configuration: YAML files and command-line options, merged with OmegaConf.

Nothing here knows what the keys mean; `xraygpt.common.config` checks them afterwards.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from xraygpt.common.errors import ConfigError, MissingFileError
from xraygpt.common.paths import resolve_path, searched

OPTIONS = "--options"
KEY_PATTERN = re.compile(r"[\w-]+(\.[\w-]+)*")


@dataclass(frozen=True)
class Layer:
    """The keys that one source sets."""

    origin: str
    """The file, or "--options"."""
    values: dict[str, Any]
    """Plain nested mapping; interpolations (``${a.b}``) not resolved yet."""

    def holds(self, dotted_key: str) -> bool:
        """Tell whether this layer sets `dotted_key` or something below it."""
        node: Any = self.values
        for part in re.sub(r"\[\d+\]", "", dotted_key).split("."):
            if not isinstance(node, Mapping) or part not in node:
                return False
            node = node[part]
        return True


def load_yaml(path: str | Path, what: str = "the configuration file") -> Layer:
    """Read one YAML file.

    Raises:
        MissingFileError: there is no such file.
        ConfigError: it is not YAML, or not a mapping.
    """
    file = Path(resolve_path(path))
    if not file.is_file():
        raise MissingFileError(f"missing file: {what} {searched(file)}")
    try:
        values = _plain(OmegaConf.load(file))
    except (yaml.YAMLError, OmegaConfBaseException, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{file}: cannot be read as YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{file}: expected keys with values at the top level, e.g. 'model:'")
    return Layer(str(path), values)


def parse_options(options: Sequence[str] | None) -> Layer:
    """Read ``--options``, given as ``a.b=c`` or as ``a.b c``; the two forms may be mixed.

    Values are YAML: ``null``, ``3e-5``, ``[1, 2]``, ``{a: 1}``.

    Raises:
        ConfigError: a key without a value, a malformed key, or a value that is not YAML.
    """
    words = list(options or [])
    problems: list[str] = []
    values: Any = OmegaConf.create({})
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
            values = OmegaConf.merge(values, _parse_option(key, text))
        except ConfigError as error:
            problems.extend(error.problems)
    if problems:
        raise ConfigError(problems)
    return Layer(OPTIONS, _plain(values))


def _parse_option(key: str, text: str) -> Any:
    if not KEY_PATTERN.fullmatch(key):
        raise ConfigError(f"{OPTIONS}: '{key}' is not a dotted key such as run.max_epoch")
    if re.match(r"""\s*[^"'\s].*""", text) and re.search(r"(^|\s)#", text):
        raise ConfigError(
            f"{OPTIONS}: {key}: YAML takes what follows '#' in {text!r} for a comment; put quotes inside "
            f"""the value, e.g. "{key}='{text}'\""""
        )
    try:
        return OmegaConf.from_dotlist([f"{key}={text}"])
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"{OPTIONS}: {key}: cannot read {text!r} as YAML ({reason}); text with : or {{}} needs quotes "
            f"""inside the value, e.g. "{key}='{text}'\""""
        ) from error


def merge_layers(layers: Sequence[Layer]) -> dict[str, Any]:
    """Merge layers, later ones first in rank: mappings are merged, lists and plain values replaced.

    Interpolations are resolved in the merged whole.

    Raises:
        ConfigError: an interpolation that leads nowhere, or a mapping met by something else.
    """
    try:
        merged = OmegaConf.merge(*(OmegaConf.create(layer.values) for layer in layers))
        return dict(OmegaConf.to_container(merged, resolve=True))  # type: ignore[arg-type]
    except OmegaConfBaseException as error:
        origins = ", ".join(layer.origin for layer in layers)
        raise ConfigError(f"cannot merge {origins}: {str(error).splitlines()[0]}") from error


def merge_files(paths: Sequence[str | Path], options: Sequence[str] | None = None) -> dict[str, Any]:
    """Merge YAML files, later ones first in rank, then ``--options``; no key is checked."""
    return merge_layers([*(load_yaml(path) for path in paths), parse_options(options)])


def _plain(node: Any) -> Any:
    return OmegaConf.to_container(node, resolve=False)
