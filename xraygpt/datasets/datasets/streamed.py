"""Samples of webdataset shards that lie anywhere: behind web addresses, commands or local patterns.

A sample is an image (``x1.jpg``) and its report, the key ``caption`` of ``x1.json``, as the preparation
writes it, or ``x1.txt``. webdataset reads the tars, from its `gopen` or from curl.
"""

from __future__ import annotations

import logging
import lzma
import signal
import subprocess
import tarfile
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

from webdataset.gopen import Pipe, gopen
from webdataset.shardlists import expand_urls
from webdataset.tariterators import group_by_keys, tar_file_expander

from xraygpt.common.errors import ConfigError, DataError
from xraygpt.common.files import HEAD_BYTES, is_missing, mistaken_download, parse_json
from xraygpt.common.logger import progress
from xraygpt.common.paths import resolve_path
from xraygpt.common.tables import normalise_split
from xraygpt.datasets.batch import Sample
from xraygpt.datasets.datasets.annotations import WITHOUT_REPORTS, Annotation, Annotations
from xraygpt.datasets.datasets.base_dataset import ReportDataset
from xraygpt.datasets.datasets.images import HeldImages, SkippedImageError
from xraygpt.datasets.datasets.shard_index import INDEX_FILE, parse_index
from xraygpt.pictures.reading import IMAGE_SUFFIXES, OTHER_SUFFIXES, read_image
from xraygpt.processors.base_processor import BaseProcessor

logger = logging.getLogger(__name__)

RETRIES = 5
"""Times that a shard is opened again without getting further."""
PAUSE = 2.0
"""Seconds before the first of them; each further pause is twice as long."""
# As webdataset's gopen calls it, but with its own words about what went wrong (-S).
CURL = ("curl", "--connect-timeout", "30", "--retry", "3", "--retry-delay", "2", "-fsSL")
REFUSED = 22
"""What curl ends with when the server answers with an error."""
NOT_THERE = (" 401", " 403", " 404", " 410")
"""What curl's words about that end with where there is no such file, or none that may be read."""
UNREAD = (0, 23, 141, -signal.SIGPIPE)
"""What a command ends with that could not write any further because nobody reads on."""
BROKEN = (OSError, ValueError, EOFError, tarfile.TarError, zlib.error, lzma.LZMAError)
"""What a tar raises that has not come whole."""

RawSample = dict[str, Any]
"""As webdataset hands it out: the members' content by their suffixes, ``__key__`` and ``__url__``."""


def expand_shards(patterns: Sequence[str], key: str) -> list[str]:
    """Return the addresses or local paths that patterns such as ``train-{000000..000059}.tar`` stand for.

    Args:
        key: the configuration's key, for messages.

    Raises:
        ConfigError: a pattern cannot be expanded, or a shard is named twice.
    """
    urls: list[str] = []
    for pattern in patterns:
        try:
            urls += expand_urls(pattern)
        except (ValueError, AssertionError) as error:
            raise ConfigError(f"{key}: {pattern} cannot be expanded ({error})") from error
    urls = [url if urlsplit(url).scheme else str(resolve_path(url)) for url in urls]
    if not urls:
        raise ConfigError(f"{key}: names no shard")
    if len(set(urls)) < len(urls):
        raise ConfigError(f"{key}: {next(url for url in urls if urls.count(url) > 1)} is named twice")
    return urls


def shard_sizes(urls: Sequence[str]) -> dict[str, int] | None:
    """Return how many samples each shard has, from the indices beside them; None where there is none.

    Raises:
        DataError: an index cannot be read, is damaged or does not list a shard.
    """
    listed: dict[str, dict[str, int] | None] = {}
    sizes: dict[str, int] = {}
    for url in urls:
        folder, _, name = url.partition("?")[0].rpartition("/")
        if folder not in listed:
            listed[folder] = _listed(f"{folder}/{INDEX_FILE}" if folder else INDEX_FILE)
        shards = listed[folder]
        if shards is None:
            return None
        if not shards.get(name):
            raise DataError(f"{folder}/{INDEX_FILE}: lists no samples of {name}; prepare the shards again")
        sizes[url] = shards[name]
    return sizes


def _listed(index: str) -> dict[str, int] | None:
    """Return the number of samples by the shard's name; None where no index can be had."""
    if index.startswith(("http:", "https:")):
        try:
            answer = subprocess.run([*CURL, index], capture_output=True, check=False)
        except OSError as error:
            raise DataError(f"{index}: cannot be read without the program curl ({error})") from error
        words = _first_line(answer.stderr.decode(errors="replace"))
        # Nothing but a refusal means that there is none: all processes have to come to the same answer.
        if answer.returncode and not words.endswith(NOT_THERE):
            raise DataError(f"{index}: {words}")
        content = answer.stdout
        if answer.returncode or mistaken_download(content[:HEAD_BYTES], "an index"):
            logger.info("%s: there is no index (%s)", index, words or "but a web page")
            return None
    elif not urlsplit(index).scheme and Path(index).is_file():
        content = Path(index).read_bytes()
    else:
        return None
    return {shard.name: len(shard.images) for shard in parse_index(parse_json(content, index), index)}


