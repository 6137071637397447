from __future__ import annotations

import pytest

from xraygpt.preparation.sources.sections import parse_sections, section_name, split_report

TITLE = "                                 FINAL REPORT\n"
LINE = " " + "_" * 78 + "\n"


def lines(*texts: str) -> str:
    return "".join(f" {text}\n" for text in texts)


REPORT = TITLE + lines(
    *("EXAMINATION:  CHEST (PA AND LAT)", ""),
    *("INDICATION:  Cough of a synthetic patient,", "aged ___.  // pneumonia?", ""),
    *("FINDINGS: ", "", "The heart is large.  The lungs", "are clear.", ""),
    *("IMPRESSION: ", "", "1.  Cardiomegaly."),
)


def test_sections_of_a_usual_report() -> None:
    expected = {
        "examination": "CHEST (PA AND LAT)",
        "indication": "Cough of a synthetic patient, aged ___. // pneumonia?",
        "findings": "The heart is large. The lungs are clear.",
        "impression": "1. Cardiomegaly.",
    }
    assert parse_sections(REPORT) == expected
    assert parse_sections(REPORT.replace("\n", "\r\n")) == expected


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("IMPRESSION", "impression"),
        ("CONCLUSION", "impression"),
        ("FINDINGS/IMPRESSION", "impression"),
        ("FINDINGS AND IMPRESSION", "impression"),
        ("PROVISIONAL FINDINGS IMPRESSION (PFI)", "impression"),
        ("REASON FOR EXAMINATION", "indication"),
        ("REASON FOR THE EXAM", "indication"),
        ("CLINICAL INFORMATION", "history"),
        ("PAST MEDICAL HISTORY", "history"),
        ("COMPARISON FILM", "comparison"),
        ("TYPE OF EXAMINATION", "examination"),
        ("RECOMMENDATION(S)", "recommendations"),
        ("   WET READ", "wet read"),
        ("CHEST, TWO VIEWS", "findings"),
        ("PORTABLE AP", "findings"),
        ("LEFT RIBS", "findings"),
        ("TECHNIQUE", "technique"),
        ("NOTIFICATION", "notification"),
    ],
)
def test_names_are_normalised(header: str, name: str) -> None:
    assert section_name(header) == name


@pytest.mark.parametrize(
    ("mistyped", "name"),
    [
        ("IMPRESSON IMPRRESSION IMOREsSION IMPRESSOIN MPRESSION IMPERSSION CONCUSION", "impression"),
        ("FINDING FINDINGSS FINIDNGS FINDNGS FONDINGS", "findings"),
        ("COMPARSION COMPARISION COMPARRISON COMPARISIONS COMPARIOSN", "comparison"),
        ("NDICATION IDICATION INDICATIONS", "indication"),
    ],
)
def test_one_typing_error_is_forgiven(mistyped: str, name: str) -> None:
    assert {section_name(header) for header in mistyped.split()} == {name}


def test_two_typing_errors_are_not() -> None:
    assert section_name("IMPRSSIN") == "imprssin"
    assert section_name("") == ""


def test_last_section_of_a_name_wins_unless_it_is_empty() -> None:
    text = lines(
        "FINDINGS: first", "IMPRESSION: one", "FINDINGS: second", "IMPRESSION:   ", "", "TECHNIQUE: AP"
    )
    assert parse_sections(text) == {"findings": "second", "impression": "one", "technique": "AP"}


def test_header_needs_capitals_one_blank_and_a_colon() -> None:
    text = lines("FINDINGS: The lungs", "Impression: clear", "IMPRESSION no colon") + "IMPRESSION: no blank\n"
    assert list(parse_sections(text)) == ["findings"]


def test_title_above_a_header_is_not_a_section() -> None:
    text = lines("CHEST, PA LATERAL: ", "", "INDICATION: cough", "IMPRESSION: Normal chest.")
    assert parse_sections(text) == {"indication": "cough", "impression": "Normal chest."}


@pytest.mark.parametrize("comparison", ["None.", ""])
def test_text_below_the_last_header_is_the_last_paragraph(comparison: str) -> None:
    text = lines("INDICATION: cough", f"COMPARISON: {comparison}", "", "Clear lungs.", "", "No effusion.")
    sections = parse_sections(text)
    assert sections["last_paragraph"] == "Clear lungs. No effusion."
    assert sections.get("comparison", "") == comparison


def test_report_without_headers() -> None:
    text = TITLE + lines("CHEST RADIOGRAPH", "", "The lungs are clear.", "", "No effusion.")
    assert parse_sections(text) == {
        "preamble": "CHEST RADIOGRAPH",
        "last_paragraph": "The lungs are clear. No effusion.",
    }
    assert parse_sections(TITLE + lines("The lungs", "are clear.")) == {
        "last_paragraph": "The lungs are clear."
    }
    assert parse_sections("") == parse_sections(TITLE) == {}


def test_no_last_paragraph_where_there_are_findings() -> None:
    text = lines("FINDINGS: Clear.", "", "No effusion.", "", "COMPARISON: None.", "", "Signed.")
    assert parse_sections(text) == {"findings": "Clear. No effusion.", "comparison": "None. Signed."}


def test_addendum_stands_apart() -> None:
    above = "                                 FINAL ADDENDUM\n" + lines("The side was wrong.")
    assert parse_sections(above + LINE + REPORT) == {
        "addendum": "The side was wrong.",
        **parse_sections(REPORT),
    }
    headed = lines("ADDENDUM: The side was wrong.", "IMPRESSION: corrected")
    sections = parse_sections(headed + LINE + REPORT)
    assert (sections["addendum"], sections["impression"]) == ("The side was wrong.", "1. Cardiomegaly.")
    assert parse_sections(headed + LINE + lines("FINDINGS: Clear."))["impression"] == "corrected"


def test_line_at_the_end_is_not_an_addendum() -> None:
    assert "addendum" not in parse_sections(REPORT + LINE)


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
