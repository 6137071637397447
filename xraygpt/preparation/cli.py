"""The commands of ``xraygpt prepare`` and their arguments."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from xraygpt.common.command_line import Parser, parse_and_run, whole_number
from xraygpt.preparation import commands

UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}
MIN_SIZE = 64


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command of ``prepare.py``; return the exit status, see `run_command`."""
    parser = Parser(prog="prepare.py")
    add_commands(parser)
    return parse_and_run(parser, argv)


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Add each of `COMMANDS`."""
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, add_arguments, text, description in COMMANDS:
        add_arguments(subparsers.add_parser(name, help=text, description=description))


def _add_openi(openi: argparse.ArgumentParser) -> None:
    add = openi.add_argument
    add("--reports", type=Path, required=True, metavar="FILE", help="archive, or its folder")
    images = openi.add_mutually_exclusive_group(required=True)
    images.add_argument("--images", type=Path, metavar="FILE", help="archive of the images, or its folder")
    images.add_argument("--no-images", action="store_true", help="prepare the reports alone")
    splits = (
        "published splits: JSON {split: [ids]} or a table with an id and a split column; studies that it "
        "does not name are left out (default: drawn by study)"
    )
    add("--splits", type=Path, metavar="FILE", help=splits)
    _add_common(openi, commands.openi)


def _add_mimic(mimic: argparse.ArgumentParser) -> None:
    add = mimic.add_argument
    add("root", type=Path, metavar="ROOT", help="the folder that holds files/")
    reports = "mimic-cxr-reports.zip or the folder that holds its files/ (default: ROOT)"
    add("--reports", type=Path, help=reports)
    add("--tables", type=Path, help="folder of the tables (default: ROOT)")
    views = "values of ViewPosition to keep (default: PA AP)"
    add("--views", nargs="+", metavar="VIEW", default=["PA", "AP"], help=views)
    _add_common(mimic, commands.mimic)


def _add_folder(folder: argparse.ArgumentParser) -> None:
    add = folder.add_argument
    add("table", type=Path, metavar="TABLE", help="the table")
    add("--images", type=Path, help="folder that the table's images lie in (default: the table's)")
    add("--join", type=Path, metavar="TABLE", help="a second table; TABLE's columns come first")
    add("--on", metavar="COLUMN", help="the column that joins the two tables")
    for name in commands.COLUMN_OPTIONS:
        add(f"--{name}-column", metavar="NAME", help=f"column of the {name}")
    where = "keep only rows with this value; several have to hold together"
    form = "COLUMN=VALUE"
    add("--where", nargs="+", action="extend", type=_condition, default=[], metavar=form, help=where)
    _add_common(folder, commands.folder)


def _add_common(parser: argparse.ArgumentParser, run: Callable[[argparse.Namespace], None]) -> None:
    """Add what all sources have, after their own arguments, and what the command runs."""
    add = parser.add_argument
    out = "folder to write; go on if it was interrupted"
    add("--out", type=Path, required=True, metavar="DIR", help=out)
    add("--cfg-path", type=Path, metavar="YAML", help="settings of the preparation")
    options = "settings in place of those in the file, e.g. cleaning.min_findings_words=5 splits.seed=1"
    add("--options", nargs="+", default=[], metavar="KEY=VALUE", help=options)
    keep_size = "leave images at their size; the same as pictures.keep_size=true"
    add("--keep-size", action="store_true", help=keep_size)
    send = (
        "send reports to the server that the section 'rewriting' of the settings names, and go on; without "
        "it, only what would be sent is shown"
    )
    add("--send", action="store_true", help=send)
    add("--shards", action="store_true", help="pack the images into tar files (webdataset)")
    add("--shard-size", type=_bytes, help="largest tar file, e.g. 1G (default: 256 MiB)")
    _add_processes(parser)
    parser.set_defaults(run=run)


def _add_processes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--processes", type=whole_number(1), help="processes to use (default: one a core)")


def _add_verify(verify: argparse.ArgumentParser) -> None:
    verify.add_argument("folder", type=Path, metavar="FOLDER")
    verify.add_argument("--quick", action="store_true", help="do not decode the images")
    _add_processes(verify)
    verify.set_defaults(run=commands.verify)


def _add_export(export: argparse.ArgumentParser) -> None:
    add = export.add_argument
    add("folder", type=Path, metavar="FOLDER", help="the prepared folder, with its images in image/")
    add("--as", dest="form", choices=["messages"], required=True, help="form of the rows")
    add("--out", type=Path, required=True, metavar="DIR", help="new folder to write")
    prompt = "Describe this chest x-ray in detail."
    add("--prompt", default=prompt, metavar="TEXT", help=f"what is said to each image (default: {prompt})")
    export.set_defaults(run=commands.export)


def _add_phantom(phantom: argparse.ArgumentParser) -> None:
    add = phantom.add_argument
    add("--studies", type=whole_number(1), default=100, help="number of studies (default: 100)")
    # 301: of no phantom that a shipped configuration trains or tests on.
    add("--seed", type=int, default=301, help="another seed gives other patients")
    add("--size", type=whole_number(MIN_SIZE), default=MIN_SIZE, help="side of an image in pixels")
    shapes = ["mimic-cxr", "mimic-cxr-dicom", "openi", "folder", "dialogues"]
    add("--as", dest="shape", choices=shapes, help="write raw data, or text alone, instead of preparing it")
    distinct = "with --as: draw only so many different images and use them again, which is much faster"
    add("--distinct-images", type=whole_number(1), help=distinct)
    _add_common(phantom, commands.phantom)


def _add_contact_sheet(sheet: argparse.ArgumentParser) -> None:
    add = sheet.add_argument
    add("output", type=Path, metavar="OUT.png", help="image file to write")
    add("--size", type=whole_number(MIN_SIZE), default=256, help="side of each radiograph in pixels")
    add("--seed", type=int, default=0, help="another seed gives other patients")
    sheet.set_defaults(run=commands.contact_sheet)


def add_tokenizer_arguments(tokenizers: argparse.ArgumentParser) -> None:
    """Add the arguments of ``tokenizers`` and what it runs."""
    add = tokenizers.add_argument
    add("--cfg-path", required=True, help="YAML file of the training with the reports")
    add("--options", nargs="+", metavar="KEY=VALUE", help="settings in place of those in the file")
    add("--output", type=Path, required=True, help="folder to write llama/ and bert/ into")
    add("--llama-vocab", type=int, default=768, help="pieces of the LLaMA tokenizer")
    add("--bert-vocab", type=int, default=600, help="pieces of the BERT vocabulary")
    add("--reports", type=int, default=4000, help="number of reports to learn from")
    tokenizers.set_defaults(run=commands.tokenizers)


def _add_tiny_parts(parts: argparse.ArgumentParser) -> None:
    source = parts.add_mutually_exclusive_group(required=True)
    source.add_argument("--trained", type=Path, help="folder of the trainings in train_configs/tiny")
    source.add_argument("--projection", type=Path, help="folder of a quickstart, for its projection")
    target = Path("xraygpt/weights/tiny")
    parts.add_argument("--output", type=Path, default=target, help="folder of the shipped parts")
    parts.set_defaults(run=commands.tiny_parts)


COMMANDS: tuple[tuple[str, Callable[[argparse.ArgumentParser], None], str, str | None], ...] = (
    (
        "openi",
        _add_openi,
        "prepare OpenI (Indiana University) from its archives",
        "Prepare OpenI from the archives that the National Library of Medicine publishes: "
        "NLMCXR_reports.tgz and NLMCXR_png.tgz or NLMCXR_dcm.tgz, packed or unpacked.",
    ),
    (
        "mimic-cxr",
        _add_mimic,
        "prepare MIMIC-CXR or MIMIC-CXR-JPG from the published tree",
        "Prepare MIMIC-CXR (DICOM) or MIMIC-CXR-JPG from the tree that PhysioNet publishes: "
        "ROOT/files/p10/p10000032/s50414267/*.jpg and ROOT/mimic-cxr-2.*-split.csv.gz and -metadata.csv.gz. "
        "The official splits are kept.",
    ),
    (
        "folder",
        _add_folder,
        "prepare any images with a table of reports",
        "Prepare images with a CSV, TSV, JSON or JSON Lines table that has a row for each. "
        "A column is read under its usual name (image, study_id, patient_id, split, view, findings, "
        "impression) unless an option names another. Where reports and file names are in two tables, as in "
        "the copy of IU X-ray with indiana_reports.csv and indiana_projections.csv, join them: "
        "indiana_reports.csv --join indiana_projections.csv --on uid --image-column filename --view-column "
        "projection.",
    ),
    (
        "verify",
        _add_verify,
        "check that a prepared folder holds what a training needs",
        "Check annotations, images, shards, checksums and splits of a prepared folder, and list "
        "every problem. The exit status is 1 if there is one.",
    ),
    (
        "export",
        _add_export,
        "write a prepared folder as other frameworks read it",
        "Write a prepared folder as JSON Lines of messages with images, a file for each split, as ms-swift "
        "and LLaMA-Factory read them. `evaluate.py score` reads the predictions of both.",
    ),
    (
        "phantom",
        _add_phantom,
        "prepare synthetic radiographs, or write them as raw data to try the other sources on",
        "Prepare synthetic radiographs with reports, or, with --as, write them in the shape in "
        "which a collection is published. Nothing in them comes from a patient.",
    ),
    ("contact-sheet", _add_contact_sheet, "draw a contact sheet of synthetic radiographs", None),
    (
        "tokenizers",
        add_tokenizer_arguments,
        "train the tokenizers of a small model on a data set's reports",
        None,
    ),
    ("tiny-parts", _add_tiny_parts, "put the small pretrained parts that ship together", None),
)
"""Name, what adds its arguments, line in the list of commands, and description, of each command."""


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
