"""The measurement of the labeller, on small files of the oracles' formats."""

from __future__ import annotations

import io
import json
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from benchmarks.labeller import (
    Counts,
    compare,
    main,
    read_openi,
    read_radlabels,
    read_sentences,
    score_sentences,
)
from xraygpt.evaluation.labeller import CLASSES, Status, label_report


def write_openi(file: Path, reports: dict[str, tuple[str, list[str]]]) -> None:
    with tarfile.open(file, "w:gz") as tar:
        for uid, (findings, headings) in reports.items():
            majors = "".join(f"<major>{heading}</major>" for heading in headings)
            content = (
                f'<eCitation><uId id="{uid}"/><AbstractText Label="INDICATION">Pneumonia</AbstractText>'
                f'<AbstractText Label="FINDINGS">{findings}</AbstractText><MeSH>{majors}</MeSH></eCitation>'
            ).encode()
            member = tarfile.TarInfo(f"ecgen-radiology/{uid}.xml")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    reports = {
        "CXR1": ("Mild cardiomegaly.", ["Cardiomegaly/mild", "Spine/degenerative"]),
        "CXR2": ("The heart is normal.", ["normal"]),
        "CXR3": ("Nodular density in the left lung.", ["Density/lung/left/round"]),
        "CXR4": ("No effusion.", ["No Indexing"]),
        "CXR5": ("Borderline heart size.", ["Cardiomegaly/borderline"]),
        "CXR6": ("Large effusion.", []),
    }
    write_openi(tmp_path / "reports.tgz", reports)
    return tmp_path / "reports.tgz"


def test_mesh_headings_become_classes(archive: Path) -> None:
    reports = {report.uid: report for report in read_openi(archive)}
    assert {uid: set(report.present) for uid, report in reports.items()} == {
        "CXR1": {"Cardiomegaly"},
        "CXR2": set(),
        "CXR3": {"Lung Lesion"},
        "CXR5": set(),
        "CXR6": set(),
    }
    assert [uid for uid, report in reports.items() if report.normal] == ["CXR2"]
    assert "Pneumonia" not in reports["CXR1"].text


def test_counts_agreement(archive: Path) -> None:
    reports = list(read_openi(archive))
    labels = {report.uid: label_report(report.text) for report in reports}
    counts = compare(reports, labels, (Status.POSITIVE,))
    assert set(counts) == {*CLASSES, "micro average"} - {"No Finding"}
    assert counts["Cardiomegaly"] == Counts(both=1)
    assert counts["Pleural Effusion"] == Counts(ours=1)
    assert counts["micro average"].scores() == (2 / 3, 1.0, 0.8)
    counts = compare(reports, labels, (Status.POSITIVE, Status.UNCERTAIN))
    assert counts["Cardiomegaly"] == Counts(both=1, ours=1)


def test_prints_tables(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wheel = tmp_path / "radlabels.whl"
    labels = {"s1": {"pulmonary_edema": "definitely present", "pneumonia": "uncertain"}}
    with zipfile.ZipFile(wheel, "w") as zipped:
        zipped.writestr("radlabels/samples/synthetic_labels.json", json.dumps(labels))
        zipped.writestr("radlabels/samples/synthetic_reports/s1.txt", "FINDINGS: Edema.")
    assert [set(report.present) for report in read_radlabels(wheel)] == [{"Edema"}]
    monkeypatch.setattr(sys, "argv", ["labeller", "--reports", str(archive), "--radlabels", str(wheel)])
    main()
    printed = capsys.readouterr().out
    assert printed.count("| micro average |") == 4
    assert "ms of processor time per report" in printed


def test_hard_sentences_are_counted_by_kind_and_never_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "sentences.jsonl"
    rows = (
        {
            "kind": "a",
            "text": "Left effusion.",
            "labels": {"Pleural Effusion": 1},
            "sides": {"Pleural Effusion": ["left"]},
        },
        {"kind": "b", "text": "No edema.", "labels": {"Edema": 1, "Fracture": 0}},
    )
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert score_sentences(read_sentences(file)) == {
        "a": Counts(both=1),
        "b": Counts(ours=1, theirs=2),
        "**all**": Counts(both=1, ours=1, theirs=2),
        "**positive only**": Counts(both=1, theirs=1),
        "**sides of positive classes**": Counts(both=1),
    }
    monkeypatch.setattr(sys, "argv", ["labeller", "--sentences", str(file)])
    main()
    printed = capsys.readouterr().out
    assert "| **all** | 3 | 1 | 1 | 0.400 |" in printed
    assert "edema" not in printed.lower()
    file.write_text('{"kind": "a"}\n')
    with pytest.raises(ValueError, match=r"sentences.jsonl:1: no sentence with kind, text and labels"):
        read_sentences(file)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "no such file"),
        (b"no archive", "damaged or not what it should be"),
        ({}, "nothing that is labelled"),
    ],
)
def test_unusable_files_are_said(
    content: bytes | dict[str, tuple[str, list[str]]] | None,
    complaint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "reports.tgz"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content is not None:
        write_openi(file, content)
    monkeypatch.setattr(sys, "argv", ["labeller", "--reports", str(file)])
    with pytest.raises(SystemExit):
        main()
    assert complaint in capsys.readouterr().err
