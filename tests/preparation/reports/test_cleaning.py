from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping

import pytest

from xraygpt.common.config import build_typed
from xraygpt.common.errors import ConfigError
from xraygpt.evaluation.priors import compares_with_prior
from xraygpt.preparation.reports import cleaning
from xraygpt.preparation.reports.cleaning import (
    KEPT_FOR_LABEL,
    LABEL_PRESERVATION,
    NOT_ENGLISH,
    RESTORED_WORDS,
    SENTENCE_CASE,
    SENTENCE_RULES,
    Change,
    CleanedReport,
    CleaningConfig,
    SentenceRule,
    clean_report,
    clean_sentences,
    join_sections,
    keeps_meaning,
    lost_findings,
)

FINDINGS = (
    "PA and lateral views of the chest were obtained. Stable cardiomegaly. The left XXXX are large. "
    "No XXXX focal consolidation. No pneumothorax."
)
IMPRESSION = "1. Stable cardiomegaly. 2. No change from prior study. 3. No pneumothorax"


def sections(findings: str = FINDINGS, impression: str = IMPRESSION) -> Mapping[str, str]:
    return {"findings": findings, "impression": impression, "indication": "Edema."}


def clean(findings: str = FINDINGS, impression: str = IMPRESSION, **options: bool | int) -> CleanedReport:
    return clean_report(sections(findings, impression), build_typed(CleaningConfig, options, "cleaning"))


def without(name: str) -> Mapping[str, str]:
    return {key: text for key, text in sections().items() if key != name}


def rule(name: str, new: str) -> SentenceRule:
    """A rule that makes `new` of every sentence that speaks of an effusion."""
    return SentenceRule(name, lambda sentence: "effusion" in sentence, lambda _: new)


def test_report_becomes_one_text() -> None:
    report = clean()
    assert report.caption == "Cardiomegaly. No acute focal consolidation. No pneumothorax."
    assert (report.outcome, report.rule, report.detail) == ("kept", "", "")
    assert report.labels_before["Cardiomegaly"] == report.labels_after["Cardiomegaly"] == 1
    assert report.labels_after["Pneumothorax"] == 0
    assert report.changes == (
        Change(RESTORED_WORDS, "No XXXX focal consolidation.", "No new focal consolidation."),
        Change("remove_views", "PA and lateral views of the chest were obtained.", ""),
        Change("remove_comparisons", "Stable cardiomegaly.", "Cardiomegaly."),
        Change("remove_marks", "The left XXXX are large.", ""),
        Change("remove_comparisons", "No new focal consolidation.", "No acute focal consolidation."),
        Change("remove_comparisons", "Stable cardiomegaly.", "Cardiomegaly."),
        Change("remove_comparisons", "No change from prior study.", ""),
    )
    assert pickle.loads(pickle.dumps(report)) == report


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("remove_views", "PA and lateral views of the chest were obtained."),
        ("remove_comparisons", "Stable cardiomegaly."),
        ("remove_marks", "The left XXXX are large."),
    ],
)
def test_each_rule_can_be_switched_off(name: str, left: str) -> None:
    assert left not in clean().caption
    assert left in clean(**{name: False}).caption


def test_sections_can_keep_their_headers() -> None:
    caption = clean(join_sections=False).caption
    assert caption == (
        "Findings: Cardiomegaly. No acute focal consolidation. No pneumothorax. "
        "Impression: Cardiomegaly. No pneumothorax."
    )


def test_sentences_of_two_rules_go_through_both() -> None:
    caption = clean(FINDINGS + " Stable XXXX right effusion on the frontal view.").caption
    assert caption.endswith("No pneumothorax. Right effusion.")