class _Source:
    """What comes from an address, and what its first and last bytes and its command say of it.

    Raises:
        OSError, ValueError: there is no such file, no such command, or no way to read this kind of address.
    """

    def __init__(self, url: str) -> None:
        if url.startswith(("http:", "https:")):
            self._stream = Pipe([*CURL, url], mode="rb", stderr=subprocess.PIPE)
        else:
            self._stream = gopen(url)
        self._head = self._tail = b""
        self._words = ""
        self._ended = False

    def read(self, size: int) -> bytes:
        """Read on.

        Raises:
            OSError: the command has failed, maybe after all that there was to read.
            EOFError: the end of the tar is missing, which the reader of tars does not mind.
        """
        data: bytes = b"" if self._ended else self._stream.read(size)
        self._head = self._head or data[:HEAD_BYTES]
        self._tail = (self._tail + data)[-tarfile.BLOCKSIZE :]
        if not data and not self._ended:
            self._ended = True
            if status := self.close(patience=60.0):
                raise OSError(f"status {status}")
            if self._head[257:262] == b"ustar" and self._tail.strip(b"\0"):
                raise EOFError("the end of the tar is missing")
        return data

    def finish(self) -> None:
        """Read what is left; see `read`."""
        while self.read(1 << 20):
            pass

    def close(self, patience: float = 0.0) -> int:
        """Stop reading; return what the command ended with, 0 where there is none.

        Args:
            patience: seconds that the command has to end by itself.
        """
        if not isinstance(self._stream, Pipe):
            self._stream.close()
            return 0
        process = self._stream.proc
        self._stream.stream.close()
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stderr is not None and not process.stderr.closed:
            self._words = process.stderr.read().decode(errors="replace")
            process.stderr.close()
        return process.returncode

    def failure(self, error: Exception) -> tuple[str, bool]:
        """Return what went wrong, in words, and whether it may go better another time."""
        status = self.close(patience=5.0)
        if status not in UNREAD:
            return _first_line(self._words) or f"the command ended with status {status}", status != REFUSED
        if problem := mistaken_download(self._head, "a tar of samples"):
            return problem, False
        words = _first_line(str(error.args[0] if error.args else error)).split(" @ ")[0]
        return f"is no tar, cut short or damaged: {words}", isinstance(self._stream, Pipe)


def read_shard(url: str, size: int | None = None) -> Iterator[RawSample]:
    """Yield the samples of a shard in its order, each once.

    Where the connection drops, the shard is opened again and what has been read already is passed over.

    Args:
        size: how many samples it has to have; None if that is not known.

    Raises:
        DataError: it cannot be read, is no tar or has another number of samples; begins with the address.
    """
    given = failures = 0
    while True:
        try:
            source = _Source(url)
        except OSError as error:
            raise DataError(f"{url}: cannot be opened ({error})") from error
        except ValueError as error:
            hint = "name a command that writes it, such as pipe:aws s3 cp s3://bucket/train-{000..059}.tar -"
            raise DataError(f"{url}: addresses of this kind cannot be read; {hint}") from error
        try:
            members = tar_file_expander([{"url": url, "stream": source}])
            for sample in islice(group_by_keys(members), given, None):
                given, failures = given + 1, 0
                yield sample
            source.finish()
            break
        except BROKEN as error:
            words, may_go_better = source.failure(error)
            failures += 1
            if not may_go_better or failures > RETRIES:
                attempts = f", {failures} times in a row" if failures > 1 else ""
                raise DataError(f"{url}: {words}{attempts}") from error
            pause = PAUSE * 2 ** (failures - 1)
            logger.warning("%s: %s; opened again in %.3g s, after sample %d", url, words, pause, given)
            time.sleep(pause)
        finally:
            source.close()
    if not given:
        raise DataError(f"{url}: holds no samples")
    if size is not None and given != size:
        raise DataError(
            f"{url}: has {given} samples, and the index beside it says {size}; prepare the shards again"
        )


