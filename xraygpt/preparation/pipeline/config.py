"""The settings of a preparation: sections of a YAML file, or ``--options``; and the split drawn by them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from xraygpt.common.errors import ConfigError
from xraygpt.common.merge import load_yaml, merge_layers, parse_options
from xraygpt.common.typed import Problem, collect
from xraygpt.pictures.convert import PictureConfig
from xraygpt.preparation.reports.chat_rewriting import RewritingConfig
from xraygpt.preparation.reports.cleaning import CleaningConfig
from xraygpt.preparation.study import Study


@dataclass
class SplitConfig:
    """How splits are drawn where none are published."""

    seed: int = 0
    """Another seed gives other splits."""
    val: float = 0.1
    """Share of the patients (studies, where patients are unknown) in the split ``val``."""
    test: float = 0.2
    """Share in the split ``test``. 0.7, 0.1 and 0.2 are the shares that most work on OpenI uses."""

    def __post_init__(self) -> None:
        for key, value in (("val", self.val), ("test", self.test)):
            if not 0 <= value < 1:
                raise ValueError(f"{key} must be a share from 0 to below 1, not {value}")
        if self.val + self.test >= 1:
            raise ValueError(f"val and test leave nothing to train on: {self.val} + {self.test}")


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


def split_of(study: Study, config: SplitConfig) -> str:
    """Return the published split of a study, or draw one: ``train``, ``val`` or ``test``.

    The draw depends on the seed and the patient (the study, where the patient is unknown) and on nothing
    else. So a patient is in one split, and a study stays in its split when rules or other studies change;
    the shares are met on average only.
    """
    if study.split is not None:
        return study.split
    name = f"{config.seed}:{study.patient_id or study.study_id}"
    number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64
    if number < config.test:
        return "test"
    return "val" if number < config.test + config.val else "train"
