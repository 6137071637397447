from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from xraygpt.datasets.phantom.truth import all_findings
from xraygpt.preparation.cli import main
from xraygpt.preparation.synthetic import phantoms


def test_sheet_shows_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "new" / "sheet.png"
    assert main(["contact-sheet", str(path), "--size", "64", "--seed", "3"]) == 0
    assert str(path) in capsys.readouterr().out
    sheet = Image.open(path)
    rows = -(-(1 + len(all_findings()) + phantoms.COMBINATIONS) // phantoms.COLUMNS)
    assert sheet.width == 64 * phantoms.COLUMNS
    assert sheet.height > 64 * rows


def test_seed_decides() -> None:
    assert np.array_equal(phantoms.contact_sheet(64, 1), phantoms.contact_sheet(64, 1))
    assert not np.array_equal(phantoms.contact_sheet(64, 1), phantoms.contact_sheet(64, 2))


def test_every_label_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    draw = phantoms.ImageDraw.ImageDraw.text

    def note(self: object, place: object, text: str, **options: object) -> None:
        written.append(text)
        draw(self, place, text, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(phantoms.ImageDraw.ImageDraw, "text", note)
    phantoms.contact_sheet(144, 0)
    assert {"normal", phantoms.TITLE, *(finding.phrase for finding in all_findings())} <= set(written)
    assert written.count(phantoms.MARK) == 1 + len(all_findings()) + phantoms.COMBINATIONS


@pytest.mark.parametrize("size", ["63", "-64", "big"])
def test_too_small_a_size_is_refused(tmp_path: Path, size: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["contact-sheet", str(tmp_path / "x.png"), f"--size={size}"])
    assert "not a whole number of 64 or more" in capsys.readouterr().err


def test_unknown_ending_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["contact-sheet", str(tmp_path / "x.radiograph"), "--size", "64"]) == 2
    assert "error: " in capsys.readouterr().err
