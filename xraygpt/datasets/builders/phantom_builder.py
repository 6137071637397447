"""Builder of the synthetic radiographs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from xraygpt.common.registry import registry
from xraygpt.datasets.builders.base_dataset_builder import BaseDatasetBuilder, DatasetConfig
from xraygpt.datasets.datasets.phantom_dataset import PhantomDataset


@dataclass
class PhantomSplit:
    """One split of phantoms."""

    seed: int = 0
    """Seed of the split."""
    count: int = 1000
    """Number of phantoms."""

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"count must be at least 1, got {self.count}")


@dataclass
class PhantomConfig(DatasetConfig):
    """The section ``datasets.phantom`` of a configuration. ``build_info`` is not used: nothing is read."""

    size: int = 64
    """Side of the rendered images in pixels."""
    splits: dict[str, PhantomSplit] = field(default_factory=dict)
    """Split name -> seed and count."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size < 64:
            raise ValueError(f"size must be at least 64 pixels, got {self.size}: smaller findings vanish")
        seeds = [split.seed for split in self.splits.values()]
        if len(set(seeds)) < len(seeds):
            raise ValueError(
                f"splits share a seed ({seeds}), so they would share phantoms: give each its own"
            )


@registry.register_builder("phantom")
class PhantomBuilder(BaseDatasetBuilder):
    """Synthetic radiographs with reports and exact truth."""

    config_class = PhantomConfig
    DATASET_CONFIG_DICT: ClassVar[dict[str, str]] = {"default": "configs/datasets/phantom/defaults.yaml"}

    def build(self) -> dict[str, Any]:
        """Return {split: data set}; images not in the cache are rendered now."""
        return {
            name: PhantomDataset(
                self.vis_processors["train" if name == "train" else "eval"],
                self.text_processors["train" if name == "train" else "eval"],
                seed=split.seed,
                count=split.count,
                size=self.config.size,
                images=self.config.data_type == "images",
            )
            for name, split in self.config.splits.items()
        }
