"""The rules recover the truth of phantom reports exactly, and do not fall for negations; the scores are held
against counts by hand and against the truth that the reports were written from.
"""

from __future__ import annotations

import random

import pytest

from xraygpt.datasets.phantom.report import write_report
from xraygpt.datasets.phantom.truth import Truth, all_findings, draw_truth
from xraygpt.evaluation.metrics.phantom import (
    LATERAL_FINDINGS,
    PHANTOM,
    extract_detailed_findings,
    extract_findings,
    split_phantom_sentences,
)

BY_NAME = {metric.name: metric for metric in PHANTOM}


def test_counts_by_hand() -> None:
    references = ["There is a small left pneumothorax. There is cardiomegaly.", "The lungs are clear."]
    generated = ["There is a large left pneumothorax.", "There is a small right pleural effusion."]
    scores = {name: metric(references, generated) for name, metric in BY_NAME.items()}
    assert scores["phantom_f1"] == pytest.approx(2 / 4)  # one hit, one invented, one missed
    assert scores["phantom_f1_detailed"] == 0
    assert scores["phantom_exact"] == 0


def test_reads_the_truth_that_reports_were_written_from() -> None:
    rng = random.Random(5)
    truths = [draw_truth(rng) for _ in range(60)]
    first, second = ([write_report(truth, rng) for truth in truths] for _ in range(2))
    assert [metric(first, second) for metric in PHANTOM] == [1.0, 1.0, 1.0]
    others = second[1:] + second[:1]
    assert 0 < BY_NAME["phantom_f1"](first, others) < 0.6


def test_nothing_found_where_nothing_is() -> None:
    assert [metric(["Clear lungs."], ["No nodule."]) for metric in PHANTOM] == [1.0, 1.0, 1.0]
    assert [metric(["There is a nodule."], ["No nodule."]) for metric in PHANTOM] == [0.0, 0.0, 0.0]


def drawn(count: int) -> list[tuple[Truth, str]]:
    rng = random.Random(7)
    truths = [draw_truth(rng) for _ in range(count)]
    return [(truth, write_report(truth, rng)) for truth in truths]


def test_recovers_the_truth_of_thousands_of_reports() -> None:
    reports = drawn(4000)
    wrong = [text for truth, text in reports if extract_findings(text) != {f.label for f in truth}]
    assert not wrong
    assert {finding.label for truth, _ in reports for finding in truth} == {f.label for f in all_findings()}


def test_recovers_size_and_zone() -> None:
    for truth, text in drawn(1000):
        words = [" ".join(sorted(f.phrase.replace(" zone", "").split())) for f in truth]
        assert {" ".join(sorted(found.split())) for found in extract_detailed_findings(text)} == set(words)


def test_every_phrasing_of_every_finding_alone() -> None:
    rng = random.Random(0)
    for finding in all_findings():
        for _ in range(30):
            text = write_report((finding,), rng)
            assert extract_findings(text) == {finding.label}, text


@pytest.mark.parametrize(
    "text",
    [
        "No pleural effusion or pneumothorax.",
        "The lungs are clear without consolidation.",
        "The cardiac silhouette is not enlarged.",
        "Heart size is within normal limits; no nodule",
        "NO FOCAL CONSOLIDATION.",
        "",
    ],
)
def test_negated_findings_are_not_findings(text: str) -> None:
    assert extract_findings(text) == set()


def test_negation_ends_with_its_sentence() -> None:
    assert extract_findings("No pneumothorax. There is cardiomegaly.") == {"cardiomegaly"}
    assert extract_findings("Findings: No nodule Impression: Cardiomegaly.") == {"cardiomegaly"}


def test_contradictory_report_is_held_to_both_sides() -> None:
    text = "Findings: There is a small left pneumothorax. Impression: Small right pneumothorax."
    assert extract_findings(text) == {"left pneumothorax", "right pneumothorax"}


def test_missing_side_is_said() -> None:
    assert extract_findings("There is a nodule.") == {"unspecified nodule"}
    assert all(extract_findings(name) == {f"unspecified {name}"} for name in LATERAL_FINDINGS)


def test_sentences_put_together_are_the_report() -> None:
    for _, text in drawn(50):
        pieces = split_phantom_sentences(text)
        assert "".join(pieces) == text
        assert len(pieces) > 3
        assert set().union(*map(extract_findings, pieces)) == extract_findings(text)
    assert split_phantom_sentences("") == []
