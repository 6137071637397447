"""The builders: the released recipe's two data sets, anyone's images and reports or conversations, synthetic
radiographs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from xraygpt.common.errors import ConfigError
from xraygpt.common.paths import require_file
from xraygpt.common.registry import registry
from xraygpt.common.tables import normalise_split
from xraygpt.datasets.builders.base_dataset_builder import BaseDatasetBuilder, BuildInfo, DatasetConfig
from xraygpt.datasets.datasets.annotations import (
    Annotations,
    Columns,
    annotations_without_reports,
    read_annotation_tables,
)
from xraygpt.datasets.datasets.base_dataset import ReportDataset
from xraygpt.datasets.datasets.caption_datasets import CaptionDataset
from xraygpt.datasets.datasets.dialogue_dataset import DialogueDataset
from xraygpt.datasets.datasets.images import ImageStore, open_folder
from xraygpt.datasets.datasets.mimic_dataset import MIMICDataset
from xraygpt.datasets.datasets.openi_dataset import OpenIDataset
from xraygpt.datasets.datasets.phantom_dataset import PhantomDataset

CAPTION_KEY = "datasets.caption.build_info"


@registry.register_builder("mimic")
class MIMICBuilder(BaseDatasetBuilder):
    """MIMIC-CXR, for the first stage."""

    train_dataset_cls = MIMICDataset
    DATASET_CONFIG_DICT: ClassVar[dict[str, str]] = {"default": "configs/datasets/mimic/defaults.yaml"}


@registry.register_builder("openi")
class OpenIBuilder(BaseDatasetBuilder):
    """OpenI, for the second stage."""

    train_dataset_cls = OpenIDataset
    DATASET_CONFIG_DICT: ClassVar[dict[str, str]] = {"default": "configs/datasets/openi/defaults.yaml"}


@dataclass
class CaptionBuildInfo(BuildInfo):
    """Where the images and reports lie: `images` and `annotations`, or `storage` for a prepared folder."""

    images: str | None = None
    """Folder that the images lie in or below."""
    annotations: list[str] | str | None = None
    """Table or tables of the reports: .csv, .tsv, .json (a list, or one under the key ``annotations`` or
    under the names of splits) or .jsonl, in UTF-8. null: every image in or below the folder, without a
    report, as the split ``test``, to write reports for."""
    columns: Columns = field(default_factory=Columns)
    """Which of their columns holds what."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shards is not None and (self.images is not None or self.annotations is not None):
            raise ValueError("shards hold images and reports; set them or images and annotations, not both")
        if self.storage is not None and (self.images is not None or self.annotations is not None):
            raise ValueError("storage already holds images and annotations; set it or those two, not both")


@dataclass
class CaptionConfig(DatasetConfig):
    """The section ``datasets.caption`` of a configuration."""

    build_info: CaptionBuildInfo = field(default_factory=CaptionBuildInfo)
    """Where the images and reports lie."""


@registry.register_builder("caption")
class CaptionBuilder(BaseDatasetBuilder):
    """Images of any folder with the reports of any table."""

    config_class = CaptionConfig
    train_dataset_cls = CaptionDataset
    DATASET_CONFIG_DICT: ClassVar[dict[str, str]] = {"default": "configs/datasets/caption/defaults.yaml"}

    def read(self) -> tuple[Annotations, ImageStore | None]:
        """Read the tables and open the folder of the images; a prepared folder is read like any other.

        Raises:
            ConfigError: it is not set where they are.
            MissingFileError: they are not there.
            DataError: tables or rows cannot be used.
        """
        info: CaptionBuildInfo = self.config.build_info
        if info.storage is not None:
            return super().read()
        images = self._open_images() if self.config.data_type == "images" else None
        if images is not None and info.annotations is None:
            return annotations_without_reports(images), images
        if not info.annotations:
            raise _not_set()
        tables = [info.annotations] if isinstance(info.annotations, str) else info.annotations
        paths = [
            require_file(text, "a table of reports", "your own data", f"{CAPTION_KEY}.annotations")
            for text in tables
        ]
        return read_annotation_tables(paths, info.columns, images), images

    def _open_images(self) -> ImageStore:
        if self.config.build_info.images is None:
            raise _not_set()
        text = self.config.build_info.images
        folder = require_file(text, "the folder of the images", "your own data", f"{CAPTION_KEY}.images")
        return open_folder(folder, self.train_dataset_cls.suffixes)


def _not_set() -> ConfigError:
    return ConfigError(
        f"{CAPTION_KEY}: set images (a folder) and annotations (a table), or storage (a prepared folder); "
        "images without annotations are for writing reports"
    )


@dataclass
class DialogueBuildInfo(BuildInfo):
    """Where the conversations lie; ``storage`` is not used."""

    files: dict[str, list[str]] = field(default_factory=dict)
    """Split name -> files, .jsonl or .json, in any of the forms of `dialogue_dataset`."""


@dataclass
class DialogueConfig(DatasetConfig):
    """The section ``datasets.dialogues`` of a configuration; ``data_type`` is not used, all is text."""

    build_info: DialogueBuildInfo = field(default_factory=DialogueBuildInfo)
    """Where they lie."""


@registry.register_builder("dialogues")
class DialogueBuilder(BaseDatasetBuilder):
    """Conversations and question-answer pairs for a language model."""

    config_class = DialogueConfig

    def build(self) -> dict[str, ReportDataset]:
        """Return {split: data set}.

        Raises:
            ConfigError: no files are named.
            MissingFileError, DataError: files are absent or malformed.
        """
        key = "datasets.dialogues.build_info.files"
        if not any(self.config.build_info.files.values()):
            raise ConfigError(
                f"{key} is not set; it names the files of each split, e.g. {{train: [chats.jsonl]}}"
            )
        return {
            (name := normalise_split(split)): DialogueDataset(
                [require_file(file, "a file of conversations", "your own data", key) for file in files],
                self.text_processors["train" if name == "train" else "eval"],
            )
            for split, files in self.config.build_info.files.items()
        }


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

    def build(self) -> dict[str, ReportDataset]:
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
