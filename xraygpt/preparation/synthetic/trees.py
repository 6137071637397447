"""Synthetic raw data in the shape of a collection: OpenI, a folder of images with a table, MIMIC-CXR; and
conversations."""

from __future__ import annotations

import csv
import io
import random
import tarfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from xml.sax.saxutils import escape

from tqdm import tqdm

from xraygpt.common.errors import DataError
from xraygpt.datasets.phantom.truth import Truth
from xraygpt.preparation.synthetic.dialogues import write_dialogues
from xraygpt.preparation.synthetic.mimic import write_mimic_tree
from xraygpt.preparation.synthetic.phantoms import PhantomReport, Phantoms, encode, packed

SEED = 301
"""No shipped configuration trains or evaluates on phantoms of this seed."""
NOTICE_FILE = "SYNTHETIC.txt"
NOTICE = """\
Everything in this folder is synthetic. The images are drawn by a program (phantoms), the reports are put
together from a few dozen sentences written for the purpose, and all numbers, dates and labels are drawn at
random. Nothing was taken from a patient or from a collection of medical data; only the names and the form of
the files follow %s. Not for any clinical use.
"""
REPORTS_ARCHIVE = "NLMCXR_reports.tgz"
IMAGES_ARCHIVE = "NLMCXR_png.tgz"
MARK = "XXXX"
"""What the collection puts where something identified a patient."""
NO_FINDINGS_RATE = 0.13
NO_IMPRESSION_RATE = 0.01
NO_IMAGE_RATE = 0.03
LATERAL_RATE = 0.85
"""As published, about: of 3,955 reports 3,425 have findings, 3,921 an impression and 3,851 images."""
PRIOR_RATE = 0.15
PRIOR_SENTENCES = (
    f"Comparison is made with the film of {MARK}.",
    f"There is no change since {MARK}.",
)
INDICATIONS = (
    f"Synthetic {MARK}-year-old with cough",
    "Phantom, before an operation",
    f"Synthetic patient with {MARK} and chest pain",
)
ZONES = {"upper": "upper lobe", "mid": "middle lobe", "lower": "base"}
TEMPLATE = """\
<?xml version="1.0" encoding="utf-8"?>
<eCitation>
   <meta type="rr"/>
   <uId id="CXR{number}"/>
   <pmcId id="{number}"/>
   <docSource>CXR</docSource>
   <IUXRId id="{number}"/>
   <articleType>XR</articleType>
   <publisher>xraygpt phantoms</publisher>
   <title>Synthetic chest X-rays: phantoms, not patients</title>
   <note>Everything here is synthetic.</note>
   <MedlineCitation Owner="xraygpt phantoms" Status="synthetic">
      <Article PubModel="Electronic">
         <ArticleTitle>Synthetic chest X-rays: phantoms, not patients</ArticleTitle>
         <Abstract>
{texts}
         </Abstract>
         <Language>eng</Language>
      </Article>
   </MedlineCitation>
   <MeSH>
{terms}
   </MeSH>
{images}
</eCitation>
"""
TEXT_TEMPLATE = '            <AbstractText Label="{name}">{text}</AbstractText>'
IMAGE_TEMPLATE = """\
   <parentImage id="{image_id}">
      <figureId>F{figure}</figureId>
      <caption>Xray Chest PA and Lateral</caption>
      <panel type="single">
         <url>/phantoms/{image_id}.jpg</url>
         <imgModality>7</imgModality>
      </panel>
   </parentImage>"""
TABLE = "reports.csv"
COLUMNS = ("image", "study_id", "patient_id", "view", "findings", "impression", "split")
STUDIES_OF_A_PATIENT = 2
SPLITS = (*["train"] * 7, "validate", "test", "test")
"""Of the patients, in turn."""


def write_tree(
    shape: str,
    output: Path,
    studies: int,
    *,
    seed: int = SEED,
    image_size: int = 512,
    distinct_images: int | None = None,
) -> None:
    """Write synthetic raw data.

    The same arguments give the same files, byte for byte (DICOM files: as long as pydicom stays the same).

    Args:
        shape: one of `SHAPES`.
        output: a new or empty folder.
        studies: number of studies.
        seed: another seed gives other studies.
        image_size: side of an image in pixels, 64 or more.
        distinct_images: see `Phantoms`; that many are rendered, which takes most of the time.

    Raises:
        DataError: the folder is not empty.
        MissingFileError: DICOM files are asked for, and pydicom is not installed.
    """
    phantoms = Phantoms(seed, image_size, distinct_images)
    make_new_folder(output)
    collection, write = SHAPES[shape]
    (output / NOTICE_FILE).write_text(NOTICE % collection, encoding="utf-8")
    write(output, studies, phantoms)


