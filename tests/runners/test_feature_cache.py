"""Training on cached features: the same numbers, run after run; new caches; refusals; disks that are full."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import subprocess
import sys
from argparse import Namespace
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.toy import ToyModel, metrics_of, write_config, write_dataset
from xraygpt.common.checkpoint import load_checkpoint
from xraygpt.common.errors import ConfigError, DataError
from xraygpt.datasets.feature_cache import FrozenPart
from xraygpt.models.base_model import BaseModel
from xraygpt.runners import feature_cache
from xraygpt.runners.feature_cache import check_nothing_random
from xraygpt.runners.launch import launch

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_cache, "BATCH_SIZE", 5)


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "data")


@pytest.fixture
def cfg(tmp_path: Path, storage: Path) -> Path:
    cache = {"folder": str(tmp_path / "cache")}
    return write_config(tmp_path / "c.yaml", storage, tmp_path / "out", feature_cache=cache)


def train(cfg: Path, *options: str) -> list[dict[str, Any]]:
    """Train into ``out`` beside the file; return the lines of all steps."""
    shutil.rmtree(cfg.parent / "out", ignore_errors=True)
    return resume(cfg, *options)


def resume(cfg: Path, *options: str) -> list[dict[str, Any]]:
    launch(Namespace(cfg_path=str(cfg), options=list(options)))
    return metrics_of(cfg.parent / "out")


def caches(cfg: Path) -> list[str]:
    """Names of all that lies in the folder of the caches but locks, unfinished caches included."""
    names = (path.name for path in (cfg.parent / "cache").iterdir())
    return sorted(name for name in names if not name.endswith(".lock"))


def assert_close(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> None:
    for a, b in zip(ours, theirs, strict=True):
        numbers = {key: value for key, value in b.items() if not isinstance(value, str)}
        assert {key: a[key] for key in numbers} == pytest.approx(numbers, rel=1e-5, abs=1e-6)


def log(cfg: Path) -> str:
    return (cfg.parent / "out" / "log.txt").read_text()


def test_the_losses_are_those_of_the_evaluation_transform(cfg: Path) -> None:
    """Up to rounding, which depends on the batch that an image is encoded in."""
    cached = train(cfg, "run.valid_splits=[val]")
    scored = metrics_of(cfg.parent / "out", "valid")
    assert "features of openi, by the toy encoder: 13 images x 1 crop(s) of 1 x 16 numbers" in log(cfg)
    assert "0.8 KiB in" in log(cfg)
    assert "Blip2ImageTrainProcessor, which may crop at random, is not used" in log(cfg)
    plain = "datasets.openi.vis_processor.train.name=blip2_image_eval"
    uncached = train(cfg, "run.valid_splits=[val]", "run.feature_cache=null", plain)
    assert_close(cached, uncached)
    assert_close(scored, metrics_of(cfg.parent / "out", "valid"))


def test_a_complete_cache_is_used_again(cfg: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = train(cfg, "run.feature_cache.crops=2")
    (folder,) = (cfg.parent / "cache").iterdir()
    stamp = (folder / "features.bin").stat().st_mtime_ns
    # Training calls no encoder any more.
    monkeypatch.setattr(ToyModel, "encode", lambda self, features: features)
    assert train(cfg, "run.feature_cache.crops=2") == first
    assert f"features of openi: using those in {folder}" in log(cfg)
    assert (folder / "features.bin").stat().st_mtime_ns == stamp


def test_a_random_crop_is_drawn_at_each_step(cfg: Path) -> None:
    one, two = (train(cfg, f"run.feature_cache.crops={crops}") for crops in (1, 2))
    assert one != two
    (folder,) = [path for path in (cfg.parent / "cache").iterdir() if _index(path)["rows"] == 26]
    rows = torch.from_file(str(folder / "features.bin"), size=26 * 16).view(13, 2, 16)
    assert (rows[:, 0] != rows[:, 1]).any(dim=1).all()


def _index(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "index.json").read_text())


@pytest.mark.parametrize(
    "option",
    [
        "run.seed=7",  # which the toy's weights are drawn with
        "run.feature_cache.crops=2",
        "run.feature_cache.dtype=bf16",
        "run.precision=bf16",
        "datasets.openi.vis_processor.train.mean=[0.4,0.4,0.4]",
    ],
)
def test_another_setting_makes_another_cache(cfg: Path, option: str) -> None:
    train(cfg)
    before = caches(cfg)
    train(cfg, option)
    assert len(caches(cfg)) == 2
    assert set(before) < set(caches(cfg))


def test_a_changed_image_makes_another_cache(cfg: Path, storage: Path) -> None:
    first = train(cfg)
    shutil.copy(storage / "image" / "x1.png", storage / "image" / "x2.png")
    assert train(cfg) != first
    assert len(caches(cfg)) == 2


def test_what_does_not_matter_makes_no_other_cache(cfg: Path) -> None:
    train(cfg)
    train(cfg, "run.batch_size_train=2", "run.init_lr=0.1", "model.dropout=0.5", "run.num_workers=1")
    assert len(caches(cfg)) == 1


def train_in_two_processes(cfg: Path, *options: str, setup: str = "") -> subprocess.CompletedProcess[str]:
    """Run train.py with two processes, after some lines of Python (`f` is the module of the cache)."""
    shutil.rmtree(cfg.parent / "out", ignore_errors=True)
    lines = ["import errno, os, sys, train, tests.toy", "import xraygpt.runners.feature_cache as f"]
    lines += ["f.BATCH_SIZE = 5", setup, "sys.exit(train.main())"]
    (cfg.parent / "two.py").write_text("\n".join(lines))
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, str(cfg.parent / "two.py"), "--cfg-path", str(cfg), "--options", *options]
    return subprocess.run(
        [sys.executable, *command, "run.batch_size_train=2"],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_two_processes_make_and_use_the_same_cache(cfg: Path) -> None:
    one = train(cfg, "run.feature_cache.crops=3")
    (folder,) = (cfg.parent / "cache").iterdir()
    expected = (folder / "features.bin").read_bytes()
    shutil.rmtree(folder)
    process = train_in_two_processes(cfg, "run.feature_cache.crops=3")
    assert process.returncode == 0, process.stderr
    assert caches(cfg) == [folder.name]
    assert (folder / "features.bin").read_bytes() == expected
    assert_close(metrics_of(cfg.parent / "out"), one)


def test_a_full_disk_ends_both_processes_with_one_line(cfg: Path) -> None:
    setup = """
