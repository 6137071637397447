"""What README.md and docs/ tell people to type works.

Every command in a ``bash`` block is one of these:

- run here, in an empty folder, with smaller numbers than it names (`SMALLER`): preparing, scoring, comparing;
- a training, an evaluation or the like whose time or data a test does not have: its arguments are parsed by
  the program's own parser, and the configuration that it names is merged with its options and validated.
  The commands of the quickstart are among these; tests/test_wheel.py runs them;
- a command of Python, pip or make: the module, the extras or the target that it names exists.

The Python snippet of the README runs as it stands.
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from xraygpt import cli
from xraygpt.common.config import Config
from xraygpt.common.paths import DISTRIBUTION

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SCRIPTS = ("train", "evaluate", "prepare", "demo")
SMALLER = {
    "prepare phantom": ["--studies", "6"],
    "prepare folder": ["--processes", "1"],
    "prepare contact-sheet": ["--size", "64"],
    "evaluate score": ["--metrics", "rouge_l", "--rounds", "2"],
    "evaluate compare": ["--metrics", "rouge_l", "--rounds", "2"],
}
"""Commands that are run -> what is added to them; of an option that is given twice the last one counts."""


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(
        rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )


def commands() -> list[tuple[str, str]]:
    """Return (page, command line) for every command, each once."""
    found: dict[str, str] = {}
    for page in PAGES:
        for block in blocks(page, "bash"):
            for line in block.replace("\\\n", " ").splitlines():
                if line.strip() and not line.startswith("#"):
                    found.setdefault(line, page.name)
    return [(page, line) for line, page in found.items()]


def library_words(words: list[str]) -> list[str] | None:
    """Return the words after ``xraygpt`` of a command of this library, however spelt; None for others."""
    if words[0] == "torchrun":
        words = words[3:]  # --nproc-per-node N
    elif words[0].endswith("python"):
        words = words[1:]
    if words[:2] == ["-m", "xraygpt"]:
        words = words[1:]
    if words[0] == "xraygpt":
        return words[1:]
    name = words[0].removesuffix(".py")
    return [name, *words[1:]] if name in SCRIPTS else None


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the commands which are run read."""
    folder = tmp_path_factory.mktemp("reader")
    (folder / "my_images").mkdir()
    rows = ["image_id,study_id,view,generated,reference,image,findings,impression"]
    for number in range(4):
        Image.new("L", (64, 64), 40 * number).save(folder / f"my_images/{number}.png")
        report = f"There is no pleural effusion and no pneumothorax in study {number}."
        rows.append(f"{number},s{number},PA,{report},{report},{number}.png,{report},Clear lungs.")
    for name in ("predictions.csv", "reports.csv"):
        (folder / name).write_text("\n".join(rows) + "\n")
    for name in ("a.jsonl", "b.jsonl"):
        line = '{{"image_id": "{0}", "generated": "clear lungs", "reference": "clear lungs {0}"}}\n'
        (folder / name).write_text("".join(line.format(number) for number in range(4)))
    return folder


@pytest.mark.parametrize(("page", "line"), commands(), ids=lambda text: text[:60])
def test_a_command_works(page: str, line: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = shlex.split(line, comments=True)
    ours = library_words(words)
    if ours is None:
        check_other_program(words)
        return
    monkeypatch.chdir(folder)
    more = SMALLER.get(" ".join(ours[:2]))
    if more is not None:
        assert cli.main([*ours, *more]) == 0
        return
    args = parsed(ours, monkeypatch)
    if hasattr(args, "cfg_path") and ours[0] != "prepare":
        for path in [args.cfg_path] if isinstance(args.cfg_path, str) else args.cfg_path:
            Config(argparse.Namespace(cfg_path=path, options=args.options))


def parsed(words: list[str], monkeypatch: pytest.MonkeyPatch) -> argparse.Namespace:
    """Return the parsed command line; argparse ends the test if it refuses it."""
    seen: list[argparse.Namespace] = []
    monkeypatch.setattr("xraygpt.common.command_line.run_command", lambda args: seen.append(args) or 0)
    assert cli.main(words) == 0
    return seen[0]


def check_other_program(words: list[str]) -> None:
    """Check that what a command of pip, make or Python names is there."""
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
        return
    assert words[0] in {"python", "python3", ".venv/bin/python"}, words
    assert words[1] == "-m", words
    assert words[2] in {"pip", "venv"} or importlib.util.find_spec(words[2]) is not None
    if words[2:4] == ["pip", "install"]:
        extras = ast.literal_eval(
            re.search(r"extras_require=(\{.*?\n    \}),", (ROOT / "setup.py").read_text(), re.DOTALL)[1]  # type: ignore[index]
        )
        for named in re.findall(r"\[(.*?)\]", " ".join(words)):
            assert {*named.split(",")} <= {*extras}
        for wheel in (word for word in words if word.endswith(".whl")):
            assert Path(wheel).name.startswith(DISTRIBUTION.replace("-", "_"))


def test_there_are_commands_of_every_kind() -> None:
    lines = [line for _, line in commands()]
    assert len(lines) > 25
    for name in cli.COMMANDS:
        assert name == "tokenizers" or any(f"xraygpt {name}" in line for line in lines)


def test_make_runs_the_commands_of_the_page() -> None:
    printed = subprocess.run(
        ["make", "--dry-run", "--always-make", "quickstart"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    given = [library_words(shlex.split(line)) for line in printed.splitlines() if "--cfg-path" in line]
    page = [
        library_words(shlex.split(line))
        for line in blocks(ROOT / "docs/quickstart.md", "bash")[0].splitlines()
    ]
    assert given == page


def test_the_snippet_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (snippet,) = blocks(ROOT / "README.md", "python")
    exec(snippet, {"pil_image": Image.new("L", (80, 80), 90)})
    assert "Findings:" in capsys.readouterr().out


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(
        r"\]\(([^)#]+)\)", re.sub(r"(?ms)^```.*?^```", "", page.read_text(encoding="utf-8"))
    ):
        assert target.startswith("https://") or (page.parent / target).exists(), target


def test_nothing_tells_people_to_install_the_other_xraygpt() -> None:
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    wrong = re.compile(r"pip install (-U )?['\"]?xraygpt(?!-cxr|_cxr)[\[\s'\"]")
    for name in files.splitlines():
        if Path(name).suffix in {".py", ".md", ".ipynb", ".txt", ".toml", ".yaml"}:
            assert not wrong.search((ROOT / name).read_text(encoding="utf-8")), name
