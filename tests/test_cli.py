"""The commands, by whatever name they are called: the same help, quick, and helpful about typing errors."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from xraygpt import __version__
from xraygpt.cli import COMMANDS, main
from xraygpt.common.command_line import command_text, typed_command

ROOT = Path(__file__).parents[1]
SCRIPTS = ("train", "evaluate", "prepare", "demo")
HEAVY = {"torch", "transformers", "gradio", "omegaconf"}


def help_of(*words: str, program: str = "") -> str:
    """Return what a program prints for --help; fail if it loads anything heavy."""
    entry = f"run_path('{program}', " if program else "run_module('xraygpt', "
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['{program or 'xraygpt'}', *{words}, '--help']\n"
        "try:\n"
        f"    runpy.{entry}run_name='__main__')\n"
        "except SystemExit as stop:\n"
        "    assert not stop.code, stop.code\n"
        f"heavy = {HEAVY} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_and_its_command_have_the_same_help(name: str) -> None:
    script = help_of(program=f"{name}.py")
    command = help_of(name)
    usage, _, arguments = script.partition("\n\n")
    assert arguments == command.partition("\n\n")[2]
    assert "".join(usage.split()).startswith(f"usage:{name}.py[-h]")


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in SCRIPTS])
def test_help_of_the_other_commands(name: str) -> None:
    assert help_of(name).startswith(f"usage: python -m xraygpt {name} ")


def test_help_names_every_command_and_is_quick() -> None:
    started = time.perf_counter()
    text = help_of()
    assert time.perf_counter() - started < 5  # a fifth of a second on an idle machine
    for name, command in COMMANDS.items():
        assert name in text
        assert command.help in text


def test_help_lists_the_shipped_files() -> None:
    assert "\n  train_configs/quickstart/alignment.yaml\n" in help_of("train")
    assert "\n  eval_configs/quickstart.yaml\n" in help_of("evaluate")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert not stopped.value.code
    assert capsys.readouterr().out == f"xraygpt {__version__}\n"


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["trian"], "train"),
        (["evalute", "--help"], "evaluate"),
        (["prepare", "opnei"], "openi"),
        (["prepare", "phantom", "--out", "x", "--as", "folderr"], "folder"),
        (["evaluate", "scores"], "score"),
        (["convert", "from_hf"], "from-hf"),
    ],
)
def test_a_mistyped_word(words: list[str], meant: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    assert f"; did you mean '{meant}'?" in capsys.readouterr().err


def test_a_word_like_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["qqqq"])
    error = capsys.readouterr().err
    assert "did you mean" not in error
    assert f"'qqqq'. Known: {', '.join(COMMANDS)}" in error


def test_a_missing_file_names_both_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--cfg-path", "train_configs/quikstart/alignment.yaml"]) == 2
    error = capsys.readouterr().err
    for part in (str(tmp_path), str(ROOT), "did you mean 'train_configs/quickstart/alignment.yaml'?"):
        assert part in error


@pytest.mark.parametrize(
    ("words", "typed"),
    [
        (["/venv/bin/xraygpt", "evaluate", "score", "a b.csv"], "xraygpt evaluate score 'a b.csv'"),
        (["../train.py", "--cfg-path", "c.yaml"], "python ../train.py --cfg-path c.yaml"),
        (["python", "-m", "xraygpt", "train"], "python -m xraygpt train"),
    ],
)
def test_the_command_as_it_was_typed(words: list[str], typed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert typed_command(words) == typed
    monkeypatch.setattr(sys, "argv", words)
    assert typed_command() == typed


@pytest.mark.parametrize("verb", ["train", "evaluate"])
def test_several_configurations_are_run_until_one_fails(verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run: list[tuple[str, bool]] = []

    def run_program(args: Any, evaluate_only: bool, started: float, last: bool, audit: bool) -> int:
        assert evaluate_only == (verb == "evaluate")
        assert args.options == ["run.seed=1"]
        run.append((args.cfg_path, last))
        return 2 if args.cfg_path == "bad.yaml" else 0

    monkeypatch.setattr("xraygpt.runners.launch.run_program", run_program)
    assert main([verb, "--cfg-path", "a.yaml", "b.yaml", "--options", "run.seed=1"]) == 0
    assert run == [("a.yaml", False), ("b.yaml", True)]
    assert main([verb, "--cfg-path", "bad.yaml", "b.yaml", "--options", "run.seed=1"]) == 2
    assert run[2:] == [("bad.yaml", False)]


def test_an_audit_takes_a_configuration_as_an_evaluation_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run: list[tuple[str, list[str], bool, bool]] = []

    def run_program(args: Any, evaluate_only: bool, started: float, last: bool, audit: bool) -> int:
        run.append((args.cfg_path, args.options, evaluate_only, audit))
        return 0

    monkeypatch.setattr("xraygpt.runners.launch.run_program", run_program)
    words = ["audit", "--cfg-path", "a.yaml", "--options", "run.seed=1"]
    assert main(["evaluate", *words]) == 0
    assert run == [("a.yaml", ["run.seed=1"], True, True)]
    with pytest.raises(SystemExit):
        main(["evaluate", "audit"])
    assert "required: --cfg-path" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["/venv/bin/xraygpt", "evaluate", *words])
    assert command_text(cfg_path="a.yaml", options=[]) == "xraygpt evaluate audit --cfg-path a.yaml"
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *words])
    assert command_text(cfg_path="a.yaml", options=[]) == "python evaluate.py audit --cfg-path a.yaml"


def test_several_configurations_do_not_share_a_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--cfg-path", "a.yaml", "b.yaml", "--options", "run.output_dir=out"]) == 2
    assert "run.output_dir: all configurations would write to one folder" in capsys.readouterr().err
