"""Check the quickstart's scores: ``python -m tests.check_scores output/quickstart/scores.json``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MIN_REPORTS = 300
MIN_F1 = 0.95
MAX_F1_SHUFFLED = 0.25
MAX_F1_UNTRAINED = 0.25
MAX_SECONDS = 360


def look_up(scores: Mapping[str, Any], dotted_key: str) -> float | None:
    """Return the number under a dotted key, None if it is not there."""
    value: Any = scores
    for part in dotted_key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def failures(scores: Mapping[str, Any]) -> list[str]:
    """Return one line for each figure that is missing or on the wrong side of its threshold."""
    found = []
    for key, low, high in (
        ("reports", MIN_REPORTS, None),
        ("scores.phantom_f1.value", MIN_F1, 1.0),
        ("controls.shuffled.phantom_f1", 0.0, MAX_F1_SHUFFLED),
        ("untrained.phantom_f1", 0.0, MAX_F1_UNTRAINED),
        ("seconds", 0.0, MAX_SECONDS),
    ):
        value = look_up(scores, key)
        if value is None:
            found.append(f"{key} is missing")
        elif not value >= low:  # also catches NaN
            found.append(f"{key} is {value}, expected at least {low}")
        elif high is not None and value > high:
            found.append(f"{key} is {value}, expected at most {high}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scores", type=Path)
    scores = json.loads(parser.parse_args().scores.read_text(encoding="utf-8"))
    found = failures(scores)
    for line in found:
        print(f"error: {line}", file=sys.stderr)
    if not found:
        print("scores are within their thresholds")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
