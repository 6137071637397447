"""Cases of merging configuration files."""

import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from tests.parity.golden import Case
from xraygpt.common.merge import merge_files


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
            merged = merge_files(order, expected["options"])
            if "merged" in expected:
                check.exact(name, merged, expected["merged"])
                check.exact(f"{name}.resolved", merged, case.values[f"{name}.resolved"])
            else:
                _mixed(case, name, expected, merged)


def _mixed(case: Case, name: str, expected: dict[str, Any], merged: dict[str, Any]) -> None:
    """Both spellings of an option in one list: the reference loses the value of the second."""
    case.comparison.differs(name, "key=value and key value may be mixed here; the reference drops the value")
    options = expected["options"]
    for key, text in pairwise(options):
        if "=" not in key and "=" not in text:
            found: Any = merged
            for part in key.split("."):
                found = found[part]
            case.comparison.exact(f"{name} {key}", found, yaml.safe_load(text))
