"""The audit: what the conditions do, what the verdict says, and the whole command on the tiny model."""

from __future__ import annotations

import json
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.evaluation.runs import TEXTS, prediction
from tests.toy import ToyModel, write_config, write_dataset
from xraygpt.common.errors import ConfigError, DataError, MissingFileError
from xraygpt.evaluation.labeller import label_report, positive_findings
from xraygpt.evaluation.metrics.catalogue import choose_metrics
from xraygpt.evaluation.predictions import Prediction
from xraygpt.runners.launch import launch
from xraygpt.tasks.audit import (
    CLAIMS,
    CONDITIONS,
    REPEATED,
    Audit,
    all_conditions,
    audit_reports,
    claim_against,
    with_claim,
)

ROOT = Path(__file__).parents[2]
METRICS = choose_metrics(["rule_f1_micro_14", "rouge_l"])


def audit(reports: dict[str, list[str]], claims: tuple[str, ...] = ()) -> Audit:
    """Audit reports on `TEXTS`, one after the other."""
    runs: dict[str, list[Prediction]] = {name: [] for name in CONDITIONS}
    for name, texts in reports.items():
        runs[name] = [prediction(i, TEXTS[i % len(TEXTS)], text) for i, text in enumerate(texts)]
    runs["contradicting_prompt"] = [
        replace(row, columns={"claim": claim})
        for row, claim in zip(runs["contradicting_prompt"], claims, strict=False)
    ]
    return audit_reports(runs, METRICS, seed=0)


def rows(texts: list[str], studies: list[str] | None = None) -> list[dict[str, Any]]:
    return [
        {
            "image_id": f"i{number}",
            "study_id": studies[number] if studies else f"s{number}",
            "reference": text,
            "generated": f"report {number}",
            "tokens": number,
            "stop_reason": "end_token",
            "mean_log_probability": -1.0,
        }
        for number, text in enumerate(texts)
    ]


@pytest.mark.parametrize("label", CLAIMS)
def test_the_labeller_reads_each_claim_as_its_class(label: str) -> None:
    assert positive_findings(f"This radiograph shows {CLAIMS[label]}.") == {label}


def test_a_claim_is_absent_in_the_reference() -> None:
    reference = (
        "There is a left pleural effusion. No pneumothorax. Possible pulmonary edema. Heart is enlarged."
    )
    claims = {claim_against(f"image {number}", reference) for number in range(40)}
    assert {*map(positive_findings, claims)} == {frozenset({"Consolidation"}), frozenset({"Pneumothorax"})}
    assert claim_against("image 1", reference) == claim_against("image 1", reference)
    everything = "Cardiomegaly, consolidation, edema, pneumothorax and a pleural effusion."
    assert CLAIMS.keys() <= label_report(everything).keys()
    assert claim_against("image 1", everything) == ""


def test_a_claim_stands_inside_the_template() -> None:
    prompt = "###Patient: <Img><ImageHere></Img> What is seen? ###Doctor: "
    told = with_claim(prompt, "###Patient: {} ###Doctor: ", "This radiograph shows X.")
    assert told == "###Patient: <Img><ImageHere></Img> What is seen? This radiograph shows X. ###Doctor: "
    assert with_claim("<ImageHere> Describe.", "", "It shows X.") == "<ImageHere> Describe. It shows X."
    assert with_claim(prompt, "###Patient: {} ###Doctor: ", "") == prompt


def test_reports_are_exchanged_between_studies() -> None:
    texts = [TEXTS[0], TEXTS[0], TEXTS[1], TEXTS[1], TEXTS[2], ""]
    made = all_conditions({"images": rows(texts, [*"aabbcd"])}, synthetic=False, seed=0)
    assert [row["image_id"] for row in made["images"]] == ["i0", "i1", "i2", "i3", "i4"]  # i5: no reference
    study = dict(zip(["i0", "i1", "i2", "i3", "i4"], "aabbc", strict=True))
    assert {row["image_id"] for row in made["shuffled"]} == set(study)
    for row in made["shuffled"]:
        assert study[row["image_shown"]] != study[row["image_id"]]
        assert row["generated"] == f"report {row['image_shown'][1:]}"
        assert row["tokens"] == int(row["image_shown"][1:])
    assert made["same_labels"] == []  # each finding is that of one study alone
    of_images = all_conditions({"images": rows(texts)}, synthetic=False, seed=0)
    shown = {row["image_id"]: row["image_shown"] for row in of_images["same_labels"]}
    assert shown == {"i0": "i1", "i1": "i0", "i2": "i3", "i3": "i2"}