def full(*args):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
if os.environ["RANK"] == "1":
    f.write_features = full
"""
    process = train_in_two_processes(cfg, setup=setup)
    assert process.returncode != 0
    (line,) = [line for line in process.stderr.splitlines() if "error: " in line[:20]]
    assert line.startswith("error: run.feature_cache: ")
    assert "No space left on device; nothing of this cache is kept" in line
    assert caches(cfg) == []


def test_resuming_within_an_epoch_changes_nothing(cfg: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ["run.feature_cache.crops=3", "run.checkpoint_steps=2", "model.dropout=0.3"]
    whole = train(cfg, *options)
    weights = load_checkpoint(cfg.parent / "out" / "checkpoint_1.pth")["model"]
    forward = ToyModel.forward

    def dying(self: ToyModel, samples: Any) -> Any:
        if self.steps == 9:
            raise KeyboardInterrupt
        return forward(self, samples)

    with monkeypatch.context() as patch:
        patch.setattr(ToyModel, "forward", dying)
        with pytest.raises(KeyboardInterrupt):
            train(cfg, *options)
    shutil.rmtree(cfg.parent / "cache")
    assert resume(cfg, *options, "run.resume_ckpt_path=auto") == whole
    again = load_checkpoint(cfg.parent / "out" / "checkpoint_1.pth")["model"]
    assert all(torch.equal(again[key], weights[key]) for key in weights)


def test_corrupt_images_are_left_out_as_without_a_cache(cfg: Path, storage: Path) -> None:
    for name in ("x3", "x12"):
        (storage / "image" / f"{name}.png").write_bytes(b"damaged")
    with pytest.raises(DataError, match="x3.png"):
        train(cfg)
    assert caches(cfg) == []
    settings = ["datasets.openi.skip_corrupt=true", "run.feature_cache.crops=2"]
    train(cfg, *settings)
    cached = (cfg.parent / "out" / "skipped_images.txt").read_text().splitlines()
    train(cfg, "run.feature_cache=null", *settings[:1])
    assert set(cached) == set((cfg.parent / "out" / "skipped_images.txt").read_text().splitlines())
    assert len(cached) == 2


def test_too_little_space_is_told_before_anything_is_written(
    cfg: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(2000, 1200, 800))
    with pytest.raises(ConfigError, match=r"need 0.8 KiB for openi, and .*cache has 0.8 KiB free. Free some"):
        train(cfg)
    assert caches(cfg) == []


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), KeyboardInterrupt()])
def test_a_cache_that_is_not_finished_leaves_nothing(
    cfg: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    write, calls = feature_cache.write_features, []

    def failing(*args: Any) -> None:
        calls.append(args)
        if len(calls) == 2:
            raise error
        write(*args)

    with monkeypatch.context() as patch:
        patch.setattr(feature_cache, "write_features", failing)
        expected = ConfigError if isinstance(error, OSError) else KeyboardInterrupt
        with pytest.raises(expected) as stopped:
            train(cfg)
    if expected is ConfigError:
        assert "No space left on device; nothing of this cache is kept" in str(stopped.value)
    assert caches(cfg) == []
    # A killed process leaves its unfinished folder.
    assert train(cfg)
    (name,) = caches(cfg)
    shutil.move(cfg.parent / "cache" / name, cfg.parent / "cache" / f".{name}.part")
    (cfg.parent / "cache" / f".{name}.part" / "features.bin").write_bytes(b"half")
    assert train(cfg)
    assert caches(cfg) == [name]


def test_another_run_that_makes_the_same_cache_is_waited_for(
    cfg: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = train(cfg)
    (name,) = caches(cfg)
    made, elsewhere = cfg.parent / "cache" / name, cfg.parent / "elsewhere"
    made.rename(elsewhere)
    flock = fcntl.flock
    with (cfg.parent / "cache" / f".{name}.lock").open("w") as lock:
        flock(lock, fcntl.LOCK_EX)

        def finishing_first(file: Any, operation: int) -> None:
            if operation == fcntl.LOCK_EX:  # the other run finishes while this one waits
                elsewhere.rename(made)
                flock(lock, fcntl.LOCK_UN)
            flock(file, operation)

        monkeypatch.setattr(fcntl, "flock", finishing_first)
        assert train(cfg) == first
    assert "another run is making the feature cache" in log(cfg)
    assert f"using those in {made}" in log(cfg)
    assert list((cfg.parent / "cache").iterdir()) == [made]


def test_a_damaged_cache_is_made_again(cfg: Path) -> None:
    first = train(cfg)
    (folder,) = (cfg.parent / "cache").iterdir()
    os.truncate(folder / "features.bin", 10)
    assert train(cfg) == first
    assert "is damaged and is made again" in log(cfg)


def test_what_draws_at_random_is_refused() -> None:
    encoder = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.1))
    part = FrozenPart("vision encoder", encoder, (1, 2), {"visual_encoder": encoder}, {})
    check_nothing_random(
        FrozenPart("e", encoder, (1, 2), {"e": nn.Sequential(nn.Dropout(0.0), nn.Dropout(0.5).eval())}, {})
    )
    with pytest.raises(ConfigError, match=r"visual_encoder.1 \(Dropout\).*model.vision.drop_path_rate"):
        check_nothing_random(part)


def test_refusals_name_the_key(cfg: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="run.feature_cache.crops: crops must be at least 1"):
        train(cfg, "run.feature_cache.crops=0")
    with pytest.raises(DataError, match="data_type: text"):
        train(cfg, "datasets.openi.data_type=text")
    monkeypatch.setattr(ToyModel, "frozen_part", BaseModel.frozen_part)
    with pytest.raises(ConfigError, match="run.feature_cache: ToyModel has no frozen image encoder"):
        train(cfg)


def test_a_model_that_gives_other_features_than_it_says(cfg: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encode = ToyModel.encode
    monkeypatch.setattr(ToyModel, "encode", lambda self, image: encode(self, image)[..., :8])
    with pytest.raises(ConfigError, match=r"toy encoder gives features of \(1, 8\) .* they are \(1, 16\)"):
        train(cfg)
