from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.toy import ToyModel, metrics_of, write_config, write_dataset
from xraygpt.common.errors import ConfigError
from xraygpt.runners.launch import launch
from xraygpt.runners.trackers import scalars


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "data")


def run(path: Path, *options: str) -> None:
    launch(Namespace(cfg_path=str(path), options=list(options)))


def tensorboard_scalars(out: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(out / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_names_of_scalars() -> None:
    record = {
        "event": "valid",
        "step": 3,
        "epoch": "best",
        "split": "val",
        "f1": 0.5,
        "side": {"left": 1},
        "ok": True,
    }
    assert dict(scalars(record)) == {"valid/val/f1": 0.5, "valid/val/side/left": 1}


def test_tensorboard_has_the_metrics_of_an_interrupted_and_resumed_run_once(
    tmp_path: Path, storage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard")
    out = tmp_path / "out"
    cfg = write_config(
        tmp_path / "c.yaml", storage, out, valid_splits=["val"], checkpoint_steps=5, log_with=["tensorboard"]
    )
    forward, calls = ToyModel.forward, []

    def dying(self: ToyModel, samples: Any) -> Any:
        calls.append(samples)
        if (
            len(calls) == 5
        ):  # validation batches are calls, too; a line beyond the checkpoint has been written
            raise RuntimeError("interrupted")
        return forward(self, samples)

    with monkeypatch.context() as patch:
        patch.setattr(ToyModel, "forward", dying)
        with pytest.raises(RuntimeError, match="interrupted"):
            run(cfg, "run.checkpoint_steps=3")
    run(cfg, "run.resume_ckpt_path=auto")
    logged = tensorboard_scalars(out)
    for key in ("loss", "lr"):
        wanted = [(line["step"], pytest.approx(line[key], rel=1e-6)) for line in metrics_of(out)]
        assert logged[f"train/{key}"] == wanted
    wanted = [(line["step"], pytest.approx(line["loss"], rel=1e-6)) for line in metrics_of(out, "valid")]
    assert logged["valid/val/loss"] == wanted
    assert len(wanted) == 2


def test_an_earlier_runs_events_are_set_aside(tmp_path: Path, storage: Path) -> None:
    pytest.importorskip("tensorboard")
    out = tmp_path / "out"
    cfg = write_config(tmp_path / "c.yaml", storage, out, max_epoch=1, log_with=["tensorboard"])
    run(cfg)
    run(cfg)
    assert len(tensorboard_scalars(out)["train/loss"]) == 6
    assert list(out.glob("previous-*/tensorboard"))


def test_wandb_offline(tmp_path: Path, storage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "wandb"))
    out = tmp_path / "out"
    run(write_config(tmp_path / "c.yaml", storage, out, max_epoch=1, log_with=["wandb"]))
    assert wandb_history(out) == [
        (line["step"], pytest.approx(line["loss"], rel=1e-6)) for line in metrics_of(out)
    ]


def wandb_history(out: Path) -> list[tuple[int, float]]:
    """Read back step and loss from what an offline run wrote."""
    from wandb.proto import wandb_internal_pb2

    (file,) = out.glob("wandb/offline-run-*/*.wandb")
    history = []
    for data in leveldb_records(file.read_bytes()[7:]):  # after wandb's own header
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        items = {
            item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item
        }
        if "train/loss" in items:
            history.append((items["_step"], items["train/loss"]))
    return history


def leveldb_records(log: bytes) -> Iterator[bytes]:
    """Yield the records of a LevelDB log: parts with checksum (4 bytes), length (2), kind (1), in blocks."""
    block, header, first_block, whole, last = 32768, 7, 32768 - 7, 1, 4
    record, at, end = b"", 0, first_block
    while at < len(log):
        if end - at < header:
            at, end = end, end + block
            continue
        size, kind = int.from_bytes(log[at + 4 : at + 6], "little"), log[at + 6]
        record += log[at + header : at + header + size]
        at += header + size
        if kind in (whole, last):
            yield record
            record = b""


def test_a_package_that_is_not_there_is_named_before_training(
    tmp_path: Path, storage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    out = tmp_path / "out"
    cfg = write_config(tmp_path / "c.yaml", storage, out, log_with=["wandb"])
    with pytest.raises(ConfigError, match=r"run\.log_with: wandb is not installed"):
        run(cfg)
    assert not (out / "metrics.jsonl").exists()


def test_unknown_tracker(tmp_path: Path, storage: Path) -> None:
    cfg = write_config(tmp_path / "c.yaml", storage, tmp_path / "out", log_with=["tensorbord"])
    with pytest.raises(ConfigError, match=r"log_with.*tensorboard"):
        run(cfg)