def test_a_partner_is_another_patient_where_they_are_known() -> None:
    images = [row | {"subject_id": "p" if n < 2 else f"q{n}"} for n, row in enumerate(rows([TEXTS[0]] * 4))]
    made = all_conditions({"images": images}, synthetic=False, seed=0)
    for row in made["same_labels"]:
        assert not {row["image_id"], row["image_shown"]} <= {"i0", "i1"}
    assert len(made["same_labels"]) == 4
    unknown = [row | {"subject_id": ""} for row in images]
    assert len(all_conditions({"images": unknown}, synthetic=False, seed=0)["shuffled"]) == 4
    images = [row | {"subject_id": "p"} for row in images]
    assert all_conditions({"images": images}, synthetic=False, seed=0)["shuffled"] == []


def test_phantoms_need_the_same_side_too() -> None:
    texts = ["A left pleural effusion is seen.", "A right pleural effusion is seen."]
    assert len(all_conditions({"images": rows(texts)}, synthetic=False, seed=0)["same_labels"]) == 2
    assert all_conditions({"images": rows(texts)}, synthetic=True, seed=0)["same_labels"] == []


def test_findings_are_not_read_in_another_language() -> None:
    texts = ["Kein Erguss und keine Infiltrate, das Herz ist nicht vergrößert."] * 4
    generated = {name: rows(texts) for name in ("images", "blank", "contradicting_prompt")}
    made = all_conditions(generated, synthetic=False, seed=0)
    assert len(made["shuffled"]) == 4
    assert made["same_labels"] == made["contradicting_prompt"] == []


def test_reports_that_depend_on_the_images() -> None:
    right = list(TEXTS) * 5
    wrong = right[1:] + right[:1]
    blank = ["No acute disease."] * 20
    result = audit({"images": right, "blank": blank, "shuffled": wrong, "same_labels": right[:8]})
    assert result.finding == "depends"
    assert "is 1.000 with the images themselves, 0.000 (0 % kept) with the image of another" in result.verdict
    assert "0.250 (25 % kept) on blank images" in result.verdict
    assert result.conditions["blank"].scores["rule_f1_micro_14"].kept == pytest.approx(0.25)
    assert result.conditions["blank"].scores["rouge_l"].difference.high < 0
    assert "5 of 20 reports are the same word for word" in result.conditions["blank"].sentence
    assert result.conditions["same_labels"].left_out == 12
    assert result.conditions["same_labels"].sentence.endswith("12 images left out.")
    assert [*result.not_tried] == ["contradicting_prompt"]


def test_reports_that_are_as_good_without_the_images() -> None:
    texts = ["No acute disease."] * 20
    result = audit({"images": texts, "blank": texts, "shuffled": texts})
    assert (result.finding, result.conditions["shuffled"].scores["rule_f1_micro_14"].kept) == ("no sign", 1)
    assert result.verdict.startswith("No sign that the model looks at the image: rule-F1 micro-14 is 0.250")


def test_reports_that_keep_most_of_their_score() -> None:
    right = list(TEXTS) * 5
    mostly = [TEXTS[0] if i % 3 == 0 else text for i, text in enumerate(right)]
    result = audit({"images": right, "blank": mostly, "shuffled": mostly})
    assert result.finding == "most stays"


def test_too_few_studies_tell_nothing() -> None:
    right = list(TEXTS) * 4
    result = audit({"images": right, "blank": right[1:] + right[:1]})
    assert (result.finding, result.verdict) == (
        "not known",
        "No verdict on 16 patients or studies; 20 are the least.",
    )
    assert set(result.not_tried) == {"shuffled", "same_labels", "contradicting_prompt"}


