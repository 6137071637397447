"""A wheel, built from the source distribution, is all that the quickstart needs.

It is installed in an environment of its own, away from the checkout; what the wheel requires (PyTorch and so
on) comes from the environment that runs the tests. The quickstart's commands run with fewer steps and
images than their files say, which takes about 35 seconds of a core, most of them for imports.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from xraygpt import __version__
from xraygpt.common.paths import DISTRIBUTION, SHIPPED_FOLDERS

pytest.importorskip("setuptools", reason="the build backend: python -m pip install setuptools")

ROOT = Path(__file__).parents[1]
NOT_SOURCE = {
    ".git",
    ".venv",
    ".mypy_cache",
    "build",
    "dataset",
    "dist",
    "output",
    "weights",
    "xraygpt_cxr.egg-info",
}
BUILD = "import sys; from setuptools import build_meta; getattr(build_meta, sys.argv[1])(sys.argv[2])"
TRAIN = [
    "datasets.phantom.splits={train: {seed: 1, count: 16}, val: {seed: 2, count: 4}}",
    *["run.max_epoch=1", "run.iters_per_epoch=2", "run.batch_size_train=4", "run.warmup_steps=1"],
]
EVALUATE = [
    "datasets.phantom.splits.test.count=4",
    "run.generate.max_new_tokens=4",
    "run.metrics=[rouge_l, phantom_f1]",
]
QUICKSTART = [
    ("train", "train_configs/quickstart/alignment.yaml", "train_configs/quickstart/finetune.yaml", TRAIN),
    ("evaluate", "eval_configs/quickstart_untrained.yaml", "eval_configs/quickstart.yaml", EVALUATE),
]
RUNS = {
    "alignment": ("train", "train_configs/quickstart/alignment.yaml"),
    "finetune": ("train", "train_configs/quickstart/finetune.yaml"),
    "untrained": ("evaluate", "eval_configs/quickstart_untrained.yaml"),
    ".": ("evaluate", "eval_configs/quickstart.yaml"),
}
"""Output folder -> what was run there."""


@dataclass(frozen=True)
class Installed:
    """An environment with the wheel, and a folder to work in."""

    programs: Path
    folder: Path

    def run(self, *command: str) -> str:
        """Run a program of the environment in the folder; return what it printed on stdout."""
        clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
        words = [str(self.programs / command[0]), *command[1:]]
        done = subprocess.run(words, cwd=self.folder, env=clean, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the unpacked source distribution of a copy of the checkout."""
    built = tmp_path_factory.mktemp("built")
    shutil.copytree(ROOT, built / "copy", ignore=not_source)
    build("build_sdist", built / "copy", built)
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(built, filter="data")
    build("build_wheel", built / sdist.name.removesuffix(".tar.gz"), built)
    (file,) = built.glob("*.whl")
    return file


def not_source(folder: str, names: list[str]) -> set[str]:
    """Return the names in a folder of the checkout that are not copied."""
    return NOT_SOURCE & {*names} if Path(folder) == ROOT else {"__pycache__"}


def build(kind: str, source: Path, target: Path) -> None:
    """Call the build backend as pip does, in the environment that runs the tests."""
    command = [sys.executable, "-c", BUILD, kind, str(target)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """An environment with the wheel, which finds all other packages where they are."""
    place = tmp_path_factory.mktemp("elsewhere")
    venv.create(place / "env", with_pip=False, symlinks=True)
    scheme = {"base": str(place / "env"), "platbase": str(place / "env")}
    packages = Path(sysconfig.get_path("purelib", "venv", vars=scheme))
    # Lines of .pth files in these folders, such as those of an editable installation, are not followed.
    (packages / "running.pth").write_text(
        f"{sysconfig.get_path('purelib')}\n{sysconfig.get_path('platlib')}\n"
    )
    programs = Path(sysconfig.get_path("scripts", "venv", vars=scheme))
    pip = [sys.executable, "-m", "pip", "--quiet", "--python", str(programs / "python")]
    subprocess.run([*pip, "install", "--no-deps", "--no-index", str(wheel)], check=True)
    (place / "work").mkdir()
    return Installed(programs, place / "work")


def test_the_wheel_holds_every_file_of_the_package(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if name.startswith("xraygpt/")}
    sources = {f"xraygpt/{name}": ROOT / name for name in SHIPPED_FOLDERS} | {"xraygpt": ROOT / "xraygpt"}
    files = {
        f"{prefix}/{file.relative_to(folder).as_posix()}"
        for prefix, folder in sources.items()
        for file in folder.rglob("*.*")
        if file.is_file() and file.suffix != ".pyc"
    }
    assert names == files


def test_what_is_installed(installed: Installed) -> None:
    assert installed.run("xraygpt", "--version") == f"xraygpt {__version__}\n"
    code = (
        "import importlib.metadata as m, xraygpt, xraygpt.common.run_record as r; "
        "from xraygpt.common import paths as v; "
        f"print(m.version('{DISTRIBUTION}'), xraygpt.__file__, v.install_hint('demo'), r.git_hash())"
    )
    version, file, hint = installed.run("python", "-c", code).split(maxsplit=2)
    assert version == __version__
    assert Path(file).is_relative_to(installed.programs.parent)
    assert hint == f'python -m pip install "{DISTRIBUTION}[demo]" None\n'


def test_the_quickstart_runs_away_from_the_checkout(installed: Installed) -> None:
    for verb, first, second, options in QUICKSTART:
        installed.run("xraygpt", verb, "--cfg-path", first, second, "--options", *options)
    output = installed.folder / "output/quickstart"
    assert (output / "report.html").is_file()
    assert "phantom_f1" in json.loads((output / "scores.json").read_text())["scores"]
    for folder, (verb, path) in RUNS.items():
        record = json.loads((output / folder / "run.json").read_text())
        assert record["command"].startswith(f"xraygpt {verb} --cfg-path ")
        assert record["config"] == path
    assert str(installed.programs.parent) in (output / "alignment/log.txt").read_text()
    assert [path.name for path in installed.folder.iterdir()] == ["output"]
