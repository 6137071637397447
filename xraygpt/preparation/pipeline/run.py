"""A preparation from its source to a folder that trains, and its settings (a YAML file, ``--options``)."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from xraygpt.common.errors import ConfigError, DataError, XrayGPTError
from xraygpt.common.merge import load_yaml, merge_layers, parse_options
from xraygpt.common.run_record import write_text
from xraygpt.common.typed import build_typed
from xraygpt.pictures.convert import PictureConfig
from xraygpt.preparation.pipeline.output_folder import OutputFolder, Progress
from xraygpt.preparation.pipeline.shards import write_shards
from xraygpt.preparation.pipeline.stages import (
    SplitConfig,
    clean_studies,
    convert_pictures,
    plan_rewriting,
    rewrite_captions,
    write_checksums,
    write_files,
)
from xraygpt.preparation.pipeline.studies import RECORD_FILE, REPORT_FILE
from xraygpt.preparation.pipeline.summary import Summary, summarise_preparation
from xraygpt.preparation.pipeline.summary_page import write_page
from xraygpt.preparation.reports.chat_rewriting import ChatRewriter, RewritingConfig
from xraygpt.preparation.reports.cleaning import CleaningConfig
from xraygpt.preparation.study import PictureStream, Source

ANSWERS_FILE = "rewriting.jsonl"
"""What the chat model has answered; kept, so that nothing is sent twice."""


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
    try:
        return build_typed(PreparationConfig, merge_layers(layers), "preparation")
    except ConfigError as error:
        raise ConfigError(problem.removeprefix("preparation.") for problem in error.problems) from None


@dataclass(frozen=True)
class Job:
    """What is to be prepared, and how."""

    source: Source
    inputs: dict[str, Any]
    """The source's own settings as plain values: files, columns, views."""
    config: PreparationConfig
    output: Path
    with_images: bool
    """False prepares the reports alone."""
    stream: PictureStream | None = None
    """Hands out the images that lie in no file of their own."""
    shard_bytes: int | None = None
    """Largest size of a tar file; None leaves the images as files."""
    synthetic: bool = False
    """Nothing in the source comes from a patient; the page says so."""
    processes: int = 1
    command: str = ""
    """The command line, for the page."""

    def settings(self) -> dict[str, Any]:
        """Return everything that the result depends on, as plain values."""
        config = dataclasses.asdict(self.config)
        if not self.with_images:
            del config["pictures"]
        settings = {"source": self.source.name, **self.inputs, **config, "shard_bytes": self.shard_bytes}
        return dict(json.loads(json.dumps(settings)))


def prepare(job: Job) -> Summary | None:
    """Write the prepared folder, going on where an earlier start of the same job has stopped.

    Returns:
        What was done; None if the folder was finished already.

    Raises:
        DataError: the source cannot be read, nothing is left of it, or the folder holds other work.
    """
    folder = OutputFolder(job.output, job.settings())
    if folder.finished:
        return None
    with folder.open() as progress:
        _clean(job, folder, progress)
        if job.config.rewriting is not None:
            rewrite_captions(progress, ChatRewriter(job.config.rewriting, job.output / ANSWERS_FILE))
        if job.with_images and not progress.is_complete("shards"):
            convert_pictures(progress, job.stream, folder, job.config.pictures, job.processes)
        count = write_files(progress, folder, job.with_images)
        if count and job.shard_bytes is not None:
            if not progress.is_complete("shards"):
                write_shards(folder.path, job.shard_bytes)
                progress.mark_complete("shards")
            if folder.images.is_dir():
                shutil.rmtree(folder.images)
    return _conclude(job, folder, count)


def plan(job: Job) -> str:
    """Clean the reports, and say what rewriting them would send; nothing is sent.

    Raises:
        DataError: see `prepare`; or there is nothing to rewrite.
    """
    folder = OutputFolder(job.output, job.settings())
    if folder.finished or job.config.rewriting is None:
        raise DataError(f"{job.output}: nothing is left to be rewritten")
    with folder.open() as progress:
        _clean(job, folder, progress)
        return plan_rewriting(progress, ChatRewriter(job.config.rewriting, job.output / ANSWERS_FILE))


def _clean(job: Job, folder: OutputFolder, progress: Progress) -> None:
    try:
        clean_studies(job.source, progress, job.config.cleaning, job.config.splits, job.processes)
    except (XrayGPTError, OSError):
        if not progress.study_count():  # a wrong path, say: nothing is worth keeping
            folder.discard()
        raise


def _conclude(job: Job, folder: OutputFolder, count: int) -> Summary:
    """Write checksums, page and, as the last file, ``preparation.json``."""
    record = folder.path / RECORD_FILE
    summary = summarise_preparation(
        record, source=job.source.name, synthetic=job.synthetic, text_only=not job.with_images
    )
    if not count:
        raise DataError(
            f"nothing is left to train on ({record} has the reasons); delete {folder.path} before another "
            f"try\n{summary.text()}"
        )
    if not job.with_images:
        folder.images.rmdir()
    write_checksums(folder)
    write_page(summary, folder.path, yaml.safe_dump(folder.settings, sort_keys=False), job.command)
    content = {"settings": folder.settings, **json.loads(summary.to_json())}
    write_text(folder.path / REPORT_FILE, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    folder.close()
    return summary
