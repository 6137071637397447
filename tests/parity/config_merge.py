"""Cases of merging configuration files, and of files that are refused."""

import tempfile
from argparse import Namespace
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from tests.parity.golden import Case
from xraygpt.common.config import Config
from xraygpt.common.errors import ConfigError
from xraygpt.common.merge import merge_files

Change = Callable[[dict[str, Any]], object]
REFUSED: dict[str, tuple[str, Change]] = {
    "no_model": ("model.arch", lambda user: user.pop("model")),
    "no_model_type": ("model.model_type", lambda user: user["model"].pop("model_type")),
    "unknown_arch": ("model.arch", lambda user: user["model"].update(arch="nope")),
    "unknown_model_type": ("model.model_type", lambda user: user["model"].update(model_type="nope")),
    "unknown_dataset": ("datasets.nope", lambda user: user["datasets"].update(nope={})),
}
"""What makes a user's file wrong, and the key that our message then begins with."""


def run(case: Case) -> None:
    """Defaults of the model, of the data sets, the user's file and the options, in this order."""
    files, check = case.values["files"], case.comparison
    with tempfile.TemporaryDirectory() as folder:
        for name, text in files.items():
            (Path(folder) / f"{name}.yaml").write_text(text, encoding="utf-8")
        model_type = yaml.safe_load(files["user"])["model"]["model_type"]
        datasets = [name for name in files if name.startswith("dataset_default_")]
        order = [Path(folder) / f"{name}.yaml" for name in (f"model_default_{model_type}", *datasets, "user")]
        for name, expected in case.values.items():
            if not isinstance(expected, dict) or "options" not in expected:
                continue
            resolved = merge_files(order, expected["options"])
            if "merged" in expected:
                check.exact(name, merge_files(order, expected["options"], resolve=False), expected["merged"])
                check.exact(f"{name}.resolved", resolved, case.values[f"{name}.resolved"])
            else:
                _mixed(case, name, expected, resolved)
        check.differs("errors", "Wrong configurations")
        for name in case.values["errors"].keys() & REFUSED.keys():
            _refusal(case, name, Path(folder))


def _mixed(case: Case, name: str, expected: dict[str, Any], merged: dict[str, Any]) -> None:
    """Both spellings of an option in one list: the reference loses the value of the second."""
    case.comparison.differs(name, "Two forms of options")
    options = expected["options"]
    for key, text in pairwise(options):
        if "=" not in key and "=" not in text:
            found: Any = merged
            for part in key.split("."):
                found = found[part]
            case.comparison.exact(f"{name} {key}", found, yaml.safe_load(text))


def _refusal(case: Case, name: str, folder: Path) -> None:
    """A wrong file is refused here too, by a message that names the key."""
    key, change = REFUSED[name]
    user = yaml.safe_load(case.values["files"]["user"])
    change(user)
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(user), encoding="utf-8")
    try:
        Config(Namespace(cfg_path=str(file), options=None))
    except ConfigError as error:
        if not any(problem.startswith(key) for problem in error.problems):
            case.comparison.problem(f"errors {name}", f"no problem names {key}: {error.problems}")
    else:
        case.comparison.problem(f"errors {name}", "the file was taken")