@pytest.mark.parametrize(
    ("findings", "impression", "name", "detail"),
    [
        ("", IMPRESSION, "require_sections", "no findings"),
        (FINDINGS, " \n", "require_sections", "no impression"),
        ("", "", "require_sections", "no findings and no impression"),
        (
            "one two three four five six seven eight nine.",
            IMPRESSION,
            "min_findings_words",
            'findings: words 9, needed 10: "one two three four five six seven eight nine."',
        ),
        (FINDINGS, "Negative.", "min_impression_words", 'impression: words 1, needed 2: "Negative."'),
    ],
)
def test_dropped(findings: str, impression: str, name: str, detail: str) -> None:
    report = clean(findings, impression)
    assert (report.outcome, report.rule, report.detail, report.caption) == ("dropped", name, detail, "")
    assert name in CleaningConfig.__dataclass_fields__


def test_limits_are_for_the_words_as_published() -> None:
    assert (
        clean("Stable heart size. XXXX XXXX XXXX XXXX XXXX. Clear lungs.", "No change.").caption
        == "Clear lungs."
    )


def test_drop_rules_can_be_switched_off() -> None:
    options = {"require_sections": False, "min_findings_words": 0, "min_impression_words": 0}
    assert clean("Clear.", "", **options).caption == "Clear."
    assert clean("", "Clear.", **options).caption == "Clear."
    assert clean("", "", **options).rule == "require_sections"
    assert clean_report(without("findings"), CleaningConfig(require_sections=False)).outcome == "kept"
    assert clean_report(without("findings"), CleaningConfig()).detail == "no findings"


def test_report_that_only_compares_is_dropped() -> None:
    report = clean("No change from prior study. " * 3, "No interval change.")
    assert (report.outcome, report.rule) == ("dropped", "nothing_left")


def test_limits_below_zero_are_refused() -> None:
    with pytest.raises(ConfigError, match="min_findings_words: has to be 0 or more"):
        CleaningConfig(min_findings_words=-1)


def test_no_rule_takes_a_finding_away() -> None:
    before = ["Large right effusion.", "Clear."]
    cleaned, changes = clean_sentences({"findings": before}, [rule("lossy", "Nothing.")])
    assert cleaned == {"findings": before}
    assert changes == (Change(KEPT_FOR_LABEL, before[0], before[0]),)


def test_what_is_said_twice_may_go_once() -> None:
    before = {"findings": ["Large right effusion."], "impression": ["Right effusion."]}
    cleaned, changes = clean_sentences(before, [rule("lossy", "Nothing.")])
    assert cleaned == {"findings": [], "impression": ["Right effusion."]}
    assert [change.rule for change in changes] == ["lossy", KEPT_FOR_LABEL]


@pytest.mark.parametrize(
    "new", ["No effusion.", "Possible effusion.", "Effusion and edema.", "Large.", "Fluid, which is."]
)
def test_sentence_that_would_mean_something_else_goes(new: str) -> None:
    """Although the report as a whole would assert an effusion and edema with it too."""
    before = {"findings": ["Large effusion."], "impression": ["Pleural fluid. Edema."]}
    cleaned, changes = clean_sentences(before, [rule("careless", new)])
    assert cleaned == {"findings": [], "impression": ["Pleural fluid. Edema."]}
    assert [change.after for change in changes] == [""]


def test_sentence_that_would_break_goes() -> None:
    before = {"findings": ["No effusion."], "impression": ["Clear."]}
    cleaned, _ = clean_sentences(before, [rule("careless", "A shadow which does not.")])
    assert cleaned == {"findings": [], "impression": ["Clear."]}


@pytest.mark.parametrize(
    ("before", "after", "kept"),
    [
        ("Stable edema.", "Edema.", True),
        ("The edema has resolved.", "No edema.", True),
        ("Scar, no effusion.", "Scar.", True),
        ("The edema has almost resolved.", "No edema.", False),
        ("Possible edema.", "Edema.", False),
        ("No edema.", "Edema.", False),
        ("Edema and effusion.", "Edema.", False),
        ("Scar.", "No effusion.", False),
    ],
)
def test_keeps_meaning(before: str, after: str, kept: bool) -> None:
    assert keeps_meaning(before, after) == kept