def test_repeated_claims_are_counted() -> None:
    right = list(TEXTS) * 5
    claim = "This radiograph shows pulmonary edema."
    obedient = [text + (" There is pulmonary edema." if i % 2 else "") for i, text in enumerate(right)]
    reports = {"images": right, "blank": right, "shuffled": right, "contradicting_prompt": obedient}
    result = audit(reports, claims=(claim,) * 20)
    repeated = result.conditions["contradicting_prompt"].repeated
    assert repeated is not None
    assert (repeated.images.value, repeated.here.value) == (0, 0.5)
    assert 0 < repeated.here.low < 0.5 < repeated.here.high < 1
    assert "50 % of the reports repeat a false claim" in result.verdict
    assert REPEATED(["This radiograph shows a large left pneumothorax."], ["Pneumothorax is seen."]) == 1


def test_a_metric_of_which_more_is_better_is_needed() -> None:
    runs = {name: [prediction(i, t, t) for i, t in enumerate(TEXTS)] for name in CONDITIONS}
    runs["contradicting_prompt"] = []
    with pytest.raises(DataError, match=r"name another one in run\.metrics"):
        audit_reports(runs, choose_metrics(["words_generated"]), seed=0)


# The whole command


def tiny(path: Path, output: Path, **model: Any) -> Path:
    """Write an evaluation of the untrained tiny model on a few phantoms."""
    prompts = {"prompt": "", "prompt_path": str(ROOT / "prompts" / "alignment.txt")}
    config = {
        "model": {"arch": "mini_gpt4", "model_type": "tiny", "ckpt": None, **prompts, **model},
        "datasets": {
            "phantom": {"splits": {"test": {"seed": 3, "count": 6}, "val": {"seed": 4, "count": 2}}}
        },
        "run": {
            "task": "report_generation",
            "output_dir": str(output),
            "device": "cpu",
            "test_splits": ["test", "val"],
            "batch_size_eval": 3,
            "generate": {"max_new_tokens": 12},
            "page": {"enabled": True, "runs": ["not there"]},
        },
    }
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XRAYGPT_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def start(cfg: Path, *options: str) -> dict[str, Any]:
    return launch(Namespace(cfg_path=str(cfg), options=list(options)), evaluate_only=True, audit=True)


def test_the_tiny_model_from_image_to_page(tmp_path: Path) -> None:
    found = start(tiny(tmp_path / "eval.yaml", tmp_path / "out"))
    folder = tmp_path / "out" / "audit"
    content = json.loads((folder / "audit.json").read_text())
    assert [*found] == ["test"]
    assert found["test"]["finding"] == content["finding"]
    assert content["scores"]["reports"] == 6
    assert content["protocol"]["generation"]["split"] == "test"
    made = {
        name: [
            json.loads(line) for line in (folder / f"predictions_test_{name}.jsonl").read_text().splitlines()
        ]
        for name in ("images", "blank", "shuffled", "contradicting_prompt")
    }
    assert (
        len({row["generated"] for row in made["blank"]}) == 1 < len({r["generated"] for r in made["images"]})
    )
    by_image = {row["image_id"]: row for row in made["images"]}
    for row in made["shuffled"]:
        assert row["generated"] == by_image[row["image_shown"]]["generated"]
        assert row["image_shown"] != row["image_id"]
    for row in made["contradicting_prompt"]:
        assert row["prompt"].endswith(f"{row['claim']} ###Doctor: ")
        assert not positive_findings(row["claim"]) & positive_findings(row["reference"])
    assert content["conditions"]["contradicting_prompt"]["repeated"]["here"]["value"] is not None
    html = (folder / "audit.html").read_text()
    assert html.count("data:image/jpeg;base64,") == 6
    assert "This radiograph shows" in html
    assert not (folder / ".generating").exists()
    assert not (tmp_path / "out" / "run.json").exists()