def annotation_of(raw: RawSample, split: str, with_image: bool) -> tuple[Annotation, bytes]:
    """Return what a sample says of its image, and the image's file; b"" if it is not asked for.

    Raises:
        DataError: members or keys are absent, or it belongs to another split.
    """
    place = f"{raw['__url__']}: {raw['__key__']}"
    there = [name for name in raw if not name.startswith("__")]
    image = next((raw[end[1:]] for end in (*IMAGE_SUFFIXES, *OTHER_SUFFIXES) if end[1:] in raw), None)
    row: Any = {}
    if "json" in raw:
        row = parse_json(raw["json"], place)
    elif "txt" in raw:
        row = {"caption": raw["txt"].decode(errors="replace").strip()}
    if (image is None and with_image) or not isinstance(row, Mapping) or not ("json" in raw or "txt" in raw):
        _refuse(place, f"has {', '.join(there)}")
    caption = "" if is_missing(row.get("caption")) else str(row["caption"])
    if not caption and split != WITHOUT_REPORTS:
        _refuse(place, f"has {', '.join(there)}, in its report {', '.join(map(str, row)) or 'nothing'}")
    own = normalise_split(str(row.get("split") or split).lower())
    if own != split:
        raise DataError(
            f"{place} is of the split '{own}', and its shard is named for '{split}': name shards of one "
            "split each, as xraygpt prepare --shards writes them"
        )
    image_id = str(row.get("image_id") or raw["__key__"])
    others = {
        str(name): str(value)
        for name, value in row.items()
        if name not in ("image_id", "caption", "split", "study_id") and isinstance(value, str | int | float)
    }
    study_id = str(row.get("study_id") or image_id)
    return Annotation(image_id, caption, split, study_id, place, others), image or b""


def _refuse(place: str, there: str) -> NoReturn:
    raise DataError(
        f"{place} {there}; a sample needs an image (jpg, png, ...) and its report: a json with the key "
        "caption, or a txt"
    )


def fetch_split(urls: Sequence[str], split: str, with_images: bool) -> tuple[Annotations, HeldImages]:
    """Read all samples of a split, in order.

    Raises:
        DataError: a shard or a sample cannot be read, or an image id comes twice.
    """
    sizes = shard_sizes(urls) or {}
    annotations: list[Annotation] = []
    files: dict[str, bytes] = {}
    for url in progress(urls, desc=f"fetching {split}"):
        for raw in read_shard(url, sizes.get(url)):
            row, image = annotation_of(raw, split, with_images)
            if row.image_id in files:
                raise DataError(f"{row.place}: the image {row.image_id} has come before")
            annotations.append(row)
            files[row.image_id] = image
    return Annotations(annotations), HeldImages(files, {row.image_id: row.place for row in annotations})


class StreamedDataset(ReportDataset):
    """A training split that is read from shards in whatever order they come (see `ShardStream`).

    Args:
        name: of the data set.
        images: hand out images; otherwise the reports alone.
        shuffle_buffer: samples, as they are stored, among which the next one is drawn.
    """

    def __init__(
        self,
        name: str,
        urls: Sequence[str],
        vis_processor: BaseProcessor,
        text_processor: BaseProcessor,
        *,
        split: str = "train",
        images: bool = True,
        skip_corrupt: bool = False,
        shuffle_buffer: int = 1000,
    ) -> None:
        self.name = name  # type: ignore[misc]  # of the data set that it is a split of
        self.urls, self.split = list(urls), split
        self.sizes = shard_sizes(urls)
        """Samples of each shard; None where no index says so."""
        self.vis_processor, self.text_processor = vis_processor, text_processor
        self.with_images, self.skip_corrupt, self.shuffle_buffer = images, skip_corrupt, shuffle_buffer

    def __len__(self) -> int:
        if self.sizes is None:
            raise ConfigError(
                f"how many samples the shards of datasets.{self.name} have is not known, since there is no "
                f"{INDEX_FILE} beside them: set run.iters_per_epoch"
            )
        return sum(self.sizes.values())

    def __getitem__(self, index: int) -> Sample:
        raise DataError(
            f"the split '{self.split}' of datasets.{self.name} is streamed and cannot be evaluated; that "
            "needs build_info.storage, a folder on this machine"
        )

    def extent(self) -> str:
        """Return the number of shards and, if it is known, of samples."""
        return f"{'' if self.sizes is None else f'{len(self)} in '}{len(self.urls)} shards"

    def with_processor(self, vis_processor: BaseProcessor | None) -> NoReturn:
        """Refuse: features are cached by position."""
        raise ConfigError(
            f"run.feature_cache: datasets.{self.name} is streamed from shards and cannot be cached; set it "
            "to null, or name a storage folder"
        )

    def read(self, shards: Iterable[Mapping[str, str]]) -> Iterator[RawSample]:
        """Yield the samples of shards, a stage of webdataset's pipelines."""
        for shard in shards:
            yield from read_shard(shard["url"], (self.sizes or {}).get(shard["url"]))

    def sample(self, raw: RawSample) -> Sample:
        """Decode a sample.

        Raises:
            DataError: it cannot be used; SkippedImageError if its image is corrupt and may be left out.
        """
        row, content = annotation_of(raw, self.split, self.with_images)
        sample: Sample = {
            "caption": self.text_processor(row.caption),
            "image_id": row.image_id,
            "study_id": row.study_id,
            "source": self.name,
        }
        if self.with_images:
            try:
                image = read_image(content, self.vis_processor.decode_size, row.place)
            except DataError as error:
                if self.skip_corrupt:
                    raise SkippedImageError(str(error)) from error
                raise DataError(f"{error}; set datasets.{self.name}.skip_corrupt: true") from error
            sample["image"] = self.vis_processor(image)
        return sample


def _first_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[0]
