"""The measurement of a GPU, gone through on the CPU."""

from pathlib import Path

import pytest
import torch

from benchmarks import batches
from benchmarks.gpu import DRY, main, page
from xraygpt.common.precision import Precision


def test_every_section_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--dry-run", "--out", str(tmp_path)]) == 0
    (file,) = tmp_path.glob("*.md")
    text = file.read_text()
    assert f"written: {file}" in capsys.readouterr().out
    left_out = [line for line in text.splitlines() if line.startswith("Left out")]
    assert left_out == ["Left out: run.kernels: liger is for GPUs, and run.device is cpu; set it to null"]
    titles = ["Training, stage 1", "Generation", "Largest batch of generation", "Training, three ways"]
    titles += ["Real pixels", "Reports of unequal length", "Kernels of liger"]
    assert [line.removeprefix("## ") for line in text.splitlines() if line.startswith("## ")] == titles
    assert text.count("| ours, features cached |") == len(DRY.batches) + 2  # compiled, and beside the others
    assert text.count("the doctor expects") == len(DRY.batches)
    assert "with run.compile" in text
    assert "2 images fit for 3 tokens each" in text
    assert all(f"| {name} |" in text for name in batches.WAYS)


def test_what_there_is_no_time_for_is_named() -> None:
    text = page(DRY, torch.device("cpu"), Precision(torch.float32, "cpu"), seconds=-1.0)
    assert text.count("Left out: the time was up.") == text.count("\n## ")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("error: no GPU here")
    assert not list(tmp_path.iterdir())