def test_a_protocol_names_the_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[list[str], str]] = []

    def choose(names: list[str], *, protocol: str) -> Any:
        asked.append((names, protocol))
        return METRICS  # all of a protocol would start METEOR

    monkeypatch.setattr("xraygpt.tasks.audit.choose_metrics", choose)
    start(tiny(tmp_path / "eval.yaml", tmp_path / "out"), "run.protocol=r2gen")
    assert asked == [([], "r2gen")]
    content = json.loads((tmp_path / "out" / "audit" / "audit.json").read_text())
    assert content["protocol"]["protocol"] == "r2gen"


def test_a_stopped_audit_goes_on_under_the_condition_it_was_stopped_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_dataset(tmp_path / "data", train=3, val=6)
    settings = {"task": "report_generation", "test_splits": ["val"]}
    cfg = write_config(tmp_path / "toy.yaml", data, tmp_path / "out", **settings)
    generate = ToyModel.generate_detailed

    def stopping(self: ToyModel, samples: Any, generation: Any) -> Any:
        if self.batches == 4:
            raise KeyboardInterrupt
        return generate(self, samples, generation)

    with monkeypatch.context() as patch:
        patch.setattr(ToyModel, "generate_detailed", stopping)
        with pytest.raises(KeyboardInterrupt):
            start(cfg)
    start(cfg)
    log = (tmp_path / "out" / "audit" / "log.txt").read_text()
    assert "3 of 3 batches are in" in log
    assert "1 of 3 batches are in" in log
    content = json.loads((tmp_path / "out" / "audit" / "audit.json").read_text())
    assert "there is no prompt" in content["not_tried"]["contradicting_prompt"]
    assert [*content["conditions"]] == ["blank", "shuffled", "same_labels"]  # none names a finding


@pytest.mark.parametrize(
    ("run", "said"),
    [
        ({"task": "image_text_pretrain", "test_splits": ["val"]}, r"run\.task: an audit needs report_gen"),
        ({"task": "report_generation"}, r"run\.test_splits is empty"),
    ],
)
def test_what_cannot_be_audited_is_told_before_anything_is_made(
    tmp_path: Path, run: dict[str, Any], said: str
) -> None:
    cfg = write_config(tmp_path / "toy.yaml", tmp_path / "nowhere", tmp_path / "out", **run)
    with pytest.raises(ConfigError, match=said):
        start(cfg)
    assert not (tmp_path / "out").exists()


def test_an_audit_needs_reference_reports(tmp_path: Path) -> None:
    images = write_dataset(tmp_path / "data", train=2, val=0) / "image"
    settings = {"task": "report_generation", "test_splits": ["test"]}
    cfg = write_config(tmp_path / "toy.yaml", tmp_path, tmp_path / "out", **settings)
    content = yaml.safe_load(cfg.read_text())
    section = content["datasets"].pop("openi")
    content["datasets"]["caption"] = {**section, "build_info": {"images": str(images)}}
    cfg.write_text(yaml.safe_dump(content))
    with pytest.raises(DataError, match="caption has none: leave it out of datasets"):
        start(cfg)


def test_an_audit_needs_images(tmp_path: Path) -> None:
    cfg = tiny(tmp_path / "eval.yaml", tmp_path / "out")
    with pytest.raises(DataError, match="an audit needs images, and the data set 'phantom' gives none"):
        start(cfg, "datasets.phantom.data_type=text")


def test_the_latest_checkpoint_is_that_of_the_training(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data")
    settings = {"task": "report_generation", "test_splits": ["val"], "resume_ckpt_path": "auto"}
    cfg = write_config(tmp_path / "toy.yaml", data, tmp_path / "out", **settings)
    with pytest.raises(MissingFileError, match=r"out/checkpoint_best\.pth"):
        start(cfg)
    launch(Namespace(cfg_path=str(cfg), options=["run.resume_ckpt_path=null", "run.test_splits=[]"]))
    start(cfg)
    protocol = json.loads((tmp_path / "out" / "audit" / "audit.json").read_text())["protocol"]
    assert protocol["generation"]["checkpoint"] == str(tmp_path / "out" / "checkpoint_1.pth")
