from pathlib import Path

import pytest

from xraygpt.common import paths
from xraygpt.common.errors import MissingFileError
from xraygpt.common.paths import cached_file, package_root, require_file, resolve_path, shipped_root


def test_package_paths_lie_in_the_package() -> None:
    path = resolve_path("package:common/paths.py")
    assert path == package_root() / "common/paths.py"
    assert Path(path).is_file()


def test_home_and_relative_paths(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve_path("~/a") == tmp_path / "a"
    assert resolve_path("a/b") == Path("a/b")


@pytest.mark.parametrize("text", ["https://example.org/a.pth", "hf://owner/repo/file.bin"])
def test_remote_names_stay_as_they_are(text: str) -> None:
    assert resolve_path(text) == text


def test_require_file_returns_an_existing_file_or_folder(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("")
    assert require_file(tmp_path / "x", what="x", source="y") == tmp_path / "x"
    assert require_file(tmp_path, what="x", source="y") == tmp_path


def test_require_file_says_what_where_and_whence(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError) as caught:
        require_file(tmp_path / "v.pth", what="the weights", source="https://example.org", where="model.ckpt")
    for part in ("the weights", str(tmp_path / "v.pth"), "https://example.org", "model.ckpt"):
        assert part in str(caught.value)


def test_cached_file_of_a_local_path(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("")
    assert cached_file(str(tmp_path / "x")) == tmp_path / "x"
    with pytest.raises(MissingFileError, match="nothing.pth"):
        cached_file(tmp_path / "nothing.pth")


def test_malformed_hub_name() -> None:
    with pytest.raises(MissingFileError, match="hf://owner/repository/file"):
        cached_file("hf://only-owner")


def test_a_failed_download_is_one_clear_error() -> None:
    with pytest.raises(MissingFileError, match="could not fetch hf://owner/repo/file.bin"):
        cached_file("hf://owner/repo/file.bin")  # the tests are offline


def test_a_shipped_file_stands_in_for_a_missing_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name = "prompts/alignment.txt"
    assert resolve_path(name) == resolve_path(f"./{name}") == shipped_root() / name
    assert cached_file(name).read_text() == (shipped_root() / name).read_text()
    (tmp_path / "prompts").mkdir()  # of the user's own, with other files
    assert resolve_path(name) == shipped_root() / name
    (tmp_path / name).write_text("mine")
    assert resolve_path(name) == Path(name)


def test_a_shipped_folder_stands_in_for_a_missing_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = "train_configs/recipes/tiny/encoders/swin"
    assert resolve_path(name) == shipped_root() / name
    assert cached_file(name) == shipped_root() / name
    (tmp_path / name).mkdir(parents=True)
    assert resolve_path(name) == Path(name)


@pytest.mark.parametrize("name", ["prompts/../setup.py", "prompts", "alignment.txt", "README.md"])
def test_only_what_is_in_the_shipped_folders_stands_in(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve_path(name) == Path(name)


def test_an_error_names_every_place_that_was_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingFileError) as caught:
        require_file("prompts/aligment.txt", what="the prompts", source="xraygpt", where="model.prompt_path")
    for part in (str(tmp_path), str(shipped_root()), "did you mean 'prompts/alignment.txt'?"):
        assert part in str(caught.value)


def test_an_extra_is_installed_as_the_package_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert paths.install_hint("dicom") == 'python -m pip install -c constraints.txt -e ".[dicom]"'
    monkeypatch.setattr(paths, "package_root", lambda: tmp_path / "site-packages/xraygpt")
    assert paths.install_hint("dicom") == 'python -m pip install "xraygpt-cxr[dicom]"'
