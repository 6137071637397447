from __future__ import annotations

import shutil
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest

from xraygpt.datasets.phantom import cache
from xraygpt.datasets.phantom.cache import cache_folder, rendered_split
from xraygpt.datasets.phantom.render import render_phantom


def refuse(*args: object) -> NoReturn:
    raise AssertionError("rendered again")


def test_split_is_rendered_in_order_by_several_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "CHUNK", 2)
    images = rendered_split(5, 5, 64, tmp_path)
    assert np.array_equal(images, np.stack([render_phantom(5, index, 64) for index in range(5)]))


def test_second_time_it_comes_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = rendered_split(1, 2, 64, tmp_path)
    monkeypatch.setattr(cache, "_render_all", refuse)
    assert np.array_equal(rendered_split(1, 2, 64, tmp_path), first)
    for other in ((2, 2, 64), (1, 3, 64), (1, 2, 65)):
        with pytest.raises(AssertionError, match="rendered again"):
            rendered_split(*other, tmp_path)


def test_edited_renderer_meets_no_stale_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = tmp_path / "sources"
    shutil.copytree(cache.SOURCE_FOLDER, sources)
    monkeypatch.setattr(cache, "SOURCE_FOLDER", sources)
    rendered_split(1, 2, 64, tmp_path)
    monkeypatch.setattr(cache, "_render_all", refuse)
    (sources / "report.py").write_text("# another phrasing\n")
    rendered_split(1, 2, 64, tmp_path)
    for source in ("findings.py", "truth.py", "canvas.py", "render.py"):
        original = (sources / source).read_text()
        (sources / source).write_text(original + "# edited\n")
        with pytest.raises(AssertionError, match="rendered again"):
            rendered_split(1, 2, 64, tmp_path)
        (sources / source).write_text(original)


def test_failed_rendering_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_render_all", refuse)
    with pytest.raises(AssertionError, match="rendered again"):
        rendered_split(1, 2, 64, tmp_path)
    assert not list(tmp_path.iterdir())


def test_other_processes_wait_for_the_main_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rendered = np.full((2, 64, 64), 7, np.uint8)
    rendered_split(1, 2, 64, tmp_path)
    (path,) = tmp_path.iterdir()
    path.unlink()
    monkeypatch.setattr(cache, "_render_all", refuse)
    monkeypatch.setattr(cache, "is_main_process", lambda: False)
    monkeypatch.setattr(cache, "barrier", lambda: np.save(path, rendered))
    assert np.array_equal(rendered_split(1, 2, 64, tmp_path), rendered)


def test_folder_can_be_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XRAYGPT_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path / "phantoms"
    monkeypatch.delenv("XRAYGPT_CACHE")
    assert cache_folder() == Path.home() / ".cache" / "xraygpt" / "phantoms"
