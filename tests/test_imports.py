"""The package's floors: who may import whom, no cycles, and what an import costs."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "xraygpt"

# From the top floor down; a module imports from its own floor and from those below.
FLOORS = [
    "xraygpt.__main__",
    "xraygpt.cli",
    "xraygpt.doctor",
    "xraygpt.demo",
    "xraygpt.convert",
    "xraygpt.preparation",
    "xraygpt.runners",
    "xraygpt.tasks",
    "xraygpt.models",
    "xraygpt.conversation",
    "xraygpt.datasets.builders",
    "xraygpt.datasets",
    "xraygpt.evaluation",
    "xraygpt.processors",
    "xraygpt.pictures",
    "xraygpt.common",
]


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(file): file for file in PACKAGE.rglob("*.py")}


def imported_modules(file: Path) -> set[str]:
    """Return the modules of this package that `file` imports, functions' own imports included."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in MODULES else str(node.module))
    return {name for name in found if name in MODULES}


def floor(module: str) -> int:
    """Return the number of a module's floor, 0 at the top; the package itself lies below all."""
    for number, prefix in enumerate(FLOORS):
        if module == prefix or module.startswith(prefix + "."):
            return number
    assert module == "xraygpt", f"{module} lies on no floor"
    return len(FLOORS)


def test_imports_point_down() -> None:
    upward = [
        f"{module} imports {imported}"
        for module, file in MODULES.items()
        for imported in imported_modules(file)
        if floor(imported) < floor(module)
    ]
    assert not upward


def test_no_cycles() -> None:
    graph = {module: imported_modules(file) - {module} for module, file in MODULES.items()}
    assert len(list(graphlib.TopologicalSorter(graph).static_order())) == len(MODULES)


def test_importing_the_package_is_cheap() -> None:
    code = "import sys, time; t = time.perf_counter(); import xraygpt; print(time.perf_counter() - t)"
    times = [float(run([sys.executable, "-c", code]).stdout) for _ in range(3)]
    assert min(times) < 0.1


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
