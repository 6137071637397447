"""``run.feature_cache``: what frozen parts make of the training images, computed once before training.

The batches in which it is computed are the same for any number of processes and any batch size of the
training, so that its numbers are too. Each process computes its share of them and writes it into one file;
the folder takes its name once it is whole.
"""

from __future__ import annotations

import fcntl
import hashlib
import inspect
import itertools
import json
import logging
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import PIL
import torch
import torchvision
from torch import Tensor, nn

from xraygpt.common.config import Config
from xraygpt.common.dist_utils import get_dist_info, in_main_process, is_main_process
from xraygpt.common.errors import ConfigError, DataError, XrayGPTError
from xraygpt.common.logger import progress
from xraygpt.common.paths import cache_root
from xraygpt.common.precision import DTYPES, Precision
from xraygpt.common.registry import registry
from xraygpt.common.run_config import FeatureCacheConfig
from xraygpt.common.run_record import writing
from xraygpt.common.utils import format_bytes
from xraygpt.datasets.batch import images_of, to_device
from xraygpt.datasets.builders import BaseDatasetBuilder
from xraygpt.datasets.datasets.base_dataset import ReportDataset
from xraygpt.datasets.feature_cache import (
    FEATURE_FILE,
    CachedDataset,
    CachedFeatures,
    Crops,
    FeatureIndex,
    FrozenPart,
    write_features,
)
from xraygpt.datasets.stream import BatchLoader, EvalStream
from xraygpt.models.base_model import BaseModel
from xraygpt.models.vision_tower import preprocessing_for
from xraygpt.processors import BaseProcessor
from xraygpt.tasks.steps import gather

logger = logging.getLogger(__name__)

VERSION = 1
"""Of the files, and of the way to compute what is in them."""
ADVICE = (
    "Free some space, name a folder on another disk (run.feature_cache.folder), set dtype to fp16 or bf16, "
    "take fewer crops, or leave run.feature_cache out."
)
BATCH_SIZE = 32
"""Images that are encoded together, on which rounding depends."""


def cached_datasets(
    datasets: Sequence[ReportDataset],
    names: Sequence[str],
    *,
    cfg: Config,
    settings: FeatureCacheConfig,
    model: BaseModel,
    device: torch.device,
    precision: Precision,
) -> list[ReportDataset]:
    """Return training data with features in place of images, computed now unless they are in a cache.

    All processes have to call this.

    Args:
        datasets: each with its name in `names`, a section of the configuration's `datasets`.
        model: on its device, with the weights that training starts from.

    Raises:
        ConfigError: the model or a data set cannot be used in this way, or the disk is full.
        DataError: an image cannot be read.
    """
    part = model.frozen_part()
    model.train()  # the modes that its parts have in training
    check_nothing_random(part)
    common = {
        "version": VERSION,
        "part": part.name,
        "settings": part.settings,
        "weights": in_main_process(lambda: weights_hash(part.modules)),
        "crops": settings.crops,
        "dtype": settings.dtype,
        "seed": (seed := cfg.run_cfg.seed if settings.crops > 1 else 0),
        "batch_size": BATCH_SIZE,
        "device": device.type,
        "precision": str(precision.dtype),
        "libraries": [torch.__version__, torchvision.__version__, PIL.__version__],
    }
    root = Path(settings.folder).expanduser() if settings.folder else cache_root() / "features"

    def cached(name: str, dataset: ReportDataset) -> ReportDataset:
        processor = _image_processor(name, cfg, settings.crops)
        images = Crops(dataset.with_processor(processor), settings.crops, seed)
        modules = [inner for module in part.modules.values() for inner in module.modules()]
        code = _code_hash([model, dataset, processor, *modules])
        facts = common | {"code": code, "processor": _description(processor)}
        folder, made_from = in_main_process(lambda: _place(root, dataset, facts))
        index = FeatureIndex(len(images), part.shape, settings.dtype, "fp32", made_from=made_from)
        workers = cfg.run_cfg.loading_processes()
        cache = Cache(name, folder, index, images, part, device, precision, workers)
        return CachedDataset(dataset, cache.features(), settings.crops)

    return [cached(name, dataset) for name, dataset in zip(names, datasets, strict=True)]


def check_nothing_random(part: FrozenPart) -> None:
    """Raise ConfigError if a module of the part draws at random in its present mode."""
    for name, module in part.modules.items():
        for inner, child in module.named_modules():
            if child.training and (getattr(child, "p", 0) or getattr(child, "drop_prob", 0)):
                raise ConfigError(
                    f"run.feature_cache: {name}.{inner} ({type(child).__name__}) of the {part.name} draws at "
                    "random in training; set its rate (such as model.vision.drop_path_rate) to 0, or leave "
                    "run.feature_cache out"
                )


