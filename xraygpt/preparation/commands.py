"""What the commands of ``prepare.py`` run; each imports what it needs, so that --help is quick."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xraygpt.common.errors import ConfigError, DataError

if TYPE_CHECKING:
    from xraygpt.preparation.study import PictureStream, Source

COLUMN_OPTIONS = ("image", "study", "patient", "split", "view", "findings", "impression", "report")
"""Columns of a table of reports that options name."""


def openi(args: argparse.Namespace) -> None:
    """Prepare OpenI."""
    from xraygpt.preparation.sources.openi import OpenISource, read_splits

    splits = read_splits(args.splits) if args.splits is not None else None
    source = OpenISource(args.reports, args.images, splits)
    inputs = {"reports": args.reports, "images": args.images, "splits_file": args.splits}
    packed = args.images is not None and not args.images.is_dir()
    _prepare(args, source, inputs, args.reports.parent, stream=source if packed else None)


def mimic(args: argparse.Namespace) -> None:
    """Prepare MIMIC-CXR."""
    from xraygpt.preparation.sources.mimic_cxr import MimicCXRSource

    inputs = {"reports": args.reports, "tables": args.tables, "views": args.views}
    _prepare(args, MimicCXRSource(args.root, **inputs), {"root": args.root, **inputs}, args.root)


def folder(args: argparse.Namespace) -> None:
    """Prepare a folder of images with a table."""
    from xraygpt.preparation.sources.folder import FolderSource, Join

    named = {name: getattr(args, f"{name}_column") for name in COLUMN_OPTIONS}
    columns = {name: column for name, column in named.items() if column is not None}
    where = dict(args.where)
    if len(where) < len(args.where):
        raise ConfigError("--where names a column twice; a row has one value in it")
    if (args.join is None) != (args.on is None):
        raise ConfigError("--join names a second table and --on the column that joins it; give both")
    join = Join(args.join, args.on) if args.join is not None else None
    source = FolderSource(args.table, args.images, columns, where, join)
    inputs = {"table": args.table, "images": args.images, "columns": columns, "where": where}
    _prepare(args, source, inputs | (join._asdict() if join else {}), args.table.parent)


def verify(args: argparse.Namespace) -> int:
    """Check a prepared folder; return 1 if there is a problem."""
    from xraygpt.common.utils import available_cores
    from xraygpt.preparation.pipeline.verify import verify_folder

    result = verify_folder(args.folder, quick=args.quick, workers=args.processes or available_cores())
    print(result.text())
    return 1 if result.problems else 0


def export(args: argparse.Namespace) -> None:
    """Write a prepared folder for another framework."""
    from xraygpt.common.run_record import writing
    from xraygpt.preparation.messages import write_messages

    with writing(args.out):
        written = write_messages(args.folder, args.out, args.prompt)
    print(f"{', '.join(f'{name} {number}' for name, number in written.items())}; written to {args.out}")


def phantom(args: argparse.Namespace) -> None:
    """Prepare phantoms, or write them as raw data."""
    from xraygpt.common.run_record import writing
    from xraygpt.preparation.synthetic.phantoms import PhantomSource
    from xraygpt.preparation.synthetic.trees import write_tree

    if args.shape is None:
        if args.distinct_images is not None:
            raise ConfigError("--distinct-images is for --as")
        source = PhantomSource(args.seed, args.studies, args.size)
        inputs = {"phantom_seed": args.seed, "studies": args.studies, "size": args.size}
        _prepare(args, source, inputs, stream=source)
        return
    settings = (args.shards, args.shard_size, args.keep_size, args.options, args.cfg_path, args.send)
    if any(settings) or args.processes is not None:
        raise ConfigError("--as writes raw data; prepare it afterwards, with the settings given then")
    drawing = {"seed": args.seed, "image_size": args.size, "distinct_images": args.distinct_images}
    with writing(args.out):
        write_tree(args.shape, args.out, args.studies, **drawing)
    print(f"synthetic raw data of {args.studies} studies written to {args.out}")


def contact_sheet(args: argparse.Namespace) -> None:
    """Draw a contact sheet of phantoms."""
    from xraygpt.preparation.synthetic.phantoms import contact_sheet

    args.output.parent.mkdir(parents=True, exist_ok=True)
    try:
        contact_sheet(args.size, args.seed).save(args.output)
    except (OSError, ValueError) as error:  # a folder, or an ending that Pillow does not know
        raise DataError(f"{args.output}: cannot be written ({error})") from error
    print(f"written to {args.output}")


def tokenizers(args: argparse.Namespace) -> None:
    """Train the tokenizers of a small model."""
    from xraygpt.common.config import Config
    from xraygpt.preparation.tiny_model import train_bert_vocabulary, train_llama_tokenizer, training_texts

    cfg = Config(args)
    texts = training_texts(cfg, args.reports)
    end_sym = cfg.model_cfg.end_sym
    llama = train_llama_tokenizer(texts, args.output / "llama", args.llama_vocab, symbols=[end_sym.strip()])
    bert = train_bert_vocabulary(texts, args.output / "bert", args.bert_vocab)
    print(f"{llama}\n{bert}\nlearnt from {len(texts)} texts")


def tiny_parts(args: argparse.Namespace) -> None:
    """Put together the parts that ship."""
    from xraygpt.preparation.tiny_model import add_projection, assemble_parts

    if args.trained is not None:
        files = assemble_parts(args.trained, args.output)
    else:
        files = add_projection(args.projection, args.output)
    print("\n".join(map(str, files)))


def _prepare(
    args: argparse.Namespace,
    source: Source,
    inputs: Mapping[str, Any],
    raw: Path | None = None,
    stream: PictureStream | None = None,
) -> None:
    """Prepare a source.

    Args:
        inputs: what names the raw data, for the record.
        raw: the folder of the raw data, which says whether they are synthetic; None if they are.
    """
    from xraygpt.common.utils import available_cores
    from xraygpt.preparation.pipeline.run import Job, plan, prepare, read_config
    from xraygpt.preparation.pipeline.shards import SHARD_BYTES
    from xraygpt.preparation.synthetic.trees import NOTICE_FILE

    with_images = not getattr(args, "no_images", False)
    if not with_images and (args.shards or args.keep_size):
        raise ConfigError("--no-images leaves nothing for --shards and --keep-size")
    if args.shard_size is not None and not args.shards:
        raise ConfigError("--shard-size is for --shards")
    keep_size = ["pictures.keep_size=true"] if args.keep_size else []
    job = Job(
        source=source,
        inputs={name: _plain(value) for name, value in inputs.items()},
        config=read_config(args.cfg_path, [*args.options, *keep_size]),
        output=args.out,
        with_images=with_images,
        stream=stream,
        shard_bytes=(args.shard_size or SHARD_BYTES) if args.shards else None,
        synthetic=raw is None or (raw / NOTICE_FILE).is_file(),
        processes=args.processes or available_cores(),
        command=args.command_line,
    )
    if job.config.rewriting is not None and not args.send:
        print(f"{plan(job)}\nnothing was sent; add --send to do so")
        return
    summary = prepare(job)
    if summary is None:
        print(f"{args.out}: was prepared before with the same settings; nothing to do")
    else:
        print(f"{summary.text()}\nwritten to {args.out}; look at {args.out / 'preparation.html'}")


def _plain(value: Any) -> Any:
    """Return an input as the record names it; a file with its size, so that another one is noticed."""
    if not isinstance(value, Path):
        return value
    return f"{value} ({value.stat().st_size} bytes)" if value.is_file() else str(value)
