"""The benchmarks of training and generation, at the smallest size: what they compute, not how fast."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks import generation, trained_parts, training_step
from benchmarks.measuring import Measured, Results, counted_flop
from benchmarks.report_models import SIZES, Data, build_ours, build_theirs
from xraygpt.common.precision import Precision

CPU = torch.device("cpu")
FLOAT32 = Precision(torch.float32, "cpu")
NAMES = ["transformers", "the reference's way", "ours", "ours, features cached"]


def test_training_steps_are_compared_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "steps.json"
    arguments = ["--size", "tiny", "--batch", "4", "--rounds", "2", "--device", "cpu", "--target-tokens", "5"]
    training_step.main([*arguments, "--json", str(file)])
    (found,) = json.loads(file.read_text())
    theirs, reference, ours, cached = found["ways"]
    assert [way["name"] for way in found["ways"]] == NAMES
    assert (theirs["images"], reference["images"], ours["images"]) == (4, 3, 4)
    # Theirs computes logits for the positions of the image too; the rest is the same network.
    assert 0.8 * theirs["flop"] < ours["flop"] <= theirs["flop"]
    assert cached["flop"] < ours["flop"]
    assert all(len(way["rounds"]) == 2 for way in found["ways"])
    table = capsys.readouterr().out
    assert all(f"| {name} |" in table for name in NAMES)
    assert "5 target tokens an image" in table


def test_what_is_trained_is_compared(capsys: pytest.CaptureFixture[str]) -> None:
    trained_parts.main(["--size", "tiny", "--batch", "2", "--rounds", "1", "--device", "cpu"])
    table = capsys.readouterr().out
    assert "| projection alone: 0.02 M trained" in table
    assert "| all of the language model: 0.95 M trained" in table
    assert all(f"| {name}: " in table for name in trained_parts.WAYS if "4 bits" not in name)


def test_generated_tokens_are_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--size", "tiny", "--batch", "2", "--rounds", "1", "--device", "cpu", "--new-tokens", "4"]
    generation.main([*arguments, "--alone", "1"])
    table = capsys.readouterr().out
    for name, images in zip([*NAMES[:3], "ours, fixed cache"], (2, 1, 2, 2), strict=True):
        assert f"| {name} | {images} |" in table


def test_another_text_is_refused() -> None:
    ours = build_ours(SIZES["tiny"], CPU, FLOAT32)
    theirs = build_theirs(ours, "sdpa")
    data = Data.draw(SIZES["tiny"], 2, CPU)
    inputs = data.inputs(ours, labels=False)
    own = generation.write(ours, data, 3)
    generation.check_same("theirs", theirs, inputs, own, torch.float32)
    with pytest.raises(AssertionError, match="would not write what we wrote"):
        generation.check_same("theirs", theirs, inputs, own.roll(1, dims=0) + 1, torch.float32)


def test_another_network_is_refused() -> None:
    size = SIZES["tiny"]
    ours = build_ours(size, CPU, FLOAT32)
    theirs = build_theirs(ours, "eager")
    data = Data.draw(size, 2, CPU, 5)
    with torch.no_grad():
        own = ours(data.samples())["loss"]
        training_step.check_close("theirs", theirs(**data.inputs(ours, labels=True)).loss, own, torch.float32)
        theirs.language_projection.bias += 1.0
        loss = theirs(**data.inputs(ours, labels=True)).loss
    with pytest.raises(AssertionError, match="not the same network"):
        training_step.check_close("theirs", loss, own, torch.float32)


def test_only_the_projection_is_trained_and_not_shared() -> None:
    ours = build_ours(SIZES["tiny"], CPU, FLOAT32)
    theirs = build_theirs(ours, "sdpa")
    assert [name for name, p in theirs.named_parameters() if p.requires_grad] == [
        "language_projection.weight",
        "language_projection.bias",
    ]
    assert theirs.language_projection.weight.data_ptr() != ours.llama_proj.weight.data_ptr()
    shared = theirs.language_model.get_input_embeddings().weight
    assert shared.data_ptr() == ours.llama_model.get_input_embeddings().weight.data_ptr()


def test_ratios_are_of_images_within_a_round() -> None:
    base = Measured("base", 4, 4, [1.0, 2.0, 10.0], 0, None)
    way = Measured("way", 2, 2, [1.0, 0.5, 1.0], 1, None)
    assert way.ratio(base) == 2.0
    assert way.spread == pytest.approx(0.125)
    results = Results("title", [base, way], Measured("matrix product", 1, 1, [1.0], 4, None), "CPU", "fp32")
    assert results.as_dict()["ways"][1]["share_of_ceiling"] == pytest.approx(0.25)
    assert "| – |" in results.table()


def test_operations_are_counted() -> None:
    left, right = torch.ones(2, 3), torch.ones(3, 5)
    assert counted_flop(lambda: left @ right) == 2 * 2 * 3 * 5


def test_small_has_176_million_parameters() -> None:
    with torch.device("meta"):
        model = build_ours(SIZES["small"], torch.device("meta"), FLOAT32)
    assert round(model.show_n_params(return_str=False) / 1e6) == 176
