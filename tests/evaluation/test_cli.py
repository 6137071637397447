from __future__ import annotations

import csv
import json
import math
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

import evaluate
from tests.evaluation.runs import run
from xraygpt.evaluation.metrics import meteor
from xraygpt.evaluation.predictions import Prediction

FAST = ["--metrics", "rouge_l", "rule_f1_micro_14", "--rounds", "20"]


def write(path: Path, rows: Sequence[Prediction]) -> Path:
    path.write_text(
        "".join(
            json.dumps(
                {"image_id": row.image_id, "reference": row.reference, "generated": row.generated}
                | dict(row.columns)
            )
            + "\n"
            for row in rows
        )
    )
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(tmp_path / "p.jsonl", run(12, 3, columns=[{"view": "PA"}, {"view": "AP"}]))


def test_score(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "pictures").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "pictures/image 001.png")
    command = ["score", str(file), "--out", str(tmp_path / "a/out"), "--subgroup", "view", "--seed", "3"]
    assert evaluate.main([*command, "--images", str(tmp_path / "pictures"), *FAST]) == 0
    printed = capsys.readouterr().out
    assert "12 reports of 12 studies" in printed
    assert "1 of 12 images found; no file is called image 000, with" in printed
    assert "ROUGE-L" in printed
    content = json.loads((tmp_path / "a/out/scores.json").read_text())
    assert list(content["scores"]) == ["rouge_l", "rule_f1_micro_14"]
    assert [group["value"] for group in content["subgroups"]["view"]] == ["AP", "PA"]
    protocol = content["protocol"]
    assert (protocol["predictions"], protocol["seed"], protocol["rounds"]) == ("p.jsonl", 3, 20)
    assert protocol["command"].startswith("python evaluate.py score ")
    assert "12 images" in (tmp_path / "a/out/protocol.txt").read_text()
    page = (tmp_path / "a/out/report.html").read_text()
    assert "data:image" in page


def test_a_protocol_is_named_in_every_result(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meteor, "JAR", "absent.jar")  # Java would take most of the time
    chosen = ["--protocol", "r2gen", "--rounds", "5"]
    assert evaluate.main(["score", str(file), "--out", str(tmp_path), "--subgroup", "view", *chosen]) == 0
    content = json.loads((tmp_path / "scores.json").read_text())
    assert {"r2gen_bleu_4", "r2gen_rouge_l", "r2gen_cider_d", "rule_f1_micro_14"} <= {*content["scores"]}
    assert not {"bleu_4", "rouge_l", "cider_d", "sacrebleu"} & {*content["scores"]}
    assert content["scores"]["r2gen_bleu_4"]["low"] <= content["scores"]["r2gen_bleu_4"]["value"]
    assert content["subgroups"]["view"][0]["scores"]["r2gen_rouge_l"]["value"] > 0
    assert content["not_computed"].keys() == {"r2gen_meteor"}
    assert content["protocol"]["protocol"] == "r2gen"
    assert 'protocol of the scores is "r2gen"' in (tmp_path / "protocol.txt").read_text()
    assert evaluate.main(["compare", str(file), str(file), "--out", str(tmp_path), *chosen]) == 0
    content = json.loads((tmp_path / "comparison.json").read_text())
    assert content["differences"]["r2gen_bleu_4"][0]["difference"]["value"] == 0
    assert content["protocol"]["protocol"] == "r2gen"


def test_the_same_predictions_give_the_same_files(file: Path, tmp_path: Path) -> None:
    command = ["score", str(file), "--out", str(tmp_path / "out"), *FAST]
    contents = []
    for _ in range(2):
        assert evaluate.main(command) == 0
        contents.append({path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()})
    assert contents[0] == contents[1]
    tables = {"scores.csv", "scores.tex", "predictions.csv"}
    assert contents[0].keys() == {"scores.json", "protocol.txt", "report.html", *tables}


