"""The settings of a preparation: sections of a YAML file, or ``--options``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from xraygpt.common.errors import ConfigError
from xraygpt.common.merge import load_yaml, merge_layers, parse_options
from xraygpt.common.typed import Problem, collect
from xraygpt.pictures.convert import PictureConfig
from xraygpt.preparation.pipeline.splits import SplitConfig
from xraygpt.preparation.reports.chat_rewriting import RewritingConfig
from xraygpt.preparation.reports.cleaning import CleaningConfig


@dataclass
class PreparationConfig:
    """What is done with raw data of any source."""

    cleaning: CleaningConfig = field(default_factory=CleaningConfig)
    """Which reports are kept, and what is taken out of them."""
    pictures: PictureConfig = field(default_factory=PictureConfig)
    """How images are written."""
    splits: SplitConfig = field(default_factory=SplitConfig)
    """How splits are drawn where none are published."""
    rewriting: RewritingConfig | None = None
    """The chat model that rewrites captions; absent for none."""


def read_config(path: Path | None, options: Sequence[str]) -> PreparationConfig:
    """Read the settings: defaults < the YAML file < `options` (``cleaning.min_findings_words=5``).

    Raises:
        MissingFileError: no such file.
        ConfigError: with every problem found.
    """
    layers = [*([load_yaml(path)] if path is not None else []), parse_options(options)]
    problems: list[Problem] = []
    config = collect(PreparationConfig, merge_layers(layers), "preparation", problems)
    if config is None or problems:
        raise ConfigError([str(problem).removeprefix("preparation.") for problem in problems])
    return config
