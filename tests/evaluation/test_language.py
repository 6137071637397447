"""Which reports count as English, and what is left out where they are not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.evaluation.runs import prediction
from xraygpt.evaluation.comparison import compare_predictions
from xraygpt.evaluation.language import check_language, is_latin
from xraygpt.evaluation.metrics.catalogue import OFFLINE
from xraygpt.evaluation.page.report_page import write_report_page
from xraygpt.evaluation.protocol import make_protocol, paragraph
from xraygpt.evaluation.results import score_lines
from xraygpt.evaluation.scoring import score_predictions
from xraygpt.evaluation.statistics import plain

METRICS = [metric for metric in OFFLINE if metric.name != "meteor"]
ENGLISH = [
    "Normal.",
    "No acute findings",
    "NO EFFUSION. HEART SIZE NORMAL. LUNGS CLEAR",
    "NAD",
    "",
    "XXXX ___ .",
    "Edema; pneumonia.",
    "ET tube in situ, tip at the level of the carina.",
    "A 5 µm nodule. Röntgen view: no effusion.",
    "a b c d",
    "qu zzt blorp",
    "Heart size is 12 × 15 cm – unchanged since 01/02…",
]
OTHERS = [
    "Sin hallazgos agudos.",
    "No se observa derrame pleural ni neumotórax.",
    "CORAZON DE TAMANO NORMAL. PULMONES CLAROS.",
    "Sem derrame pleural.",
    "Não há consolidação.",
    "Pas d'épanchement pleural.",
    "Le coeur est de taille normale.",
    "Kein Pleuraerguss, kein Pneumothorax.",
    "Unauffälliger Befund.",
    "Non versamento pleurico.",
    "Geen pleuravocht. Hart niet vergroot.",
    "Bez zmian ogniskowych.",
    "Plevral efüzyon yok.",
    "Không thấy tràn dịch màng phổi.",
    "双肺清晰。未见急性异常。",
    "心拡大なし。",
    "심장 비대 없음.",
    "Лёгкие без очаговых изменений.",
    "لا يوجد انصباب جنبي.",
    "Χωρίς υπεζωκοτική συλλογή.",
    "CT: 双肺清晰。",
]


@pytest.mark.parametrize("text", ENGLISH)
def test_english_is_not_doubted(text: str) -> None:
    assert check_language([text], [text]).note == ""


@pytest.mark.parametrize("text", OTHERS)
def test_another_language_is_seen(text: str) -> None:
    check = check_language([text], ["Normal."])
    assert (check.references, check.generated, check.english) == (1, 0, False)
    check = check_language(["Normal."], [text])
    assert (check.references, check.generated, check.english) == (0, 1, False)


def test_a_language_of_which_no_word_is_known_is_seen_in_the_references_together() -> None:
    swahili = [
        "Moyo uko sawa, mapafu hayana maji.",
        "Hakuna tatizo lolote katika kifua.",
        "Mifupa iko salama.",
    ]
    assert not check_language(swahili * 2, [""] * 6).english
    assert check_language([""] * 6, swahili * 2).english  # or an untrained model's nonsense


def test_a_few_others_are_counted_and_many_end_the_scores() -> None:
    few = check_language(["No effusion."] * 19 + [OTHERS[0]], ["Normal."] * 20)
    assert few.english
    assert few.note.startswith("1 of 20 references and 0 of the generated reports are not in English")
    assert not check_language(["No effusion."] * 8 + OTHERS[:2], ["Normal."] * 10).english


def test_scores_that_read_english_are_left_out_and_said_so(tmp_path: Path) -> None:
    rows = [prediction(i, text, text) for i, text in enumerate(OTHERS[:8])]
    scores = score_predictions(rows, METRICS, seed=0, rounds=10)
    left_out = {metric.name for metric in METRICS if metric.english_only}
    assert {
        "rule_f1_micro_14",
        "laterality_f1",
        "prior_reports",
        "contradictions",
        "normal_generated",
    } < left_out
    assert set(scores.not_computed) == left_out
    assert not set(scores.scores) & left_out
    assert scores.scores["rouge_l"].value == 1
    assert (scores.findings, scores.sides) == ({}, {})
    assert plain(scores)["language"]["not_english_references"] == 8
    assert "not in English" in "\n".join(score_lines(scores))
    file = tmp_path / "p.jsonl"
    file.touch()
    protocol = make_protocol(rows, scores, file=file, command="")
    assert "8 of 8 references and 8 of the generated reports are not in English" in paragraph(protocol)
    page = write_report_page(scores, rows, protocol, output=tmp_path / "page.html").read_text(
        encoding="utf-8"
    )
    assert "<strong>Language:</strong> 8 of 8 references" in page
    assert '<mark class="' not in page.split('id="examples"')[1]
    comparison = compare_predictions({"a": rows, "b": rows}, METRICS, seed=0, rounds=10)
    assert set(comparison.not_computed) == left_out
    assert comparison.language.references == 8


def test_only_left_out_metrics(tmp_path: Path) -> None:
    rows = [prediction(i, text, text) for i, text in enumerate(OTHERS[:3])]
    scores = score_predictions(rows, [m for m in METRICS if m.english_only], seed=0, rounds=10)
    assert scores.scores == {}
    file = tmp_path / "p.jsonl"
    file.touch()
    protocol = make_protocol(rows, scores, file=file, command="")
    write_report_page(scores, rows, protocol, output=tmp_path / "page.html")


def test_english_reports_have_no_note() -> None:
    rows = [prediction(i, "The heart is enlarged.", "No acute disease.") for i in range(3)]
    scores = score_predictions(rows, METRICS, seed=0, rounds=10)
    assert scores.not_computed == {}
    assert plain(scores)["language"]["note"] == ""
    assert "English" not in "\n".join(score_lines(scores))


@pytest.mark.parametrize(
    ("text", "latin"), [("", True), ("12.5", True), ("5 µm", True), ("café", True), ("CT 双肺清晰", False)]
)
def test_script(text: str, latin: bool) -> None:
    assert is_latin(text) is latin
