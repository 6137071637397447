"""What all builders do; a builder itself is a declaration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from xraygpt.common.errors import ConfigError, MissingFileError
from xraygpt.common.paths import package_root, resolve_path
from xraygpt.common.tables import SPLITS, normalise_split
from xraygpt.datasets.datasets.annotations import ANNOTATION_FILE, Annotations, read_annotations
from xraygpt.datasets.datasets.base_dataset import BaseDataset, ReportDataset
from xraygpt.datasets.datasets.images import IMAGE_FOLDER, ImageStore, open_storage
from xraygpt.datasets.datasets.shard_index import SHARD_FOLDER
from xraygpt.datasets.datasets.streamed import StreamedDataset, expand_shards, fetch_split
from xraygpt.processors import BaseProcessor, Preprocessing, load_processor


@dataclass
class BuildInfo:
    """Where a data set lies."""

    storage: str | None = None
    """Folder with ``filter_cap.json`` and the folder ``image`` or ``shards``; this or `shards` has to be
    set."""
    shards: dict[str, list[str] | str] | list[str] | str | None = None
    """webdataset shards, which hold images and reports, in place of `storage`. Web addresses, ``pipe:`` with
    a command that writes a tar, or local paths, with ``{000..059}`` for many; of the split ``train``, or
    ``{train: ..., val: ..., test: ...}``. ``train`` is streamed, others are fetched into memory."""
    shuffle_buffer: int = 1000
    """Samples, as they are stored in `shards`, among which each loading process draws the next one."""

    def __post_init__(self) -> None:
        if self.shuffle_buffer < 1:
            raise ValueError(f"shuffle_buffer must be at least 1, got {self.shuffle_buffer}")
        if self.shards is not None:
            self.storage = None  # the default of the data set, or that of a file below
            if unknown := sorted(self.shards_by_split().keys() - {*SPLITS}):
                raise ValueError(f"shards are of the splits {', '.join(SPLITS)}, not {', '.join(unknown)}")

    def shards_by_split(self) -> dict[str, list[str]]:
        """Return the patterns of the shards of each split."""
        given = self.shards if isinstance(self.shards, dict) else {"train": self.shards or []}
        return {
            normalise_split(split): [patterns] if isinstance(patterns, str) else list(patterns)
            for split, patterns in given.items()
        }


@dataclass
class DatasetConfig:
    """The section of one data set in a configuration."""

    build_info: BuildInfo = field(default_factory=BuildInfo)
    """Where it lies."""
    data_type: Literal["images", "text"] = "images"
    """"images": images with reports; "text": the reports alone, no image is needed."""
    vis_processor: dict[str, Any] = field(default_factory=dict)
    """Image processors, ``{train: {name: ...}, eval: {name: ...}}``; "eval" is for all other splits. Without
    "eval" they get the training images' size and normalisation, uncropped."""
    text_processor: dict[str, Any] = field(default_factory=dict)
    """Text processors, likewise; without "eval" the one for training is used, without both "identity"."""
    sample_ratio: float = 1.0
    """Weight of this data set where several are trained on together."""
    skip_corrupt: bool = False
    """Leave out images that cannot be decoded, count and list them, instead of stopping at the first."""

    def __post_init__(self) -> None:
        if self.sample_ratio <= 0:
            raise ValueError(f"sample_ratio must be positive, not {self.sample_ratio}")


