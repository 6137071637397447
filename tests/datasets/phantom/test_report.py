from __future__ import annotations

import re

import pytest

from xraygpt.datasets.phantom import report as texts
from xraygpt.datasets.phantom.render import phantom_rng
from xraygpt.datasets.phantom.report import keywords, write_report
from xraygpt.datasets.phantom.truth import Truth, all_findings, draw_truth
from xraygpt.evaluation.metrics.phantom import extract_findings


def drawn(count: int) -> list[tuple[Truth, str]]:
    pairs = []
    for index in range(count):
        rng = phantom_rng(77, index, "truth")
        truth = draw_truth(rng)
        pairs.append((truth, write_report(truth, rng)))
    return pairs


@pytest.fixture(scope="module")
def reports() -> list[tuple[Truth, str]]:
    return drawn(3000)


def test_truth_is_read_back_from_every_report(reports: list[tuple[Truth, str]]) -> None:
    for truth, report in reports:
        assert extract_findings(report) == {finding.label for finding in truth}, report


def test_details_are_written(reports: list[tuple[Truth, str]]) -> None:
    for truth, report in reports:
        for finding in truth:
            for word in filter(None, (finding.side, finding.zone, finding.size)):
                assert re.search(rf"\b{word}\b", report, re.IGNORECASE), (finding, report)


def test_negatives_are_in_every_report_and_contradict_nothing(reports: list[tuple[Truth, str]]) -> None:
    for truth, report in reports:
        names = {finding.name for finding in truth}
        findings = report.split(" Impression: ")[0]
        denied = [s.lower() for s in report.split(".") if re.search(r"\b(no|not|without)\b", s.lower())]
        for name in ("pleural effusion", "pneumothorax"):
            word = name.split()[-1]
            assert any(word in sentence for sentence in denied) == (name not in names), report
        assert any(s in findings for s in texts.NORMAL_HEART) == ("cardiomegaly" not in names)
        opacities = names & {"consolidation", "nodule", "pulmonary edema"}
        assert any(s in findings for s in texts.CLEAR_LUNGS) == (not opacities)


def test_report_has_both_sections(reports: list[tuple[Truth, str]]) -> None:
    assert all(re.fullmatch(r"Findings: [A-Z].+\. Impression: [A-Z].+\.", report) for _, report in reports)
    assert not any("{" in report or "  " in report for _, report in reports)


def test_every_phrasing_is_used(reports: list[tuple[Truth, str]]) -> None:
    everything = "\n".join(report for _, report in reports)
    values = {"side": "left", "zone": "mid", "size": "small"}
    for table in (texts.FINDING_SENTENCES, texts.IMPRESSION_PHRASES):
        for phrasings in table.values():
            for phrasing in phrasings:
                text = phrasing.format(**values)
                assert text[0].upper() + text[1:] in everything
    for negatives in (texts.NO_PLEURAL_FINDING, texts.NO_EFFUSION, texts.NO_PNEUMOTHORAX):
        assert all(sentence in everything for sentence in negatives)


def test_same_generator_gives_the_same_report() -> None:
    assert drawn(20) == drawn(20)


def test_keywords_name_all_findings() -> None:
    truth = tuple(all_findings()[:3])
    assert sorted(keywords(truth, phantom_rng(0, 0, "truth")).split(", ")) == sorted(f.phrase for f in truth)
    assert keywords((), phantom_rng(0, 0, "truth")) == "normal"