def test_words_that_are_put_back_are_no_new_finding() -> None:
    report = clean("Right XXXX-a-XXXX is in XXXX. Midline sternotomy XXXX. The lungs are clear.")
    assert report.outcome == "kept"
    assert report.caption.startswith("Right Port-a-Cath is in place. Midline sternotomy wires. The lungs")
    assert report.labels_before["Support Devices"] == report.labels_after["Support Devices"] == 1
    assert report.changes[0] == Change(
        RESTORED_WORDS, "Right XXXX-a-XXXX is in XXXX.", "Right Port-a-Cath is in place."
    )


def test_words_are_put_back_with_the_rule_for_marks_only() -> None:
    report = clean("Midline sternotomy XXXX. " + FINDINGS, remove_marks=False)
    assert report.caption.startswith("Midline sternotomy XXXX.")
    assert "Support Devices" not in report.labels_before


@pytest.mark.parametrize(
    ("findings", "impression", "caption"),
    [
        (
            "The left pneumothorax has almost resolved.",
            "Tiny left pneumothorax.",
            "Left pneumothorax. Tiny left",
        ),
        ("Effusion was seen on the prior CT.", "No effusion.", "No effusion."),
        ("First rib fracture not well seen on prior.", "Clear lungs.", "First rib fracture."),
        ("Consolidation was present on the prior study.", "Clear lungs.", "Clear lungs."),
        ("Two nodules were identified on the prior chest CT.", "Clear lungs.", "Clear lungs."),
        ("On a prior XXXX scan (XXXX), the apex was consolidated.", "Clear lungs.", "Clear lungs."),
        (
            "No effusion was seen on the prior study, but there is one now.",
            "Small effusion.",
            "Small effusion.",
        ),
        (
            "Gas in the colon, which incidentally was seen on the prior exam.",
            "Clear lungs.",
            "Gas in the colon",
        ),
        ("This was seen well on the prior CT.", "Clear lungs.", "Clear lungs."),
        ("There is no evidence of XXXX, focal infiltrate.", "Clear lungs.", "There is no evidence of focal"),
        ("Small known nodule. No XXXX nodule.", "Clear lungs.", "Small known nodule. No other nodule."),
        ("Edema is present. No ___ edema.", "Clear lungs.", "Edema is present. No acute edema."),
        ("Opacity XXXX represents edema.", "Clear lungs.", "Opacity likely represents edema."),
        ("Chest Comparison: There is a mass.", "Clear lungs.", "There is a mass. Clear"),
        ("Comparison: ___. There is a mass.", "Clear lungs.", "There is a mass. Clear"),
        ("Indication: Cough. There is a mass.", "Clear lungs.", "There is a mass. Clear"),
        ("Possible edema on the prior study, stable.", "Clear lungs.", "Possible edema"),
    ],
)
def test_cleaning_turns_nothing_round(findings: str, impression: str, caption: str) -> None:
    report = clean(findings, impression, min_findings_words=0)
    assert report.outcome == "kept"
    assert report.caption.startswith(caption)


def test_the_side_of_a_finding_stays() -> None:
    before = {"findings": ["Right effusion."], "impression": ["Left effusion."]}
    cleaned, changes = clean_sentences(before, [rule("lossy", "")])
    assert cleaned == before
    assert {change.rule for change in changes} == {KEPT_FOR_LABEL}


def test_no_rule_adds_a_finding() -> None:
    cleaned, changes = clean_sentences({"findings": ["No effusion."]}, [rule("inventive", "Pneumonia.")])
    assert cleaned == {"findings": []}
    assert changes == (Change("inventive", "No effusion.", ""),)


