"""Reports of a split, killed and continued, by one process and by two: always the same file."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.toy import DIE_AT_BATCH, ToyModel, write_config, write_dataset
from xraygpt.runners.launch import launch
from xraygpt.tasks.report_generation import JOURNAL_FOLDER

ROOT = Path(__file__).parents[2]
TOY = [str(ROOT / "tests" / "toy.py")]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def start(*arguments: str, die_at: str = "") -> subprocess.CompletedProcess[str]:
    command, env = [sys.executable, *arguments], {**ENVIRONMENT, DIE_AT_BATCH: die_at}
    return subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("toy") / "data", train=3, val=11)


def toy(folder: Path, data: Path, **run: Any) -> Path:
    """Write an evaluation of the toy model on 11 images in batches of two, into `folder`."""
    settings = {"task": "report_generation", "evaluate": True, "test_splits": ["val"], **run}
    return write_config(folder.parent / f"{folder.name}.yaml", data, folder, **settings)


def here(cfg: Path, *options: str) -> None:
    launch(Namespace(cfg_path=str(cfg), options=list(options)))


def predictions(folder: Path, split: str = "val") -> bytes:
    return (folder / f"predictions_{split}.jsonl").read_bytes()


def timing(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "generation_val.json").read_text())


def log(folder: Path) -> str:
    return (folder / "log.txt").read_text()


@pytest.fixture(scope="module")
def journal(data: Path) -> Path:
    """What a run left that was killed in its fourth batch of six, half a line behind the third."""
    cfg = toy(data.parent / "first", data)
    process = start(*TOY, "--cfg-path", str(cfg), die_at="4")
    assert process.returncode == -signal.SIGKILL, process.stderr
    assert not (data.parent / "first" / "predictions_val.jsonl").exists()
    folder = data.parent / "first" / JOURNAL_FOLDER
    part = folder / "val" / "openi" / "part-0.jsonl"
    assert len(part.read_text().splitlines()) == 3
    with part.open("a") as file:
        file.write('{"number": 3, "seconds": 0.1, "rows": [{"im')
    return folder


@pytest.fixture(scope="module")
def whole(data: Path) -> bytes:
    """The file that every run shall leave."""
    here(toy(data.parent / "whole", data))
    return predictions(data.parent / "whole")


@pytest.fixture
def killed(tmp_path: Path, data: Path, journal: Path) -> Path:
    """The configuration of a run that goes on from `journal`."""
    shutil.copytree(journal, tmp_path / "killed" / JOURNAL_FOLDER)
    return toy(tmp_path / "killed", data)


def test_rows_say_what_was_generated(tmp_path: Path, data: Path) -> None:
    here(toy(tmp_path / "out", data))
    rows = [json.loads(line) for line in predictions(tmp_path / "out").splitlines()]
    assert [row["image_id"] for row in rows] == [f"x{n}" for n in range(3, 14)]
    keys = "image_id study_id source prompt generated reference tokens stop_reason mean_log_probability"
    assert list(rows[0]) == keys.split()
    assert rows[0]["prompt"] == "one"
    assert rows[0]["reference"] == "value 1"
    assert rows[0]["mean_log_probability"] == round(rows[0]["mean_log_probability"], 4) < 0
    times = timing(tmp_path / "out")
    assert (times["images"], times["tokens"]) == (11, 22)
    assert times["images_per_second"] == pytest.approx(11 / times["seconds"], rel=0.2)
    (made,) = times["datasets"]
    assert [batch["number"] for batch in made["batches"]] == list(range(6))
    assert made["settings"]["generation"]["num_beams"] == 1
    assert not (tmp_path / "out" / JOURNAL_FOLDER).exists()


def test_a_killed_run_goes_on_to_the_same_file(tmp_path: Path, killed: Path, whole: bytes) -> None:
    here(killed)
    assert predictions(tmp_path / "killed") == whole
    assert "3 of 6 batches are in" in log(tmp_path / "killed")
    assert timing(tmp_path / "killed")["images"] == 11
    assert not (tmp_path / "killed" / JOURNAL_FOLDER).exists()


def test_two_processes_leave_the_files_of_one(tmp_path: Path, data: Path, killed: Path, whole: bytes) -> None:
    """They go on with one split and do another from its beginning."""
    splits = {"test_splits": ["val", "train"]}
    here(toy(tmp_path / "one", data, **splits))
    cfg = toy(tmp_path / "killed", data, **splits)
    process = start(*TORCHRUN, *TOY, "--cfg-path", str(cfg))
    assert process.returncode == 0, process.stderr
    assert predictions(tmp_path / "killed") == predictions(tmp_path / "one") == whole
    assert predictions(tmp_path / "killed", "train") == predictions(tmp_path / "one", "train")
    assert timing(tmp_path / "killed")["tokens"] == 22


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("run.generate.max_new_tokens=7", "generation.max_new_tokens: 300, now 7"),
        ("run.batch_size_eval=3", "batch_size: 2, now 3"),
        ("model.dropout=0.5", "config.model.dropout: 0.0, now 0.5"),
    ],
)
def test_other_settings_start_anew(tmp_path: Path, killed: Path, option: str, said: str) -> None:
    here(killed, option)
    assert said in log(tmp_path / "killed")
    assert "going on with" not in log(tmp_path / "killed")
    assert len(predictions(tmp_path / "killed").splitlines()) == 11


def test_a_finished_split_is_not_repeated_for_one_that_is_not(
    tmp_path: Path, data: Path, whole: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = toy(tmp_path / "out", data, test_splits=["val", "train"])
    with monkeypatch.context() as patch:
        generate, batches = ToyModel.generate_detailed, list[int]()

        def stopping(self: ToyModel, samples: Any, generation: Any) -> Any:
            batches.append(len(batches))
            if len(batches) == 8:
                raise KeyboardInterrupt
            return generate(self, samples, generation)

        patch.setattr(ToyModel, "generate_detailed", stopping)
        with pytest.raises(KeyboardInterrupt):
            here(cfg)
    here(cfg)
    assert "6 of 6 batches are in" in log(tmp_path / "out")
    assert "1 of 2 batches are in" in log(tmp_path / "out")
    assert predictions(tmp_path / "out") == whole
    assert len(predictions(tmp_path / "out", "train").splitlines()) == 3


def test_validation_keeps_no_journal_and_is_written_anew_each_time(tmp_path: Path, data: Path) -> None:
    here(toy(tmp_path / "out", data, evaluate=False, valid_splits=["val"], test_splits=[]))
    assert len(predictions(tmp_path / "out").splitlines()) == 11
    assert not (tmp_path / "out" / "generation_val.json").exists()
    assert not (tmp_path / "out" / JOURNAL_FOLDER).exists()


def test_corrupt_images_are_left_out_and_the_rest_is_the_same(tmp_path: Path, whole: bytes) -> None:
    storage = write_dataset(tmp_path / "data", train=3, val=11)
    gone = ("x5", "x6", "x9")  # x5 and x6 are a batch
    for name in gone:
        (storage / "image" / f"{name}.png").write_bytes(b"none")
    cfg = toy(tmp_path / "out", storage)
    content = yaml.safe_load(cfg.read_text())
    content["datasets"]["openi"]["skip_corrupt"] = True
    cfg.write_text(yaml.safe_dump(content))
    here(cfg)
    left = [line for line in whole.splitlines() if json.loads(line)["image_id"] not in gone]
    assert predictions(tmp_path / "out").splitlines() == left