def test_neural_scores_are_added_or_refused(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["score", str(file), "--out", str(tmp_path / "out"), *FAST, "--radeval", "green"]
    monkeypatch.setitem(sys.modules, "radeval", None)  # as if it were not installed
    assert evaluate.main(command) == 2
    assert "--radeval green needs a module that is not installed" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    values: list[float] = [0.25] * 11 + [math.nan]
    fake = SimpleNamespace(RadEval=lambda *_, **__: lambda refs, hyps: {"green": values})
    for name in ("radeval", "RadEval"):
        monkeypatch.setitem(sys.modules, name, fake)
    assert evaluate.main(command) == 0
    assert "RadEval green" in capsys.readouterr().out
    content = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert content["scores"]["radeval_green"] == {"value": 0.25, "low": 0.25, "high": 0.25}
    assert content["controls"]["blind"]["radeval_green"] is None
    assert (
        content["protocol"]["metrics"]["radeval_green"] == "RadEval's green (StanfordAIMI/GREEN-radllama2-7b)"
    )
    assert "RadEval's green (StanfordAIMI/" in (tmp_path / "out" / "protocol.txt").read_text()
    assert evaluate.main(["compare", str(file), str(file), *FAST, "--radeval", "green"]) == 0
    assert "RadEval green" in capsys.readouterr().out
    values.pop()  # not one for each report
    assert evaluate.main(command) == 0
    assert "radeval_green: RadEval's green did not finish (" in capsys.readouterr().out


def test_rows_without_a_reference(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = run(2, 3)
    write(file, [replace(rows[0], reference=" "), rows[1]])
    command = ["score", str(file), "--out", str(tmp_path / "out"), *FAST]
    assert evaluate.main(command) == 2
    told = capsys.readouterr().err
    assert "1 of 2 rows have no reference; --skip-without-reference leaves them out" in told
    assert evaluate.main([*command, "--skip-without-reference"]) == 0
    printed = capsys.readouterr().out
    assert "1 row without a reference left out" in printed
    assert "1 report of 1 study, 0 without text" in printed
    write(file, [replace(row, reference="") for row in rows])
    assert evaluate.main([*command, "--skip-without-reference"]) == 2
    assert "there are no references" in capsys.readouterr().err


def test_a_run_of_this_project_says_how_its_reports_were_made(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    write(folder / "predictions_test.jsonl", run(4, 2))
    settings = {
        "split": "test",
        "data": "0" * 64,
        "prompt": "Describe it.",
        "generation": {"num_beams": 3},
        "batch_size": 8,
        "seed": 1,
        "precision": "fp32",
        "device": "cpu",
        "weights": "f" * 64,
        "torch": "2.12.0",
        "transformers": "5.1",
        "checkpoint": "best.pth",
        "config": {"model": {"arch": "mini_gpt4", "model_type": "tiny"}, "datasets": {}},
    }
    beside = folder / "generation_test.json"
    beside.write_text(json.dumps({"command": "python evaluate.py", "datasets": [{"settings": settings}]}))
    command = ["score", str(folder), "--out", str(tmp_path / "out"), *FAST]
    assert evaluate.main(command) == 0
    facts = json.loads((tmp_path / "out/scores.json").read_text())["protocol"]["generation"]
    assert (facts["model"], facts["split"], facts["prompt"]) == ("mini_gpt4 tiny", "test", "Describe it.")
    assert (facts["decoding"]["num_beams"], facts["checkpoint"]) == (3, "best.pth")
    assert facts["generation_command"] == "python evaluate.py"
    assert facts["generation_versions"] == {"torch": "2.12.0", "transformers": "5.1"}
    beside.write_text('{"datasets": []}')
    assert evaluate.main(command) == 2


def test_a_comparison_that_cannot_be_written_is_not_begun(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate.main(["compare", str(file), str(file), "--out", str(file), *FAST]) == 2
    told = capsys.readouterr()
    assert "cannot be made" in told.err
    assert "rouge" not in told.out.lower()


def test_phantoms_have_metrics_of_their_own(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    names = ["--metrics", "phantom_f1", "--rounds", "5"]
    assert evaluate.main(["score", str(file), "--out", str(out), "--synthetic", *names]) == 0
    assert json.loads((out / "scores.json").read_text())["scores"]["phantom_f1"]["value"] < 1


def test_compare(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "better"
    folder.mkdir()
    write(folder / "predictions.jsonl", run(12, 100))
    command = ["compare", str(file), str(folder), *FAST]
    assert evaluate.main(command) == 0
    printed = capsys.readouterr().out
    assert "A: p\nB: better\n" in printed
    assert "written to" not in printed
    assert evaluate.main([*command, "--out", str(tmp_path / "out")]) == 0
    content = json.loads((tmp_path / "out/comparison.json").read_text())
    first, second = (score["value"] for score in content["scores"]["rouge_l"])
    assert content["differences"]["rouge_l"][0]["difference"]["value"] == pytest.approx(
        second - first, abs=2e-6
    )
    files = content["protocol"]["runs"]
    assert files["better"]["predictions"] == "predictions.jsonl"
    assert files["p"]["predictions_sha256"] != files["better"]["predictions_sha256"]
    table = (tmp_path / "out/comparison.csv").read_text().splitlines()
    assert table[0].startswith(
        "run,metric,first,value,difference,difference_low,difference_high,p,p_holm,det"
    )
    assert [line.split(",")[:2] for line in table[1:]] == [
        ["better", "rouge_l"],
        ["better", "rule_f1_micro_14"],
    ]
    assert (tmp_path / "out/comparison.tex").read_text().startswith(r"\begin{tabular}{l")
    assert "data:image" not in (tmp_path / "out/comparison.html").read_text()
    (tmp_path / "better/metrics.jsonl").write_text('{"event": "train", "step": 1, "loss": 2.0}\n')
    name = content["most_different"]["rule_f1_micro_14"][0]["image_id"]
    Image.new("L", (8, 8)).save(tmp_path / f"{name}.png")
    shown = ["--images", str(tmp_path), "--curves", str(folder)]
    assert evaluate.main([*command, "--out", str(tmp_path / "out"), *shown]) == 0
    page = (tmp_path / "out/comparison.html").read_text()
    assert f'alt="Radiograph {name}"' in page
    assert 'aria-label="Loss curves of better"' in page


def test_compare_takes_two_to_six_runs(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write(tmp_path / "q.jsonl", run(12, 2))
    assert evaluate.main(["compare", str(file), *[str(other)] * 5, *FAST]) == 0
    printed = capsys.readouterr().out
    assert "F: q (6)" in printed
    assert printed.startswith(f"note: {other} is named more than once\n")
    assert evaluate.main(["compare", str(file), *[str(other)] * 6, *FAST]) == 2
    assert "compare takes at most 6 runs, not 7" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["score", "{folder}/absent.csv", "--out", "{folder}/out"], "absent.csv: no such file"),
        (["score", "{file}", "--out", "{file}"], "cannot be made"),
        (["score", "{file}", "--out", "{folder}/out", "--subgroup", "sex"], "'sex'"),
        (
            ["score", "{file}", "--out", "{folder}/out", "--subgroup", "study_id"],
            "study_id: that column is taken",
        ),
        (
            ["score", "{file}", "--out", "{folder}/out", "--subgroup", "generated"],
            "generated: that column is taken",
        ),
        (
            ["score", "{file}", "--out", "{folder}/out", "--subgroup", "subject_id"],
            "subject_id: that column is taken, it names the patient",
        ),
        (
            ["compare", "{file}", "{file}", "--images", "{folder}/pictures"],
            "0 of 12 images found; no file",
        ),
        (["score", "{file}", "--out", "{folder}/out", "--metrics", "rouge"], "no metric is called 'rouge'"),
        (["score", "{file}", "--out", "{folder}/out", "--images", "{folder}/absent"], "no such folder"),
        (["score", "{file}", "--out", "{folder}/out", "--reference-column", "truth"], "'truth'"),
        (["compare", "{file}", "{other}"], "10 images of p are not in other: image 002"),
    ],
)
def test_errors_are_told(
    command: list[str], message: str, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write(tmp_path / "other.jsonl", run(2, 1))
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures/x.png").touch()
    assert evaluate.main([part.format(folder=tmp_path, file=file, other=other) for part in command]) == 2
    told = capsys.readouterr()
    assert told.err.startswith("error: ")
    assert message in told.err
    assert not list(tmp_path.glob("out/*"))


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["--options", "a=b"],
        ["--cfg-path", "a.yaml", "score", "p.csv", "--out", "b"],
        ["--options", "a=b", "--", "compare", "a", "b"],
        ["score", "p.csv"],
        ["compare", "a"],
        ["compare", "a", "b", "--rounds", "0"],
        ["compare", "a", "b", "--seed", "-1"],
    ],
)
def test_command_lines_that_make_no_sense(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        evaluate.main(command)
    assert stopped.value.code == 2
    assert "usage: " in capsys.readouterr().err


def test_losses_of_other_runs_are_laid_over_each_other_on_the_page(tmp_path: Path) -> None:
    write(tmp_path / "p.jsonl", run(4, 2))
    for name, loss in (("plain", 2.0), ("lora & more", 1.0)):
        (tmp_path / name).mkdir()
        lines = [{"event": "train", "step": step, "loss": loss / step} for step in (1, 2)]
        lines.append({"event": "valid", "step": 2, "loss": loss})
        (tmp_path / name / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    curves = ["--curves", str(tmp_path / "plain"), str(tmp_path / "lora & more" / "metrics.jsonl")]
    command = ["score", str(tmp_path / "p.jsonl"), "--out", str(tmp_path / "out"), *FAST]
    assert evaluate.main([*command, *curves]) == 0
    training = (tmp_path / "out/report.html").read_text(encoding="utf-8").split('id="training"')[1]
    assert 'aria-label="Loss curves of plain, lora &amp; more"' in training
    assert "</strong> last validation loss 2</li>" in training
    assert evaluate.main([*command, "--curves", str(tmp_path / "absent")]) == 2


def test_the_study_column_is_named_as_in_prepare(tmp_path: Path) -> None:
    rows = [{"image_id": f"i{n}", "exam": f"s{n // 2}", "generated": "x", "reference": "x"} for n in range(4)]
    (tmp_path / "p.json").write_text(json.dumps(rows))
    command = ["score", str(tmp_path / "p.json"), "--out", str(tmp_path / "out"), *FAST]
    assert evaluate.main([*command, "--study-column", "exam"]) == 0
    assert json.loads((tmp_path / "out/scores.json").read_text())["studies"] == 2


def test_scoring_needs_no_pytorch(tmp_path: Path) -> None:
    write(tmp_path / "p.jsonl", run(4, 2))
    arguments = ["score", str(tmp_path / "p.jsonl"), "--out", str(tmp_path / "out"), *FAST]
    code = f"import sys, evaluate; sys.exit(evaluate.main({arguments!r}) or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_patients_are_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"image_id": f"i{n}", "generated": "x", "reference": "x", "subject_id": n // 2} for n in range(4)]
    file, out = tmp_path / "p.json", tmp_path / "out"
    command = ["score", str(file), "--out", str(out), *FAST]

    def unit() -> str:
        content = json.loads((out / "scores.json").read_text())
        assert content["protocol"]["unit"] == content["unit"]
        return str(content["unit"])

    file.write_text(json.dumps(rows))
    assert evaluate.main(command) == 0
    assert unit() == "patient"
    printed = capsys.readouterr().out
    assert "4 reports of 4 studies of 2 patients, 0 without text" in printed
    assert "note: intervals draw patients with replacement (only 2 patients: " in printed
    assert "4 studies of 2 patients of a split" in (out / "protocol.txt").read_text()
    assert "4 studies of 2 patients," in (out / "report.html").read_text()
    assert "draw patients with replacement" in (out / "protocol.txt").read_text()
    rows[1]["subject_id"] = ""
    file.write_text(json.dumps(rows))
    assert evaluate.main(command) == 0
    assert unit() == "study"
    assert "(the patients of 1 report are not known; only 4 studies: " in capsys.readouterr().out
    assert evaluate.main([*command, "--patient-column", "subject_id"]) == 2
    assert "row [1]: no patient ('subject_id' is empty)" in capsys.readouterr().err


def test_other_seeds(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seeds = [str(write(tmp_path / f"seed {every}.jsonl", run(12, every))) for every in (2, 100)]
    command = ["score", str(file), "--out", str(tmp_path / "out"), *FAST, "--other-seeds"]
    assert evaluate.main([*command, *seeds]) == 0
    found = json.loads((tmp_path / "out/scores.json").read_text())["seeds"]
    assert found["runs"] == 3
    assert found["scores"]["rouge_l"]["lowest"] < found["scores"]["rouge_l"]["mean"] < 1
    assert "3 runs with different seeds" in capsys.readouterr().out
    spread = found["scores"]["rule_f1_micro_14"]
    ends = f"{spread['lowest']:.3f} to {spread['highest']:.3f}"
    page = (tmp_path / "out/report.html").read_text()
    assert f"Over 3 runs with different seeds of sampling, rule-F1 micro-14 is {spread['mean']:.3f}" in page
    assert f"(standard deviation {spread['standard_deviation']:.3f}, {ends})" in page
    assert evaluate.main([*command, str(write(tmp_path / "less.jsonl", run(11, 3)))]) == 2
    assert "1 image of the first is not in the second" in capsys.readouterr().err


def test_no_report_has_text(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(file, [replace(row, generated=" ") for row in run(3, 2)])
    assert evaluate.main(["score", str(file), "--out", str(tmp_path), *FAST]) == 0
    assert "note: no generated report has any text" in capsys.readouterr().out


def test_reports_as_csv(file: Path, tmp_path: Path) -> None:
    rows = [replace(row, generated=f'=SUM("A1"),\n{row.generated}') for row in run(3, 2)]
    write(file, rows)
    out = tmp_path / "out"
    assert evaluate.main(["score", str(file), "--out", str(out), *FAST]) == 0
    with (out / "predictions.csv").open(encoding="utf-8", newline="") as table:
        found = list(csv.DictReader(table))
    assert [row["generated"] for row in found] == [row.generated for row in rows]
    assert (found[0]["patient_id"], found[0]["rule_f1_micro_14"]) == ("", "0.0")
    # What was written can be scored again, but not over itself.
    assert (
        evaluate.main(["score", str(out / "predictions.csv"), "--out", str(tmp_path / "again"), *FAST]) == 0
    )
    assert evaluate.main(["score", str(out / "predictions.csv"), "--out", str(out), *FAST]) == 2


def test_scores_as_a_table(file: Path, tmp_path: Path) -> None:
    assert evaluate.main(["score", str(file), "--out", str(tmp_path), *FAST]) == 0
    head, first, _ = (tmp_path / "scores.csv").read_text().splitlines()
    assert head == "metric,value,low,high,shuffled,blind,blind_bound"
    scores = json.loads((tmp_path / "scores.json").read_text())["scores"]
    assert first.split(",")[:4] == ["rouge_l", *map(str, scores["rouge_l"].values())]
    lines = (tmp_path / "scores.tex").read_text().splitlines()
    assert lines[2] == r"metric & score & 95 \% interval & shuffled & blind & blind bound \\"
    assert lines[4].startswith("ROUGE-L & 0.")
