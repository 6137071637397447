"""The commands as a user types them: whole runs, a killed one, and wrong input."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.preparation.toy_source import hashes
from xraygpt.preparation.cli import main
from xraygpt.preparation.pipeline import run
from xraygpt.preparation.synthetic.trees import write_tree

ROOT = Path(__file__).parents[2]


def annotations(folder: Path) -> list[dict[str, str]]:
    rows: list[dict[str, str]] = json.loads((folder / "filter_cap.json").read_text())["annotations"]
    return rows


@pytest.fixture(scope="module")
def mimic_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tree = tmp_path_factory.mktemp("raw") / "mimic"
    write_tree("mimic-cxr", tree, 120, image_size=64, distinct_images=8)
    return tree


def test_mimic_cxr(tmp_path: Path, mimic_tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["mimic-cxr", str(mimic_tree), "--out", str(out), "--processes", "1"]) == 0
    assert "120 studies" in capsys.readouterr().out
    assert "synthetic" in (out / "preparation.html").read_text(encoding="utf-8").lower()
    rows = annotations(out)
    assert {row["view"] for row in rows} == {"PA", "AP"}
    assert {row["split"] for row in rows} >= {"train"}
    assert main(["verify", str(out), "--processes", "1"]) == 0
    (out / "image" / f"{rows[0]['image_id']}.jpg").write_bytes(b"")
    assert main(["verify", str(out), "--processes", "1"]) == 1


def killed_halfway(command: list[str], out: Path) -> None:
    """Start a command and kill it while it writes images; again, if it was faster."""
    for _ in range(5):
        with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) as process:
            while process.poll() is None and not (out / "image").is_dir():
                time.sleep(0.001)
            while process.poll() is None and len(os.listdir(out / "image")) < 5:
                time.sleep(0.001)
            process.send_signal(signal.SIGKILL)
        if not (out / "preparation.json").exists():
            return
        shutil.rmtree(out)
    pytest.fail("the command was always faster")


def test_a_killed_preparation_goes_on_to_the_same_result(tmp_path: Path, mimic_tree: Path) -> None:
    def command(out: str) -> list[str]:
        given = ["mimic-cxr", str(mimic_tree), "--out", str(tmp_path / out), "--processes", "2"]
        return [sys.executable, str(ROOT / "prepare.py"), *given]

    subprocess.run(command("whole"), cwd=ROOT, check=True, capture_output=True)
    killed_halfway(command("killed"), tmp_path / "killed")
    again = subprocess.run(command("killed"), cwd=ROOT, check=True, capture_output=True, text=True)
    assert "images written" in again.stdout
    killed, whole = hashes(tmp_path / "killed"), hashes(tmp_path / "whole")
    del killed["preparation.html"], whole["preparation.html"]  # names the folder in its command
    assert killed == whole


def test_openi_from_archives_and_with_published_splits(tmp_path: Path) -> None:
    write_tree("openi", tmp_path / "raw", 12, image_size=64, distinct_images=3)
    reports, images = (str(tmp_path / "raw" / f"NLMCXR_{name}.tgz") for name in ("reports", "png"))
    given = ["openi", "--reports", reports, "--images", images, "--processes", "1"]
    assert main([*given, "--out", str(tmp_path / "drawn")]) == 0
    rows = annotations(tmp_path / "drawn")
    splits = {"train": [], "val": [], "test": sorted({row["study_id"] for row in rows})}
    (tmp_path / "splits.json").write_text(json.dumps(splits))
    given += ["--splits", str(tmp_path / "splits.json")]
    assert main([*given, "--out", str(tmp_path / "published"), "--shards", "--shard-size", "20K"]) == 0
    assert {row["split"] for row in annotations(tmp_path / "published")} == {"test"}
    assert len(list((tmp_path / "published" / "shards").glob("*.tar"))) > 1
    assert main(["verify", str(tmp_path / "published"), "--processes", "1"]) == 0


def test_folder_with_named_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = tmp_path / "raw"
    write_tree("folder", raw, 8, image_size=64, distinct_images=2)
    table = raw / "reports.csv"
    table.write_text(table.read_text().replace("findings", "what_is_seen", 1))
    given = ["folder", str(table), "--out", str(tmp_path / "out"), "--processes", "1"]
    columns = ["--findings-column", "what_is_seen", "--where", "view=PA"]
    assert main([*given, "--findings-column", "seen"]) == 2
    assert "columns are missing: 'seen'" in capsys.readouterr().err
    assert main([*given, *columns]) == 0
    assert {row["view"] for row in annotations(tmp_path / "out")} == {"PA"}
    assert main([*given, *columns, "--where", "view=AP"]) == 2
    assert "twice" in capsys.readouterr().err


def test_phantoms_are_those_of_the_builder(tmp_path: Path) -> None:
    given = ["phantom", "--studies", "6", "--seed", "5", "--out", str(tmp_path / "out"), "--processes", "1"]
    assert main([*given, "--options", "cleaning.join_sections=false", "pictures.keep_size=true"]) == 0
    from xraygpt.datasets.phantom.render import phantom_rng, phantom_truth
    from xraygpt.datasets.phantom.report import write_report

    for row in annotations(tmp_path / "out"):
        index = int(row["image_id"].rsplit("-", 1)[1])
        assert row["caption"] == write_report(phantom_truth(5, index), phantom_rng(5, index, "report"))


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("cleaning.min_findings_word=3", "did you mean 'min_findings_words'"),
        ("splits.val=2", "share"),
        ("picture.quality=3", "did you mean 'pictures'"),
        ("cleaning.min_findings_words=many", "min_findings_words"),
    ],
)
def test_wrong_settings_are_named(
    tmp_path: Path, option: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["phantom", "--studies", "2", "--out", str(tmp_path / "out"), "--options", option]
    assert main(given) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_reports_are_sent_on_request_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    address = "rewriting.base_url=http://127.0.0.1:9/v1"
    given = ["phantom", "--studies", "3", "--out", str(tmp_path / "out"), "--processes", "1"]
    assert main([*given, "--options", address, "rewriting.model=m", "rewriting.retries=0"]) == 0
    assert "nothing was sent" in capsys.readouterr().out
    assert not (tmp_path / "out" / "filter_cap.json").exists()


def test_raw_data_takes_no_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["phantom", "--as", "folder", "--studies", "2", "--out", str(tmp_path / "out")]
    assert main([*given, "--shards"]) == 2
    assert main([*given, "--distinct-images", "1"]) == 0
    assert (tmp_path / "out" / "reports.csv").is_file()


@pytest.mark.parametrize(
    "wrong",
    [
        ["openi", "--reports", "nowhere.tgz", "--no-images"],
        ["mimic-cxr", "nowhere"],
        ["folder", "nowhere.csv"],
    ],
)
def test_what_is_missing_is_named(
    tmp_path: Path, wrong: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*wrong, "--out", str(tmp_path / "out")]) == 2
    assert "nowhere" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["0", "x", "1T", "-1M"])
def test_wrong_sizes_are_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["phantom", "--out", "x", "--shards", f"--shard-size={text}"])
    assert "300M" in capsys.readouterr().err


@pytest.mark.parametrize(
    "given",
    [
        ["openi", "--reports", "x.tgz", "--no-images", "--shards"],
        ["openi", "--reports", "x.tgz", "--no-images", "--keep-size"],
        ["phantom", "--shard-size", "3M"],
        ["phantom", "--distinct-images", "3"],
        ["phantom", "--as", "folder", "--processes", "2"],
    ],
)
def test_options_without_effect_are_refused(
    tmp_path: Path, given: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*given, "--out", str(tmp_path / "out")]) == 2
    assert "--" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert main(["phantom", "--studies", "2", "--out", str(tmp_path / "file" / "out")]) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path / 'file'}")


def test_an_interruption_is_one_line_and_the_command_goes_on(
    tmp_path: Path, mimic_tree: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    given = ["mimic-cxr", str(mimic_tree), "--out", str(tmp_path / "out"), "--processes", "1"]
    with monkeypatch.context() as patch:
        patch.setattr(run, "convert_pictures", interrupted)
        assert main(given) == 130
    assert capsys.readouterr().err.endswith("interrupted\n")
    assert main(given) == 0


def test_a_disk_that_takes_no_more_is_one_line_and_can_be_resumed(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    command = [sys.executable, "prepare.py", "phantom", "--studies", "3", "--out", str(tmp_path / "out")]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000)),
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith(f"error: {tmp_path / 'out'}")
    assert main(command[2:]) == 0