def make_new_folder(folder: Path) -> None:
    """Make a folder, which may be there already if it is empty.

    Raises:
        DataError: it is there and not an empty folder.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder}: is there and not an empty folder; name a new one")
    folder.mkdir(parents=True, exist_ok=True)


def _write_openi(output: Path, studies: int, phantoms: Phantoms) -> None:
    """Write ``NLMCXR_reports.tgz`` (``ecgen-radiology/N.xml``) and ``NLMCXR_png.tgz``."""
    with (
        packed(output / REPORTS_ARCHIVE) as reports_file,
        packed(output / IMAGES_ARCHIVE) as pictures_file,
        tarfile.open(fileobj=reports_file, mode="w|") as reports,
        tarfile.open(fileobj=pictures_file, mode="w|") as pictures,
    ):
        for index in tqdm(range(studies), "synthetic studies", mininterval=1):
            rng = phantoms.rng("study", index)
            image_ids = _image_ids(index + 1, rng)
            for number, image_id in enumerate(image_ids):
                film = phantoms.film(index, number, lateral=number > 0)
                _add(pictures, f"{image_id}.png", encode(film, "PNG"))
            text = _report_xml(index + 1, phantoms.report(index), image_ids, rng)
            _add(reports, f"ecgen-radiology/{index + 1}.xml", text.encode())


def mesh_terms(truth: Truth) -> list[str]:
    """Return the findings as the collection's terms, e.g. ``Pleural Effusion/left/small``."""
    terms = [(f.name.title(), ZONES.get(f.zone or ""), f.side, f.size) for f in truth]
    return ["/".join(filter(None, term)) for term in terms] or ["normal"]


def _image_ids(number: int, rng: random.Random) -> list[str]:
    """Return the names of a study's images as the reports have them; the first study's are longer."""
    if rng.random() < NO_IMAGE_RATE:
        return []
    start = "CXR1_1" if number == 1 else f"CXR{number}"
    series = (1001, 2001) if rng.random() < LATERAL_RATE else (1001,)
    return [f"{start}_IM-{number % 10000:04}-{image}" for image in series]


def _report_xml(number: int, report: PhantomReport, image_ids: list[str], rng: random.Random) -> str:
    has_prior = rng.random() < PRIOR_RATE
    findings = f"{rng.choice(PRIOR_SENTENCES)} {report.findings}" if has_prior else report.findings
    sections = {
        "COMPARISON": MARK if has_prior else "None.",
        "INDICATION": rng.choice(INDICATIONS),
        "FINDINGS": "" if rng.random() < NO_FINDINGS_RATE else findings,
        "IMPRESSION": "" if rng.random() < NO_IMPRESSION_RATE else report.impression,
    }
    texts = [TEXT_TEMPLATE.format(name=name, text=escape(text)) for name, text in sections.items()]
    terms = [f"      <major>{escape(term)}</major>" for term in mesh_terms(report.truth)]
    images = [IMAGE_TEMPLATE.format(image_id=name, figure=i) for i, name in enumerate(image_ids, 1)]
    lists = {"texts": "\n".join(texts), "terms": "\n".join(terms), "images": "\n".join(images)}
    return TEMPLATE.format(number=number, **lists)


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def _write_folder(output: Path, studies: int, phantoms: Phantoms) -> None:
    """Write ``images/*.jpg`` and ``reports.csv``, a row for each image, a patient for two studies.

    Every third study has a lateral image as well.
    """
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


SHAPES: dict[str, tuple[str, Callable[[Path, int, Phantoms], None]]] = {
    "mimic-cxr": ("MIMIC-CXR", partial(write_mimic_tree, dicom=False)),
    "mimic-cxr-dicom": ("MIMIC-CXR", partial(write_mimic_tree, dicom=True)),
    "openi": ("OpenI", _write_openi),
    "folder": ("no collection", _write_folder),
    "dialogues": ("no collection", write_dialogues),
}
"""Name on the command line -> name in the notice, and what writes the files."""
