"""The example notebook runs from top to bottom and is stored without outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

NEEDED = ("nbformat", "nbclient", "ipykernel", "matplotlib")
NOTEBOOK = Path(__file__).parents[1] / "examples" / "quickstart.ipynb"


@pytest.fixture(scope="module")
def notebook() -> Any:
    for package in NEEDED:
        pytest.importorskip(package, reason=f"the notebook needs {package}: make install")
    import nbformat

    return nbformat.read(NOTEBOOK, as_version=4)


def test_it_is_stored_without_outputs(notebook: Any) -> None:
    for cell in notebook.cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


def test_it_runs(notebook: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from nbclient import NotebookClient

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    client = NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    )
    executed = client.execute()
    outputs = [output for cell in executed.cells for output in cell.get("outputs", [])]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    printed = "".join(output.get("text", "") for output in outputs if output.get("name") == "stdout")
    assert len(pictures) == 3  # the radiograph, the mean attention, the attention of each query
    assert "Findings:" in printed
    assert "16 queries, 8 x 8 patches" in printed
