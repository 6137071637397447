"""A synthetic collection of the simplest form: a folder of images and a table."""

from __future__ import annotations

import csv
from pathlib import Path

from tqdm import tqdm

from xraygpt.preparation.synthetic.phantoms import SEED, Phantoms, encode, new_tree

TABLE = "reports.csv"
COLUMNS = ("image", "study_id", "patient_id", "view", "findings", "impression", "split")
STUDIES_OF_A_PATIENT = 2
SPLITS = ("train", "train", "train", "train", "train", "train", "train", "validate", "test", "test")
"""Of the patients, in turn."""


def write_simple_folder(
    output: Path,
    studies: int,
    *,
    seed: int = SEED,
    image_size: int = 512,
    distinct_images: int | None = None,
) -> None:
    """Write ``images/*.jpg`` and ``reports.csv`` with the columns of `COLUMNS`, one row for each image.

    Every third study has a lateral image as well. The same arguments give the same files.

    Args:
        output: a new or empty folder.
        studies: number of studies, two for each patient.
        seed: another seed gives other studies.
        image_size: side of an image in pixels, 64 or more.
        distinct_images: see `Phantoms`.

    Raises:
        DataError: the folder is not empty, or a number is too small.
    """
    phantoms = Phantoms(seed, image_size, distinct_images)
    new_tree(output, "no collection", studies)
    (output / "images").mkdir()
    with (output / TABLE).open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for index in tqdm(range(studies), "synthetic studies", mininterval=1):
            report = phantoms.report(index)
            patient = index // STUDIES_OF_A_PATIENT
            for number, view in enumerate(("PA", "LATERAL") if index % 3 == 2 else ("PA",)):
                name = f"images/phantom{index:06}_{view.lower()}.jpg"
                film = phantoms.film(index, number, lateral=view == "LATERAL")
                (output / name).write_bytes(encode(film, "JPEG"))
                ids = (name, f"phantom{index:06}", f"patient{patient:06}", view)
                writer.writerow((*ids, report.findings, report.impression, SPLITS[patient % len(SPLITS)]))
