"""The commands of prepare.py that turn raw data into a folder that trains, one for each source."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xraygpt.preparation.study import PictureStream, Source

UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}
COLUMN_OPTIONS = ("image", "study", "patient", "split", "view", "findings", "impression", "report")


def add_commands(commands: Any) -> None:
    """Add ``openi``, ``mimic-cxr``, ``folder`` and ``verify`` to the parser of prepare.py."""
    _add_openi(commands)
    _add_mimic(commands)
    _add_folder(commands)
    _add_verify(commands)


def _add_openi(commands: Any) -> None:
    openi = commands.add_parser(
        "openi",
        help="prepare OpenI (Indiana University) from its archives",
        description="Prepare OpenI from the archives that the National Library of Medicine publishes: "
        "NLMCXR_reports.tgz and NLMCXR_png.tgz or NLMCXR_dcm.tgz, packed or unpacked.",
    )
    openi.add_argument("--reports", type=Path, required=True, metavar="FILE", help="archive, or its folder")
    images = openi.add_mutually_exclusive_group(required=True)
    images.add_argument("--images", type=Path, metavar="FILE", help="archive of the images, or its folder")
    images.add_argument("--no-images", action="store_true", help="prepare the reports alone")
    _add_splits_file(openi)
    add_common(openi)
    openi.set_defaults(run=_openi)


def _add_mimic(commands: Any) -> None:
    mimic = commands.add_parser(
        "mimic-cxr",
        help="prepare MIMIC-CXR or MIMIC-CXR-JPG from the published tree",
        description="Prepare MIMIC-CXR (DICOM) or MIMIC-CXR-JPG from the tree that PhysioNet publishes: "
        "ROOT/files/p10/p10000032/s50414267/*.jpg and ROOT/mimic-cxr-2.*-split.csv.gz and -metadata.csv.gz. "
        "The official splits are kept.",
    )
    mimic.add_argument("root", type=Path, metavar="ROOT", help="the folder that holds files/")
    mimic.add_argument(
        "--reports",
        type=Path,
        help="mimic-cxr-reports.zip or the folder that holds its files/ (default: ROOT)",
    )
    mimic.add_argument("--tables", type=Path, help="folder of the tables (default: ROOT)")
    mimic.add_argument(
        "--views",
        nargs="+",
        metavar="VIEW",
        default=["PA", "AP"],
        help="values of ViewPosition to keep (default: PA AP)",
    )
    add_common(mimic)
    mimic.set_defaults(run=_mimic)


def _add_folder(commands: Any) -> None:
    folder = commands.add_parser(
        "folder",
        help="prepare any images with a table of reports",
        description="Prepare images with a CSV, TSV, JSON or JSON Lines table that has a row for each. "
        "A column is read under its usual name (image, study_id, patient_id, split, view, findings, "
        "impression) unless an option names another. Where reports and file names are in two tables, as in "
        "the copy of IU X-ray with indiana_reports.csv and indiana_projections.csv, join them: "
        "indiana_reports.csv --join indiana_projections.csv --on uid --image-column filename --view-column "
        "projection.",
    )
    folder.add_argument("table", type=Path, metavar="TABLE", help="the table")
    folder.add_argument(
        "--images", type=Path, help="folder that the table's images lie in (default: the table's)"
    )
    folder.add_argument(
        "--join", type=Path, metavar="TABLE", help="a second table; TABLE's columns come first"
    )
    folder.add_argument("--on", metavar="COLUMN", help="the column that joins the two tables")
    for name in COLUMN_OPTIONS:
        folder.add_argument(f"--{name}-column", metavar="NAME", help=f"column of the {name}")
    folder.add_argument(
        "--where",
        nargs="+",
        action="extend",
        type=_condition,
        default=[],
        metavar="COLUMN=VALUE",
        help="keep only rows with this value; several have to hold together",
    )
    add_common(folder)
    folder.set_defaults(run=_folder)


def _add_verify(commands: Any) -> None:
    verify = commands.add_parser(
        "verify",
        help="check that a prepared folder holds what a training needs",
        description="Check annotations, images, shards, checksums and splits of a prepared folder, and list "
        "every problem. The exit status is 1 if there is one.",
    )
    verify.add_argument("folder", type=Path, metavar="FOLDER")
    verify.add_argument("--quick", action="store_true", help="do not decode the images")
    add_processes(verify)
    verify.set_defaults(run=_verify)


def add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder to write; go on if it was interrupted"
    )
    parser.add_argument("--cfg-path", type=Path, metavar="YAML", help="settings of the preparation")
    parser.add_argument(
        "--options",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="settings in place of those in the file, e.g. cleaning.min_findings_words=5 splits.seed=1",
    )
    parser.add_argument(
        "--keep-size",
        action="store_true",
        help="leave images at their size; the same as pictures.keep_size=true",
    )
    parser.add_argument(
        "--send",
        action="store_true",
        help="send reports to the server that the section 'rewriting' of the settings names, and go on; "
        "without it, only what would be sent is shown",
    )
    parser.add_argument("--shards", action="store_true", help="pack the images into tar files (webdataset)")
    parser.add_argument("--shard-size", type=_bytes, help="largest tar file, e.g. 1G (default: 256 MiB)")
    add_processes(parser)


def _add_splits_file(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--splits",
        type=Path,
        metavar="FILE",
        help="published splits: JSON {split: [ids]} or a table with an id and a split column; studies that "
        "it does not name are left out (default: drawn by study)",
    )


def add_processes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--processes", type=positive, help="processes to use (default: one a core)")


def _openi(args: argparse.Namespace) -> None:
    from xraygpt.preparation.sources.openi import OpenISource, read_splits

    splits = read_splits(args.splits) if args.splits is not None else None
    source = OpenISource(args.reports, args.images, splits)
    inputs = {"reports": args.reports, "images": args.images, "splits_file": args.splits}
    packed = args.images is not None and not args.images.is_dir()
    run_job(args, source, inputs, args.reports.parent, stream=source if packed else None)


def _mimic(args: argparse.Namespace) -> None:
    from xraygpt.preparation.sources.mimic_cxr import MimicCXRSource

    source = MimicCXRSource(args.root, reports=args.reports, tables=args.tables, views=args.views)
    inputs = {"root": args.root, "reports": args.reports, "tables": args.tables, "views": args.views}
    run_job(args, source, inputs, args.root)


def _folder(args: argparse.Namespace) -> None:
    from xraygpt.common.errors import ConfigError
    from xraygpt.preparation.sources.folder import FolderColumns, FolderSource, Join

    named = {name: getattr(args, f"{name}_column") for name in COLUMN_OPTIONS}
    columns = {name: column for name, column in named.items() if column is not None}
    where = dict(args.where)
    if len(where) < len(args.where):
        raise ConfigError("--where names a column twice; a row has one value in it")
    if (args.join is None) != (args.on is None):
        raise ConfigError("--join names a second table and --on the column that joins it; give both")
    join = Join(args.join, args.on) if args.join is not None else None
    source = FolderSource(args.table, args.images, FolderColumns(**columns), where, join)
    inputs = {"table": args.table, "images": args.images, "columns": columns, "where": where}
    if join is not None:
        inputs |= join._asdict()
    run_job(args, source, inputs, args.table.parent)


def run_job(
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
    from xraygpt.preparation.pipeline.run import Job, plan, prepare, read_config
    from xraygpt.preparation.pipeline.shards import SHARD_BYTES
    from xraygpt.preparation.pipeline.workers import available_cores
    from xraygpt.preparation.synthetic.phantoms import NOTICE_FILE

    _check_consistent(args)
    keep_size = ["pictures.keep_size=true"] if args.keep_size else []
    job = Job(
        source=source,
        inputs={name: _plain(value) for name, value in inputs.items()},
        config=read_config(args.cfg_path, [*args.options, *keep_size]),
        output=args.out,
        with_images=not getattr(args, "no_images", False),
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


def _check_consistent(args: argparse.Namespace) -> None:
    """Refuse options that would be without effect."""
    from xraygpt.common.errors import ConfigError

    if getattr(args, "no_images", False) and (args.shards or args.keep_size):
        raise ConfigError("--no-images leaves nothing for --shards and --keep-size")
    if args.shard_size is not None and not args.shards:
        raise ConfigError("--shard-size is for --shards")


def _plain(value: Any) -> Any:
    """Return an input as the record names it; a file with its size, so that another one is noticed."""
    if not isinstance(value, Path):
        return value
    return f"{value} ({value.stat().st_size} bytes)" if value.is_file() else str(value)


def _verify(args: argparse.Namespace) -> int:
    from xraygpt.preparation.pipeline.verify import verify_folder
    from xraygpt.preparation.pipeline.workers import available_cores

    result = verify_folder(args.folder, quick=args.quick, workers=args.processes or available_cores())
    print(result.text())
    return 1 if result.problems else 0


def _condition(text: str) -> tuple[str, str]:
    column, equals, value = text.partition("=")
    if not column or not equals:
        raise argparse.ArgumentTypeError(f"COLUMN=VALUE, not '{text}'")
    return column, value


def _bytes(text: str) -> int:
    match = re.fullmatch(r"(\d+)([KMG]?)B?", text.upper())
    if match is None or not int(match[1]):
        raise argparse.ArgumentTypeError(f"a size such as 300M or 1G, not '{text}'")
    return int(match[1]) * UNITS[match[2]]


def positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"a whole number, 1 or more, not '{text}'")
    return int(text)
