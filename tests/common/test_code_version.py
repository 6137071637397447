"""How to install an extra, from a checkout and from a wheel."""

from pathlib import Path

import pytest

from xraygpt.common import code_version


def test_an_extra_is_installed_as_the_package_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert code_version.install_hint("dicom") == 'python -m pip install -c constraints.txt -e ".[dicom]"'
    monkeypatch.setattr(code_version, "package_root", lambda: tmp_path / "site-packages/xraygpt")
    assert code_version.install_hint("dicom") == 'python -m pip install "xraygpt-cxr[dicom]"'
