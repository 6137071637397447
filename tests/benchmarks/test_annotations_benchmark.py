"""The benchmark of many annotations: who copies them into loading processes, not how fast they are read."""

import sys
from pathlib import Path

import pytest

from benchmarks import annotations
from xraygpt.datasets.datasets.annotations import ANNOTATION_FILE

MB = 1_000_000


@pytest.mark.skipif(sys.platform != "linux", reason="no other system tells what a process shares")
def test_loading_processes_copy_a_list_of_dicts_and_not_ours(tmp_path: Path) -> None:
    file = tmp_path / ANNOTATION_FILE
    annotations.write_annotations(file, 15_000)
    theirs, ours = (annotations.measure(way, file) for way in annotations.WAYS)
    assert theirs.last - theirs.first > 4 * MB
    assert ours.last - ours.first < 2 * MB
