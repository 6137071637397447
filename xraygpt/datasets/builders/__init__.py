"""From a data set's configuration to its splits."""

from __future__ import annotations

from pathlib import Path

from xraygpt.common.config import build_typed, merge_files
from xraygpt.common.registry import registry
from xraygpt.datasets.builders.base_dataset_builder import BaseDatasetBuilder, BuildInfo, DatasetConfig
from xraygpt.datasets.builders.image_text_pair_builder import (
    CaptionBuilder,
    DialogueBuilder,
    MIMICBuilder,
    OpenIBuilder,
    PhantomBuilder,
)
from xraygpt.datasets.datasets.base_dataset import ReportDataset

__all__ = [
    "BaseDatasetBuilder",
    "BuildInfo",
    "CaptionBuilder",
    "DatasetConfig",
    "DatasetZoo",
    "DialogueBuilder",
    "MIMICBuilder",
    "OpenIBuilder",
    "PhantomBuilder",
    "load_dataset",
]


def load_dataset(
    name: str,
    cfg_path: str | Path | None = None,
    vis_path: str | Path | None = None,
    data_type: str | None = None,
) -> dict[str, ReportDataset]:
    """Build the splits of a registered data set by hand, for a notebook.

    Args:
        cfg_path: YAML file with a section ``datasets.<name>``; None takes the builder's defaults.
        vis_path: storage folder, in place of the one configured.
        data_type: in place of the one configured.
    """
    builder_cls = registry.get_builder_class(name, BaseDatasetBuilder)
    defaults = [builder_cls.default_config_path()] if builder_cls.DATASET_CONFIG_DICT else []
    paths = [*defaults, *([cfg_path] if cfg_path is not None else [])]
    section = merge_files(paths).get("datasets", {}).get(name, {})
    if vis_path is not None:
        section["build_info"] = {**section.get("build_info", {}), "storage": str(vis_path)}
    if data_type is not None:
        section["data_type"] = data_type
    cfg: object = build_typed(builder_cls.config_class, section, where=f"datasets.{name}")
    return builder_cls(cfg).build_datasets()


class DatasetZoo:
    """The registered data sets and the types each has a default configuration for."""

    def __init__(self) -> None:
        self.dataset_zoo = {
            name: sorted(registry.get_builder_class(name).DATASET_CONFIG_DICT)
            for name in registry.list_datasets()
        }

    def get_names(self) -> list[str]:
        """Return the names of all data sets."""
        return list(self.dataset_zoo)
