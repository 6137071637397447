from __future__ import annotations

import pytest

from xraygpt.preparation.sources.report_text import split_report


@pytest.mark.parametrize(
    "text",
    [
        "FINDINGS: Heart is\nnormal. IMPRESSION: No acute process.",
        "Findings:\n  Heart is normal.\n\nImpression :\nNo acute process.\n",
        "**Findings:** Heart is normal.\n**Impression:** No acute process.",
        "Conclusion: No acute process. Findings: Heart is normal.",
    ],
)
def test_headers_in_any_form(text: str) -> None:
    assert split_report(text) == {"findings": "Heart is normal.", "impression": "No acute process."}


def test_other_sections_and_what_precedes_them() -> None:
    text = "CHEST X-RAY\nCOMPARISON: None.\nFINDINGS: Clear. IMPRESSION: Normal. FINDINGS: No fracture."
    assert split_report(text) == {
        "preamble": "CHEST X-RAY",
        "comparison": "None.",
        "findings": "Clear. No fracture.",
        "impression": "Normal.",
    }


def test_words_within_a_sentence_are_no_headers() -> None:
    text = "These findings: effusion, edema. The impression is that of age."
    assert split_report(text) == {"findings": text}


def test_text_without_headers_is_the_findings() -> None:
    assert split_report(" Clear\nlungs. ") == {"findings": "Clear lungs."}
    assert split_report("") == {"findings": ""}
