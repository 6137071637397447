"""The command line: quick help, errors as one line."""

import subprocess
import sys
from pathlib import Path

import pytest

from xraygpt.convert.cli import main

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("command", [[], ["to-hf"], ["from-hf"]])
def test_help_loads_nothing_heavy(command: list[str]) -> None:
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['convert', *{command}, '--help']\n"
        "try:\n"
        "    runpy.run_module('xraygpt.convert', run_name='__main__')\n"
        "except SystemExit as stop:\n"
        "    assert not stop.code, stop.code\n"
        "heavy = {'torch', 'transformers', 'omegaconf'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in {"to-hf": ["OUT_FOLDER", "--cfg-path"], "from-hf": ["OUT_FILE"]}.get(
        "".join(command), ["to-hf"]
    ):
        assert name in result.stdout


def test_errors_are_one_line_and_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["from-hf", str(tmp_path), str(tmp_path / "out.pth")]) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path}: no config.json")
    (tmp_path / "blip2.yaml").write_text("model: {arch: causal_lm, llama_model: nowhere}\n")
    assert main(["to-hf", "--cfg-path", str(tmp_path / "blip2.yaml"), str(tmp_path / "out")]) == 2
    assert "only mini_gpt4" in capsys.readouterr().err


def test_an_impossible_shard_size_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["to-hf", "--cfg-path", "a.yaml", "out", "--max-shard-size", "0GB"])
    assert "no size such as 500MB" in capsys.readouterr().err