def weights_hash(modules: Mapping[str, nn.Module]) -> str:
    """Return the SHA-256 of names, types, sizes and values of all weights and buffers."""
    digest = hashlib.sha256()
    for name, module in modules.items():
        for key, value in module.state_dict().items():
            digest.update(f"{name}.{key} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _code_hash(objects: Iterable[object]) -> str:
    """Return the SHA-256 of the files that define the classes of these objects, but for torch's."""
    classes = {type(each) for each in objects if not type(each).__module__.startswith("torch.")}
    files: set[str] = set()
    for cls in classes:
        with suppress(TypeError, OSError):  # a class that is in no file
            files.add(inspect.getfile(cls))
    return hashlib.sha256(b"".join(Path(file).read_bytes() for file in sorted(files))).hexdigest()


def _image_processor(name: str, cfg: Config, crops: int) -> BaseProcessor:
    """Return the processor that images of a data set go through: that of training if there are crops."""
    builder = registry.get_builder_class(name, BaseDatasetBuilder)
    built = builder(cfg.datasets_cfg[name], preprocessing_for(cfg.model_cfg))
    built.build_processors()
    train, evaluation = built.vis_processors["train"], built.vis_processors["eval"]
    if crops > 1:
        return train
    if _description(train) != _description(evaluation):
        logger.info(
            "run.feature_cache.crops is 1: the images of %s are seen as in evaluation (%s); %s, which may "
            "crop at random, is not used",
            *(name, type(evaluation).__name__, type(train).__name__),
        )
    return evaluation


def _description(processor: BaseProcessor) -> dict[str, Any]:
    return {"class": type(processor).__name__, **processor.settings}


def _place(root: Path, dataset: ReportDataset, made_from: dict[str, Any]) -> tuple[Path, dict[str, Any]]:
    """Return the folder of a cache, and all that its features follow from."""
    stamps = hashlib.sha256()
    for stamp in dataset.image_stamps():
        stamps.update(f"{stamp}\n".encode())
    text = json.dumps(made_from | {"images": stamps.hexdigest()}, sort_keys=True, default=asdict)
    root.mkdir(parents=True, exist_ok=True)
    return root / hashlib.sha256(text.encode()).hexdigest()[:16], json.loads(text)


@dataclass(frozen=True)
class Share:
    """What one process tells of the features that it has computed."""

    skipped: dict[str, str]
    """As in `FeatureIndex`."""
    computed: torch.dtype | None
    """Number format that the model has given; None where there was no image."""


@dataclass(frozen=True)
class Cache:
    """One data set's cache, which is there or is made."""

    name: str
    """Of the data set."""
    folder: Path
    index: FeatureIndex
    """As it will be, but for what only computing tells."""
    images: Crops
    part: FrozenPart
    device: torch.device
    precision: Precision
    num_workers: int

    @property
    def unfinished(self) -> Path:
        """The folder under the name that it has until it is whole."""
        return self.folder.with_name(f".{self.folder.name}.part")

    def features(self) -> CachedFeatures:
        """Return the features, computed if need be."""
        if not in_main_process(self._is_there):
            with self._locked():
                if not in_main_process(self._is_there):  # another run may have made it meanwhile
                    self._make()
        if not self.folder.exists():
            raise self._not_shared(self.folder)
        return CachedFeatures(self.folder)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other runs from making the same cache at the same time; they wait and use this one."""
        if not is_main_process():
            yield
            return
        path = self.folder.with_name(f".{self.folder.name}.lock")
        with path.open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                logger.info("another run is making the feature cache %s; waiting for it", self.folder)
                fcntl.flock(file, fcntl.LOCK_EX)
            yield
            path.unlink(missing_ok=True)  # whoever waits for it finds the cache

    def _is_there(self) -> bool:
        if not self.folder.exists():
            return False
        try:
            CachedFeatures(self.folder)
        except (XrayGPTError, OSError) as error:
            logger.warning("the feature cache of %s is damaged and is made again: %s", self.name, error)
            return False
        size = format_bytes(self.index.nbytes)
        logger.info("features of %s: using those in %s (%s)", self.name, self.folder, size)
        return True

    def _make(self) -> None:
        """Compute and write all features, this process its share."""
        started = time.perf_counter()
        in_main_process(self._begin)
        try:
            outcome: Share | XrayGPTError | OSError
            try:
                outcome = self._compute()
            except (XrayGPTError, OSError) as error:
                outcome = error
            shares: list[Share] = []
            for each in gather([outcome]):
                if isinstance(each, Exception):
                    raise each
                shares.append(each)
            in_main_process(lambda: self._finish(shares))
        finally:
            if is_main_process():
                shutil.rmtree(self.unfinished, ignore_errors=True)
        logger.info("features of %s: computed in %.1f s", self.name, time.perf_counter() - started)

    def _begin(self) -> None:
        """Make room for the file; a damaged cache and what an interrupted run has left go first."""
        for folder in (self.folder, self.unfinished):
            shutil.rmtree(folder, ignore_errors=True)
        free = shutil.disk_usage(self.folder.parent).free
        what = (
            f"{len(self.images.dataset)} images x {self.images.crops} crop(s) of {self.index.shape[0]} x "
            f"{self.index.shape[1]} numbers in {self.index.dtype} need {format_bytes(self.index.nbytes)}"
        )
        if self.index.nbytes > free:
            raise ConfigError(
                f"run.feature_cache: {what} for {self.name}, and {self.folder.parent} has "
                f"{format_bytes(free)} free. {ADVICE}"
            )
        logger.info(
            "features of %s, by the %s: %s in %s, where %s are free",
            *(self.name, self.part.name, what, self.folder, format_bytes(free)),
        )
        with self._disk_errors():
            self.unfinished.mkdir()
            with (self.unfinished / FEATURE_FILE).open("wb") as file:
                file.truncate(self.index.nbytes)

    def _compute(self) -> Share:
        """Write this process's share of the features."""
        path = self.unfinished / FEATURE_FILE
        if not path.is_file():
            raise self._not_shared(path)
        stream = EvalStream(self.images, BATCH_SIZE, self.images.seed, *get_dist_info())
        problems: list[str] = []
        loader = BatchLoader(
            stream,
            num_workers=self.num_workers,
            pin_memory=self.device.type == "cuda",
            on_skipped=problems.extend,
        )
        batches = [range(len(self.images))[i * BATCH_SIZE : (i + 1) * BATCH_SIZE] for i in stream.numbers]
        left = dict.fromkeys(itertools.chain.from_iterable(batches))
        given: torch.dtype | None = None
        with path.open("r+b", buffering=0) as file:
            for batch in progress(loader, desc=f"features of {self.name}"):
                with torch.no_grad(), self.precision.autocast():
                    features = self.part.encode(images_of(to_device(batch, self.device)))
                self._check_shape(features)
                given = features.dtype
                rows = {int(name): row for name, row in zip(batch["image_id"], features, strict=True)}
                with self._disk_errors():
                    write_features(file, self.index, rows)
                for row in rows:
                    del left[row]
            with self._disk_errors():
                os.fsync(file.fileno())
        # The problems are told in the order of the rows that are left.
        skipped = {str(row // self.images.crops): text for row, text in zip(left, problems, strict=True)}
        return Share(skipped, given)

    def _check_shape(self, features: Tensor) -> None:
        if tuple(features.shape[1:]) != self.index.shape:
            raise ConfigError(
                f"run.feature_cache: the {self.part.name} gives features of {tuple(features.shape[1:])} "
                f"numbers and says that they are {self.index.shape}"
            )

    def _finish(self, shares: Sequence[Share]) -> None:
        """Write the index and give the folder its name."""
        skipped = {image: text for share in shares for image, text in share.skipped.items()}
        given = next((share.computed for share in shares if share.computed is not None), None)
        if given is None:
            raise DataError(f"every image of {self.name} is corrupt, such as: {next(iter(skipped.values()))}")
        names: dict[torch.dtype, Any] = {dtype: name for name, dtype in DTYPES.items()}
        with self._disk_errors():
            replace(self.index, computed=names[given], skipped=skipped).write(self.unfinished)
            self.unfinished.rename(self.folder)

    @contextmanager
    def _disk_errors(self) -> Iterator[None]:
        """Say what to do about a full disk or a lost permission."""
        try:
            with writing(self.unfinished):
                yield
        except OSError as error:
            raise ConfigError(
                f"run.feature_cache: {error.filename}: {error.strerror}; nothing of this cache is kept. "
                f"It needs {format_bytes(self.index.nbytes)}. {ADVICE}"
            ) from error

    def _not_shared(self, path: Path) -> DataError:
        return DataError(
            f"run.feature_cache: {path} is not there for every process; processes on several machines have "
            "to share run.feature_cache.folder"
        )
