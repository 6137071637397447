"""Measure the report labeller against the MeSH headings of OpenI and the labels inside ``radlabels``.

    python -m benchmarks.labeller --reports NLMCXR_reports.tgz [--radlabels radlabels-0.2.0-py3-none-any.whl]
    python -m benchmarks.labeller --sentences tests/evaluation/labeller_sentences/held_back.jsonl

prints Markdown tables; ``docs/labeller.md`` says what they mean. The second form measures it on single hard
sentences and prints totals and kinds only, so that a file may be scored that nobody has read.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import tarfile
import time
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from defusedxml import ElementTree

from xraygpt.evaluation.labeller import Status, finding_sides, label_report
from xraygpt.evaluation.labeller_lexicon import NO_FINDING

MESH = {
    "Enlarged Cardiomediastinum": r"mediastinum/(?!.*(?:lymph|paratracheal)).*(?:prominent|enlarged)",
    "Cardiomegaly": r"cardiomegaly(?!/borderline)|cardiac shadow/enlarged(?!/borderline)|"
    r"heart ventricles/.*enlarged",
    "Lung Opacity": r"opacity(?!/(?:pleura|ribs|abdomen|breast|mediastinum))|airspace disease|infiltrate|"
    r"density/(?:lung|retrocardiac)(?!.*round)|markings/.*interstitial|lung/.*interstitial|"
    r"lung diseases, interstitial",
    "Lung Lesion": r"nodule|mass(?:/|$)|cavitation|(?:opacity|density|infiltrate)/(?!ribs).*round",
    "Edema": r"pulmonary edema|pulmonary congestion|heart failure",
    "Consolidation": r"consolidation",
    "Pneumonia": r"pneumonia",
    "Atelectasis": r"pulmonary atelectasis",
    "Pneumothorax": r"pneumothorax|hydropneumothorax",
    "Pleural Effusion": r"pleural effusion|hydropneumothorax|hemothorax",
    "Pleural Other": r"(?:thickening|cicatrix|calcinosis|density|deformity|opacity)/pleura|pleura/",
    "Fracture": r"fractures, bone",
    "Support Devices": r"catheters, indwelling|implanted medical device|medical device|tube, inserted|"
    r"surgical instruments|stents|sutures",
}
"""Class -> what a MeSH heading in lower case begins with; heading/location/qualifiers."""

RADLABELS = {
    "Enlarged Cardiomediastinum": ("enlarged_cardiomediastinum",),
    "Cardiomegaly": ("cardiomegaly",),
    "Lung Opacity": ("lung_opacity", "ground_glass_opacity", "infiltration", "interstitial_thickening"),
    "Lung Lesion": ("lung_lesion", "lung_nodule_or_mass"),
    "Edema": ("pulmonary_edema", "pulmonary_congestion_pulmonary_venous_congestion"),
    "Consolidation": ("consolidation",),
    "Pneumonia": ("pneumonia",),
    "Atelectasis": ("atelectasis", "lobar_segmental_collapse", "whole_lung_or_majority_collapse"),
    "Pneumothorax": ("pneumothorax",),
    "Pleural Effusion": ("pleural_effusion",),
    "Pleural Other": ("pleural_other", "pleural_thickening"),
    "Fracture": ("fracture_generic", "acute_rib_fracture", "non_acute_rib_fracture"),
    "Support Devices": (
        "central_venous_catheter",
        "endotracheal_tube",
        "enteric_tube",
        "implantable_electronic_device",
        "intercostal_drain",
        "pacemaker_electronic_cardiac_device_or_wires",
        "support_devices_generic",
        "tracheostomy_tube",
    ),
}
"""Class -> labels of radlabels."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """A report with the classes that an oracle finds present in it."""

    uid: str
    text: str
    present: frozenset[str]
    normal: bool = False
    """Its only heading is ``normal``."""


@dataclass(slots=True)
class Counts:
    """Agreement with the oracle on the presence of a class."""

    both: int = 0
    ours: int = 0
    """Present by the labeller alone."""
    theirs: int = 0
    """Present by the oracle alone."""

    def scores(self) -> tuple[float, float, float]:
        """Precision, recall and F1; 0 where there is nothing to divide by."""
        precision = self.both / max(1, self.both + self.ours)
        recall = self.both / max(1, self.both + self.theirs)
        return precision, recall, 2 * self.both / max(1, 2 * self.both + self.ours + self.theirs)


def read_openi(archive: Path) -> Iterator[Labelled]:
    """Yield the indexed reports of the OpenI archive with the classes of their ``major`` headings."""
    patterns = {label: re.compile(pattern) for label, pattern in MESH.items()}
    with tarfile.open(archive, "r|*") as tar:
        for member in tar:
            file = tar.extractfile(member) if member.name.endswith(".xml") else None
            if file is None:
                continue
            root = ElementTree.fromstring(file.read())
            headings = [(node.text or "").strip().lower() for node in root.iterfind("MeSH/major")]
            if headings == ["no indexing"]:
                continue
            sections = {node.get("Label"): node.text for node in root.iter("AbstractText") if node.text}
            text = "\n\n".join(f"{n}: {sections[n]}" for n in ("FINDINGS", "IMPRESSION") if n in sections)
            present = {name for name, p in patterns.items() if any(p.match(h) for h in headings)}
            yield Labelled(root.find("uId").get("id"), text, frozenset(present), headings == ["normal"])


def read_radlabels(wheel: Path) -> Iterator[Labelled]:
    """Yield the reports inside the wheel with the classes of their labels ``definitely present``."""
    with zipfile.ZipFile(wheel) as archive:
        samples = "radlabels/samples/"
        labels: dict[str, dict[str, str]] = json.loads(archive.read(f"{samples}synthetic_labels.json"))
        for uid, said in sorted(labels.items()):
            text = archive.read(f"{samples}synthetic_reports/{uid}.txt").decode()
            theirs = {name for name, status in said.items() if status == "definitely present"}
            present = {label for label, names in RADLABELS.items() if theirs.intersection(names)}
            yield Labelled(uid, text, frozenset(present))


def is_development(uid: str) -> bool:
    """Whether a report is in the half that may be looked at while writing rules."""
    return hashlib.sha256(uid.encode()).digest()[0] % 2 == 0


def compare(
    reports: Iterable[Labelled], labels: Mapping[str, dict[str, Status]], counted: tuple[Status, ...]
) -> dict[str, Counts]:
    """Count the agreement per class, and over all as ``micro average``."""
    counts = {name: Counts() for name in (*MESH, "micro average")}
    for report in reports:
        ours = {label for label, status in labels[report.uid].items() if status in counted}
        for name in MESH:
            key = {(True, True): "both", (True, False): "ours", (False, True): "theirs"}.get(
                (name in ours, name in report.present)
            )
            if key:
                for row in (counts[name], counts["micro average"]):
                    setattr(row, key, getattr(row, key) + 1)
    return counts


def print_tables(title: str, reports: list[Labelled]) -> None:
    """Print both halves side by side, for positive and for positive or uncertain, and the time taken."""
    began = time.process_time()
    labels = {report.uid: label_report(report.text) for report in reports}
    milliseconds = (time.process_time() - began) / len(reports) * 1000
    halves = [[r for r in reports if is_development(r.uid) == wanted] for wanted in (True, False)]
    words = sum(len(report.text.split()) for report in reports) / len(reports)
    print(f"\n## {title}\n\n{len(reports)} reports: {len(halves[0])} development, {len(halves[1])} test; ")
    print(f"{words:.0f} words and {milliseconds:.2f} ms of processor time per report.")
    kinds = {
        "positive": (Status.POSITIVE,),
        "positive or uncertain": (Status.POSITIVE, Status.UNCERTAIN),
    }
    for kind, counted in kinds.items():
        development, test = (compare(half, labels, counted) for half in halves)
        print(f"\nCounted as present: {kind}\n")
        print("| class | dev n | dev P | dev R | dev F1 | test n | test P | test R | test F1 |")
        print("|---|---|---|---|---|---|---|---|---|")
        for name in development:
            print(f"| {name} | {_cells(development[name])} | {_cells(test[name])} |")
    for name, half in zip(("development", "test"), halves, strict=True):
        normal = [report for report in half if report.normal]
        if normal:
            agreed = sum("No Finding" in labels[report.uid] for report in normal)
            print(f"\n{name}: {agreed} of {len(normal)} reports indexed as normal have the label No Finding.")


def _cells(counts: Counts) -> str:
    scores = " | ".join(f"{score:.3f}" for score in counts.scores())
    return f"{counts.both + counts.theirs} | {scores}"


@dataclass(frozen=True, slots=True)
class HardSentence:
    """A sentence (or a few) with everything that it says of the classes."""

    kind: str
    """What is hard about it: ``doubt``, ``clearing``, ..."""
    text: str
    labels: frozenset[tuple[str, int]]
    """Class and status, "No Finding" left out."""
    sides: frozenset[tuple[str, str]]
    """Positive class and side, where the file gives sides for the sentence."""


def read_sentences(file: Path) -> list[HardSentence]:
    """Read a file with one JSON object in a line: ``kind``, ``text``, ``labels`` and perhaps ``sides``."""
    sentences = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
            sides = {(name, side) for name, named in row.get("sides", {}).items() for side in named}
            labels = frozenset(row["labels"].items())
            sentences.append(HardSentence(row["kind"], row["text"], labels, frozenset(sides)))
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise ValueError(f"{file}:{number}: no sentence with kind, text and labels: {error!r}") from None
    return sentences


def read_by_labeller(sentence: HardSentence) -> tuple[frozenset[tuple[str, int]], frozenset[tuple[str, str]]]:
    """Return the labels of a sentence, and the sides of those classes for which its file gives some."""
    labels = {
        (name, int(status)) for name, status in label_report(sentence.text).items() if name != NO_FINDING
    }
    sided = {name for name, _ in sentence.sides}
    sides = {(n, side) for n, named in finding_sides(sentence.text).items() if n in sided for side in named}
    return frozenset(labels), frozenset(sides)


def score_sentences(sentences: Iterable[HardSentence]) -> dict[str, Counts]:
    """Count agreement on (class, status) pairs by kind and over all, on positive ones alone, and on sides."""
    counts: dict[str, Counts] = {}
    for sentence in sentences:
        labels, sides = read_by_labeller(sentence)
        positive = [
            {pair for pair in pairs if pair[1] == Status.POSITIVE} for pairs in (labels, sentence.labels)
        ]
        for row, ours, theirs in (
            (sentence.kind, labels, sentence.labels),
            ("**all**", labels, sentence.labels),
            ("**positive only**", *positive),
            ("**sides of positive classes**", sides, sentence.sides),
        ):
            agreed = counts.setdefault(row, Counts())
            agreed.both += len(ours & theirs)
            agreed.ours += len(ours - theirs)
            agreed.theirs += len(theirs - ours)
    return dict(sorted(counts.items(), key=lambda item: (item[0].startswith("*"), item[0])))


def print_sentences(sentences: list[HardSentence]) -> None:
    """Print how many pairs are right, by kind and in total; never the sentences."""
    print(f"\n{len(sentences)} sentences\n\n| kind | pairs | right | too many | F1 |\n|---|---|---|---|---|")
    for kind, counts in score_sentences(sentences).items():
        pairs = counts.both + counts.theirs
        print(f"| {kind} | {pairs} | {counts.both} | {counts.ours} | {counts.scores()[2]:.3f} |")


def main() -> None:
    """Read the command line and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--reports", type=Path, help="report archive of OpenI, as published")
    parser.add_argument("--radlabels", type=Path, help="wheel of radlabels 0.2.0")
    parser.add_argument("--sentences", type=Path, help="hard sentences with labels, JSON lines")
    options = parser.parse_args()
    if not any(vars(options).values()):
        parser.error("give --reports, --radlabels or --sentences")
    oracles = (
        ("MeSH headings of OpenI", read_openi, options.reports),
        ("Labels inside radlabels", read_radlabels, options.radlabels),
        ("Hard sentences", read_sentences, options.sentences),
    )
    for title, read, file in oracles:
        if file is None:
            continue
        if not file.is_file():
            parser.error(f"no such file: {file}")
        try:
            found = list(read(file))
        except (
            tarfile.TarError,
            zipfile.BadZipFile,
            ElementTree.ParseError,
            EOFError,
            KeyError,
            ValueError,
        ) as error:
            parser.error(f"{file} is damaged or not what it should be: {error}")
        if not found:
            parser.error(f"{file} holds nothing that is labelled")
        if file == options.sentences:
            print_sentences(found)
        else:
            print_tables(title, found)


if __name__ == "__main__":
    main()