class BaseDatasetBuilder:
    """Builds the splits of one data set.

    Args:
        cfg: an instance of `config_class`.
        preprocessing: what the vision encoder expects of the images, for what `cfg` leaves out.
    """

    config_class: ClassVar[type] = DatasetConfig
    DATASET_CONFIG_DICT: ClassVar[dict[str, str]] = {}
    """Type -> YAML file with the defaults, relative to the package; none: those of `config_class` do."""
    train_dataset_cls: ClassVar[type[BaseDataset]]
    """Class of all splits; the name is LAVIS'."""

    def __init__(self, cfg: Any = None, preprocessing: Preprocessing | None = None) -> None:
        self.preprocessing = preprocessing
        self.config: Any = cfg if cfg is not None else self.config_class()
        self.vis_processors: dict[str, BaseProcessor] = {}
        self.text_processors: dict[str, BaseProcessor] = {}

    def build_datasets(self) -> dict[str, ReportDataset]:
        """Return the data set of each split there is.

        Raises:
            ConfigError: no storage is set.
            MissingFileError, DataError: files are absent or malformed.
        """
        self.build_processors()
        return self.build()

    def build_processors(self) -> None:
        """Fill `vis_processors` and `text_processors` for "train" and "eval"."""
        vis, text = self.config.vis_processor, self.config.text_processor
        vis_train = vis.get("train") or {"name": "blip2_image_train"}
        vis_eval = vis.get("eval") or _eval_counterpart(vis_train)
        text_train = text.get("train") or {"name": "identity"}
        self.vis_processors = {"train": self._build(vis_train), "eval": self._build(vis_eval)}
        self.text_processors = {
            "train": self._build(text_train),
            "eval": self._build(text.get("eval") or text_train),
        }

    def build(self) -> dict[str, ReportDataset]:
        """Return {split: data set}."""
        if self.config.build_info.shards is not None:
            return {
                split: self._from_shards(split, patterns)
                for split, patterns in self.config.build_info.shards_by_split().items()
            }
        annotations, images = self.read()
        return {split: self._split(split, annotations, images) for split in annotations.splits()}

    def _split(self, split: str, annotations: Annotations, images: ImageStore | None) -> BaseDataset:
        kind = "train" if split == "train" else "eval"
        return self.train_dataset_cls(
            vis_processor=self.vis_processors[kind],
            text_processor=self.text_processors[kind],
            vis_root=images,
            annotations=annotations,
            split=split,
            skip_corrupt=self.config.skip_corrupt,
        )

    def _from_shards(self, split: str, patterns: Sequence[str]) -> ReportDataset:
        """Return a split that is streamed, or fetched because it is read in order and looked up in."""
        name, with_images = self.train_dataset_cls.name, self.config.data_type == "images"
        urls = expand_shards(patterns, f"datasets.{name}.build_info.shards")
        if split != "train":
            annotations, images = fetch_split(urls, split, with_images)
            return self._split(split, annotations, images if with_images else None)
        return StreamedDataset(
            name,
            urls,
            self.vis_processors["train"],
            self.text_processors["train"],
            images=with_images,
            skip_corrupt=self.config.skip_corrupt,
            shuffle_buffer=self.config.build_info.shuffle_buffer,
        )

    def read(self) -> tuple[Annotations, ImageStore | None]:
        """Read ``<storage>/filter_cap.json`` and open ``<storage>/image`` or ``<storage>/shards``.

        Returns:
            The annotations of all splits, and their images; None if the configuration asks for no images.
        """
        storage = self.storage()
        annotations = read_annotations(storage / ANNOTATION_FILE)
        if self.config.data_type == "text":
            return annotations, None
        return annotations, open_storage(storage, self.train_dataset_cls.suffixes)

    def storage(self) -> Path:
        """Return the folder of the data set.

        Raises:
            ConfigError: it is not set.
            MissingFileError: it is not there.
        """
        name = self.train_dataset_cls.name
        key = f"datasets.{name}.build_info.storage"
        if not self.config.build_info.storage:
            raise ConfigError(
                f"{key} is not set; it names the folder with {ANNOTATION_FILE} and {IMAGE_FOLDER}/ "
                f"(or {SHARD_FOLDER}/); build_info.shards names shards that lie elsewhere"
            )
        folder = Path(resolve_path(self.config.build_info.storage))
        if not folder.is_dir():
            raise MissingFileError(
                f"missing folder: the data set '{name}'\n"
                f"  expected at: {folder} (put it there, or set {key})\n"
                f"  its content: {ANNOTATION_FILE} and "
                f"{IMAGE_FOLDER}/<image_id>{self.train_dataset_cls.suffixes[0]} or {SHARD_FOLDER}/\n"
                f"  comes from:  {self.train_dataset_cls.obtained_from}"
            )
        return folder

    def _build(self, node: Mapping[str, Any]) -> BaseProcessor:
        return load_processor(node["name"], node, self.preprocessing)

    @classmethod
    def default_config_path(cls, type: str = "default") -> Path:
        """Return the YAML file with the defaults of `type`."""
        return package_root() / cls.DATASET_CONFIG_DICT[type]


def _eval_counterpart(train: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the processor that fits `train` and draws nothing at random."""
    if train["name"] != "blip2_image_train":
        return train
    kept = {key: train[key] for key in ("image_size", "mean", "std", "interpolation") if key in train}
    return {"name": "blip2_image_eval", **kept}
