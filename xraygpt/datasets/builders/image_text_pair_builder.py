"""Builders of the released recipe's two data sets."""

from __future__ import annotations

from typing import ClassVar

from xraygpt.common.registry import registry
from xraygpt.datasets.builders.base_dataset_builder import BaseDatasetBuilder
from xraygpt.datasets.datasets.mimic_dataset import MIMICDataset
from xraygpt.datasets.datasets.openi_dataset import OpenIDataset


@registry.register_builder("mimic")
class MIMICBuilder(BaseDatasetBuilder):
    """MIMIC-CXR, for the first stage."""

    train_dataset_cls = MIMICDataset
    eval_dataset_cls = MIMICDataset
    DATASET_CONFIG_DICT: ClassVar[dict[str, str]] = {"default": "configs/datasets/mimic/defaults.yaml"}


@registry.register_builder("openi")
class OpenIBuilder(BaseDatasetBuilder):
    """OpenI, for the second stage."""

    train_dataset_cls = OpenIDataset
    eval_dataset_cls = OpenIDataset
    DATASET_CONFIG_DICT: ClassVar[dict[str, str]] = {"default": "configs/datasets/openi/defaults.yaml"}
