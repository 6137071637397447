"""The commands of prepare.py about synthetic radiographs."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from xraygpt.preparation.commands.sources import add_common, positive, run_job

MIN_SIZE = 64
DEFAULT_SEED = 301  # of no phantom that a shipped configuration trains or tests on


def add_commands(commands: Any) -> None:
    """Add ``phantom`` and ``contact-sheet`` to the parser of prepare.py."""
    _add_phantom(commands)
    _add_contact_sheet(commands)


def _add_phantom(commands: Any) -> None:
    phantom = commands.add_parser(
        "phantom",
        help="prepare synthetic radiographs, or write them as raw data to try the other sources on",
        description="Prepare synthetic radiographs with reports, or, with --as, write them in the shape in "
        "which a collection is published. Nothing in them comes from a patient.",
    )
    phantom.add_argument("--studies", type=positive, default=100, help="number of studies (default: 100)")
    phantom.add_argument("--seed", type=int, default=DEFAULT_SEED, help="another seed gives other patients")
    phantom.add_argument("--size", type=phantom_size, default=MIN_SIZE, help="side of an image in pixels")
    phantom.add_argument(
        "--as",
        dest="shape",
        choices=["mimic-cxr", "mimic-cxr-dicom", "openi", "folder"],
        help="write raw data in this shape instead of preparing it",
    )
    phantom.add_argument(
        "--distinct-images",
        type=positive,
        help="with --as: draw only so many different images and use them again, which is much faster",
    )
    add_common(phantom)
    phantom.set_defaults(run=_phantom)


def _add_contact_sheet(commands: Any) -> None:
    sheet = commands.add_parser("contact-sheet", help="draw a contact sheet of synthetic radiographs")
    sheet.add_argument("output", type=Path, metavar="OUT.png", help="image file to write")
    sheet.add_argument("--size", type=phantom_size, default=256, help="side of each radiograph in pixels")
    sheet.add_argument("--seed", type=int, default=0, help="another seed gives other patients")
    sheet.set_defaults(run=_contact_sheet)


def phantom_size(text: str) -> int:
    """Return the side of an image in pixels from the command line."""
    if not text.isdecimal() or int(text) < MIN_SIZE:
        raise argparse.ArgumentTypeError(f"a whole number, {MIN_SIZE} or more, not '{text}'")
    return int(text)


def _phantom(args: argparse.Namespace) -> None:
    from xraygpt.common.errors import ConfigError
    from xraygpt.preparation.synthetic.phantoms import PhantomSource

    if args.shape is not None:
        _write_raw(args)
        return
    if args.distinct_images is not None:
        raise ConfigError("--distinct-images is for --as")
    source = PhantomSource(args.seed, args.studies, args.size)
    inputs = {"phantom_seed": args.seed, "studies": args.studies, "size": args.size}
    run_job(args, source, inputs, stream=source)


def _contact_sheet(args: argparse.Namespace) -> None:
    from xraygpt.common.errors import DataError
    from xraygpt.preparation.synthetic.contact_sheet import contact_sheet

    args.output.parent.mkdir(parents=True, exist_ok=True)
    try:
        contact_sheet(args.size, args.seed).save(args.output)
    except (OSError, ValueError) as error:  # a folder, or an ending that Pillow does not know
        raise DataError(f"{args.output}: cannot be written ({error})") from error
    print(f"written to {args.output}")


def _write_raw(args: argparse.Namespace) -> None:
    from xraygpt.common.errors import ConfigError
    from xraygpt.common.run_record import writing
    from xraygpt.preparation.synthetic import write_mimic_tree, write_openi_tree, write_simple_folder

    settings = (args.shards, args.shard_size, args.keep_size, args.options, args.cfg_path, args.send)
    if any(settings) or args.processes is not None:
        raise ConfigError("--as writes raw data; prepare it afterwards, with the settings given then")
    writers: dict[str, Callable[..., None]] = {
        "mimic-cxr": partial(write_mimic_tree, images="jpg"),
        "mimic-cxr-dicom": partial(write_mimic_tree, images="dicom"),
        "openi": write_openi_tree,
        "folder": write_simple_folder,
    }
    with writing(args.out):
        writers[args.shape](
            args.out,
            args.studies,
            seed=args.seed,
            image_size=args.size,
            distinct_images=args.distinct_images,
        )
    print(f"synthetic raw data of {args.studies} studies written to {args.out}")