def test_report_whose_findings_changed_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is between: here the joining loses a sentence."""
    monkeypatch.setattr(cleaning, "join_sections", lambda _: "No pneumothorax.")
    report = clean()
    assert (report.outcome, report.rule, report.detail) == (
        "rejected",
        LABEL_PRESERVATION,
        "Cardiomegaly: positive before, not mentioned after",
    )
    assert report.caption == ""
    assert "Cardiomegaly" not in report.labels_after


@pytest.mark.parametrize(
    ("before", "after", "difference"),
    [
        ("Edema. Left effusion.", "Left effusion and edema.", ""),
        ("No edema. No fracture.", "No fracture.", ""),
        ("Edema.", "No edema.", "Edema: positive before, negative after"),
        ("Possible edema.", "Edema.", "Edema: uncertain before, positive after"),
        ("Possible edema.", "No edema.", "Edema: uncertain before, negative after"),
        ("Possible edema.", "Clear.", "Edema: uncertain before, not mentioned after"),
        ("No edema.", "Possible edema.", "Edema: negative before, uncertain after"),
        ("Clear.", "No edema.", "Edema: not mentioned before, negative after"),
        (
            "Edema.",
            "Pneumothorax.",
            "Edema: positive before, not mentioned after; Pneumothorax: not mentioned before, positive after",
        ),
    ],
)
def test_lost_findings(before: str, after: str, difference: str) -> None:
    assert lost_findings(before, after) == difference


def test_sentence_goes_with_the_one_that_it_refers_to() -> None:
    before = ["A large shadow.", "This may be a vessel.", "It is round.", "Clear lungs."]
    shadows = SentenceRule("lossy", lambda sentence: "shadow" in sentence, lambda _: "A shadow which is.")
    cleaned, changes = clean_sentences({"findings": before}, [shadows])
    assert cleaned == {"findings": ["Clear lungs."]}
    assert changes == tuple(Change("lossy", sentence, "") for sentence in before[:3])
    nothing = SentenceRule("views", lambda sentence: "shadow" in sentence, lambda _: "")
    assert clean_sentences({"findings": before}, [nothing])[0] == {"findings": before[1:]}
    finding = [before[0], "This is an effusion."]
    assert clean_sentences({"findings": finding}, [shadows])[0] == {"findings": finding[1:]}


def test_a_view_that_does_not_show_a_nodule_denies_none() -> None:
    report = clean("A nodule is seen on the PA view, not identified on the lateral view. It may be a vessel.")
    assert report.caption.startswith("A nodule is seen. It may be a vessel.")


def test_what_is_said_of_two_sides_stays_twice() -> None:
    text = join_sections({"findings": ["No scar.", "Left:", "No scar."], "impression": ["No scar."]})
    assert text == "No scar. Left. No scar."


def test_repeated_header_stays_with_its_sentence() -> None:
    text = join_sections({"findings": ["Left ankle.", "Normal."], "impression": ["Left ankle.", "Fracture."]})
    assert text == "Left ankle. Normal. Left ankle. Fracture."
    text = join_sections({"findings": ["Left ankle.", "Normal."], "impression": ["Left ankle.", "Normal."]})
    assert text == "Left ankle. Normal."


def test_join() -> None:
    text = join_sections(
        {"findings": ["Clear lungs", "Is it an effusion?"], "impression": ["clear Lungs.", "Scar.."]}
    )
    assert text == "Clear lungs. Is it an effusion? Scar."


def test_report_that_needs_its_mark_is_rejected() -> None:
    report = clean("XXXX regarding possible lung nodules at XXXX hours XXXX/XXXX. " + FINDINGS)
    assert (report.outcome, report.rule, report.caption) == ("rejected", "remove_marks", "")
    assert report.detail.startswith('cannot do without its mark: "XXXX regarding possible')
    assert clean("XXXX regarding lung nodules at XXXX hours. " + FINDINGS, remove_marks=False).caption


@pytest.mark.parametrize(
    "sentence",
    [
        "Prominent XXXX.",
        # Wires or ribs: nothing tells which.
        "There are broken 1st and 3rd-5XXXX XXXX XXXX.",
        "Broken of the 4XXXX XXXX XXXX.",
    ],
)
def test_report_that_would_lose_an_abnormal_word_is_rejected(sentence: str) -> None:
    report = clean(f"{sentence} {FINDINGS}")
    assert (report.outcome, report.rule) == ("rejected", "remove_marks")
    assert report.detail == f'cannot do without its mark: "{sentence}"'


def test_names_of_rules_are_fields_of_the_configuration() -> None:
    assert {rule.name for rule in SENTENCE_RULES} <= set(CleaningConfig.__dataclass_fields__)


@pytest.mark.parametrize(
    "finding", ["left effusion", "right lower lobe pneumonia", "cardiomegaly", "small pneumothorax", "edema"]
)
@pytest.mark.parametrize(
    "sentence",
    [
        "Stable {}.",
        "Unchanged {} since ___.",
        "There is persistent {}, not significantly changed from the prior study.",
        "In comparison with the study of ___, there is again {}.",
        "As compared to the previous radiograph, the {} has increased.",
        "{} is unchanged in appearance compared to prior chest radiograph of ___.",
        "Interval worsening of {}.",
    ],
)
def test_findings_outlive_their_comparison(sentence: str, finding: str) -> None:
    report = clean(
        f"The lungs are otherwise clear without any other finding. {sentence.format(finding)}", "As above."
    )
    assert report.outcome == "kept"
    assert finding in report.caption.lower()
    assert not compares_with_prior(report.caption)
    assert "___" not in report.caption


@pytest.mark.parametrize("change", [str.upper, str.lower])
@pytest.mark.parametrize(
    "findings",
    [
        FINDINGS,
        "The heart is enlarged.There is a small left pleural effusion, unchanged from prior. "
        "There are XXXX surgical clips.",
        "1. The heart, pulmonary XXXX and mediastinum are normal. 2. No change of the nodule "
        "at T8 seen on the prior CT.",
        "Lungs are clear, and the XXXX is normal. Compared to XXXX, a left chest tube is seen. "
        "It was placed at 9 a.m. by Dr. XXXX.",
        "Sternotomy XXXX are intact. The cardiac silhouette has increased and has a usual shape. "
        "A XXXX ICD is seen.",
    ],
)
def test_capitals_make_no_difference(findings: str, change: Callable[[str], str]) -> None:
    usual = clean(findings)
    other = clean(change(findings), change(IMPRESSION))
    assert other.caption.lower() == usual.caption.lower() != ""
    assert (other.outcome, other.labels_before, other.labels_after) == (
        usual.outcome,
        usual.labels_before,
        usual.labels_after,
    )
    assert other.changes[0].rule == SENTENCE_CASE
    assert other.changes[0].before == change(findings)


@pytest.mark.parametrize("change", [str, str.upper])
@pytest.mark.parametrize(
    ("findings", "impression"),
    [
        (
            "El corazón es de tamaño normal y los pulmones están claros. No hay cambios desde el previo.",
            "Sin derrame pleural.",
        ),
        (
            "Das Herz ist nicht vergrößert, und die Lunge ist frei. Kein Pleuraerguss im Verlauf.",
            "Kein Erguss.",
        ),
        (
            "Сердце не увеличено в размерах. Лёгкие чистые, без изменений по сравнению с предыдущим.",
            "Без выпота.",
        ),
    ],
)
def test_other_languages_are_left_as_they_are(
    findings: str, impression: str, change: Callable[[str], str]
) -> None:
    report = clean(change(findings), change(impression))
    assert (report.outcome, report.detail) == ("kept", NOT_ENGLISH)
    assert report.caption == change(f"{findings} {impression}")
    assert report.changes == ()
    assert report.labels_before == report.labels_after == {}
    short = clean(change(findings), change(impression), min_findings_words=50)
    assert (short.outcome, short.rule) == ("dropped", "min_findings_words")
