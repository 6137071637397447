from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.toy import ToyModel, metrics_of, write_config, write_dataset
from xraygpt.common.checkpoint import load_checkpoint
from xraygpt.common.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    MissingFileError,
    NonFiniteLossError,
)
from xraygpt.runners.launch import launch, metrics_table
from xraygpt.tasks import ImageTextPretrainTask


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "data")


def run(path: Path, *options: str) -> dict[str, dict[str, Any]]:
    return launch(Namespace(cfg_path=str(path), options=list(options)))


def final_state(output: Path, name: str = "checkpoint_1.pth") -> dict[str, Any]:
    return load_checkpoint(output / name)


def assert_same_state(a: Any, b: Any) -> None:
    """Compare nested values bit by bit."""
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same_state(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same_state(x, y)
    else:
        assert a == b


def test_training_learns_scores_and_keeps_the_best(tmp_path: Path, storage: Path) -> None:
    out = tmp_path / "out"
    cfg = write_config(
        tmp_path / "c.yaml", storage, out, valid_splits=["valid"], test_splits=["val"], max_epoch=4
    )
    metrics = run(cfg, "run.init_lr=0.05")
    losses = [line["loss"] for line in metrics_of(out)]
    assert len(losses) == 24
    assert sum(losses[-6:]) < 0.5 * sum(losses[:6])
    scored = metrics_of(out, "valid")
    best = max(scored, key=lambda line: line["agg_metrics"])
    saved = load_checkpoint(out / "checkpoint_best.pth")
    assert saved["epoch"] == best["epoch"]
    assert metrics["val"]["loss"] == pytest.approx(best["loss"])
    assert sorted(p.name for p in out.glob("*.pth")) == ["checkpoint_3.pth", "checkpoint_best.pth"]


def test_validation_and_checkpoints_are_timed_and_steps_traced(tmp_path: Path, storage: Path) -> None:
    out = tmp_path / "out"
    run(write_config(tmp_path / "c.yaml", storage, out, valid_splits=["val"], profile_steps=2))
    lines = metrics_of(out, "interval")
    assert [(line["step"], line["steps"]) for line in lines] == [
        (3, 3),
        (6, 3),
        (6, 0),
        (9, 3),
        (12, 3),
        (12, 0),
    ]
    assert all({"validation", "checkpoint"} <= set(line["time"]) for line in lines if not line["steps"])
    assert "traceEvents" in json.loads((out / "trace.json").read_text())
    log = (out / "log.txt").read_text()
    assert "images/s" in log
    assert "after epoch 1:" in log


def test_best_checkpoint_is_not_just_the_latest(
    tmp_path: Path, storage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scored(self: Any, rows: Any, split: str, epoch: int, context: Any) -> dict[str, Any]:
        return {"agg_metrics": [1.0, 3.0, 2.0, 3.0][epoch]}

    monkeypatch.setattr(ImageTextPretrainTask, "after_evaluation", scored)
    out = tmp_path / "out"
    run(write_config(tmp_path / "c.yaml", storage, out, valid_splits=["val"], max_epoch=4))
    saved = load_checkpoint(out / "checkpoint_best.pth")
    assert (saved["epoch"], saved["global_step"]) == (1, 12)
    assert load_checkpoint(out / "checkpoint_3.pth")["progress"]["best_metric"] == 3.0


def test_checkpoint_has_the_reference_layout(tmp_path: Path, storage: Path) -> None:
    out = tmp_path / "out"
    run(write_config(tmp_path / "c.yaml", storage, out))
    saved = final_state(out)
    assert {"model", "optimizer", "config", "scaler", "epoch"} <= set(saved)
    assert sorted(saved["model"]) == ["head.bias", "head.weight"]
    assert (saved["epoch"], saved["global_step"], saved["scaler"]) == (1, 12, None)
    assert set(saved["config"]) >= {"run", "model", "datasets"}
    assert saved["manifest"]["trainable_parameters"] == 17


@pytest.mark.parametrize("name", ["linear_warmup_cosine_lr", "linear_warmup_step_lr"])
def test_learning_rate_follows_the_schedule(tmp_path: Path, storage: Path, name: str) -> None:
    out = tmp_path / "out"
    cfg = write_config(tmp_path / "c.yaml", storage, out, lr_sched=name, warmup_steps=4, warmup_lr=0.0)
    run(cfg, "run.lr_decay_rate=0.5")
    rates = [line["lr"] for line in metrics_of(out)]
    assert rates[:4] == pytest.approx([0.0, 0.0025, 0.005, 0.0075])
    if name == "linear_warmup_step_lr":
        assert rates[4:] == pytest.approx([0.01] * 2 + [0.005] * 6)
    else:
        assert rates[4] == pytest.approx(0.0075)
        assert rates[6] == pytest.approx(0.005)
        assert rates[-1] == pytest.approx(
            0.01 * 0.5 * (1 + torch.cos(torch.tensor(11 / 12 * torch.pi)).item())
        )


def test_an_epoch_is_one_pass_unless_set(tmp_path: Path, storage: Path) -> None:
    out = tmp_path / "out"
    run(write_config(tmp_path / "c.yaml", storage, out, iters_per_epoch=None, max_epoch=1))
    assert len(metrics_of(out)) == 4  # 13 samples in batches of 4


@pytest.fixture
def harsh() -> dict[str, Any]:
    """Settings under which everything random and everything stateful takes part."""
    return {
        "model": {"dropout": 0.3},
        "valid_splits": ["val"],
        "checkpoint_steps": 1,
        "accum_grad_iters": 4,
        "iters_per_epoch": 6,
        "grad_clip": 1.0,
    }


class Interrupted(Exception):
    pass


def run_until(stop: int, cfg: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train, and let the model fail when it is called for the `stop`-th time."""
    forward, calls = ToyModel.forward, []

    def dying(self: ToyModel, samples: Any) -> Any:
        calls.append(samples)
        if len(calls) == stop:
            raise Interrupted
        return forward(self, samples)

    with monkeypatch.context() as patch:
        patch.setattr(ToyModel, "forward", dying)
        with pytest.raises(Interrupted):
            run(cfg)


@pytest.mark.parametrize(("optimizer", "stops"), [("adamw", range(2, 15)), ("muon", (7, 12))])
def test_resuming_after_any_step_changes_nothing(
    tmp_path: Path,
    storage: Path,
    harsh: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    optimizer: str,
    stops: Iterable[int],
) -> None:
    whole = tmp_path / "whole"
    run(write_config(tmp_path / "whole.yaml", storage, whole, optimizer=optimizer, **harsh))
    for stop in stops:
        out = tmp_path / f"stopped{stop}"
        cfg = write_config(tmp_path / "c.yaml", storage, out, optimizer=optimizer, **harsh)
        run_until(stop, cfg, monkeypatch)
        run(cfg, "run.resume_ckpt_path=auto")
        assert metrics_of(out) == metrics_of(whole)
        assert metrics_of(out, "valid") == metrics_of(whole, "valid")
        for name in ("checkpoint_1.pth", "checkpoint_best.pth"):
            ours, theirs = final_state(out, name), final_state(whole, name)
            for key in ("model", "optimizer", "progress"):
                assert_same_state(ours[key], theirs[key])


def test_resuming_with_a_scaled_loss_changes_nothing(
    tmp_path: Path, storage: Path, harsh: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    run(write_config(tmp_path / "a.yaml", storage, whole, precision="fp16", **harsh))
    cfg = write_config(tmp_path / "b.yaml", storage, out, precision="fp16", **harsh)
    run_until(12, cfg, monkeypatch)
    run(cfg, "run.resume_ckpt_path=auto")
    assert final_state(whole)["scaler"]["_growth_tracker"] > 0
    for key in ("model", "optimizer", "scaler"):
        assert_same_state(final_state(out)[key], final_state(whole)[key])
    assert metrics_of(out) == metrics_of(whole)


def test_resuming_with_batches_by_length_changes_nothing(
    tmp_path: Path, storage: Path, harsh: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    annotations = json.loads((storage / "filter_cap.json").read_text())
    for index, row in enumerate(annotations["annotations"]):
        row["caption"] += " ." * index
    (storage / "filter_cap.json").write_text(json.dumps(annotations))
    outputs = {name: tmp_path / name for name in ("plain", "whole", "stopped")}
    for name, out in outputs.items():
        cfg = write_config(tmp_path / "c.yaml", storage, out, group_by_length=name != "plain", **harsh)
        if name == "stopped":
            run_until(10, cfg, monkeypatch)
            run(cfg, "run.resume_ckpt_path=auto")
        else:
            run(cfg)
    kept = [line["step"] for line in metrics_of(outputs["stopped"], "interval")]
    assert kept[:2] == [3, 6]
    assert metrics_of(outputs["stopped"]) == metrics_of(outputs["whole"]) != metrics_of(outputs["plain"])
    for key in ("model", "optimizer"):
        assert_same_state(final_state(outputs["stopped"])[key], final_state(outputs["whole"])[key])


def test_resuming_from_a_file_in_another_folder(tmp_path: Path, storage: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    cfg = write_config(tmp_path / "c.yaml", storage, first, valid_splits=["val"])
    run(cfg, "run.max_epoch=1")
    run(cfg, f"run.output_dir={second}", f"run.resume_ckpt_path={first / 'checkpoint_0.pth'}")
    assert [line["step"] for line in metrics_of(second)] == list(range(7, 13))
    assert (second / "checkpoint_best.pth").is_file()


def test_resuming_leaves_another_runs_files_out(tmp_path: Path, storage: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    cfg = write_config(tmp_path / "c.yaml", storage, first, valid_splits=["val"])
    run(cfg, "run.max_epoch=1")
    run(cfg, f"run.output_dir={second}", "run.seed=7")
    other = (second / "checkpoint_best.pth").read_bytes()
    options = [f"run.output_dir={second}", f"run.resume_ckpt_path={first / 'checkpoint_0.pth'}"]
    # No later epoch is trained, so the best one is that of the first folder.
    run(cfg, *options, "run.max_epoch=1")
    assert (second / "checkpoint_best.pth").read_bytes() == (first / "checkpoint_best.pth").read_bytes()
    assert metrics_of(second) == []
    (previous,) = second.glob("previous-*")
    assert (previous / "checkpoint_best.pth").read_bytes() == other
    assert len(metrics_of(previous)) == 12


def test_best_of_a_later_epoch_is_not_that_of_the_checkpoint_gone_on_from(
    tmp_path: Path, storage: Path
) -> None:
    out = tmp_path / "out"
    cfg = write_config(tmp_path / "c.yaml", storage, out, valid_splits=["val"])
    run(cfg, "run.max_epoch=1")
    early = (out / "checkpoint_0.pth").read_bytes()
    run(cfg, "run.resume_ckpt_path=auto")
    assert load_checkpoint(out / "checkpoint_best.pth")["epoch"] == 1
    (out / "checkpoint_0.pth").write_bytes(early)
    run(cfg, f"run.resume_ckpt_path={out / 'checkpoint_0.pth'}", "run.max_epoch=1")
    assert not (out / "checkpoint_best.pth").exists()
    assert [path.name for path in out.glob("previous-*/*")] == ["checkpoint_best.pth"]


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("run.batch_size_train=2", r"an epoch had 4 batches in .* and has 7 now"),
        ("run.iters_per_epoch=5", r"an epoch had 4 batches in .* and has 5 now"),
        ("run.weight_decay=0.5", r"run.weight_decay was 0.05 in .* and is now 0.5"),
        ("run.beta2=0.9", r"run.beta2 was 0.999 in .* and is now 0.9"),
        ("run.optimizer=muon", r"run.optimizer was adamw in .* and is now muon"),
    ],
)
def test_what_cannot_change_when_resuming(tmp_path: Path, storage: Path, option: str, words: str) -> None:
    cfg = write_config(tmp_path / "c.yaml", storage, tmp_path / "out", iters_per_epoch=None, max_epoch=1)
    run(cfg)
    with pytest.raises(ConfigError, match=words):
        run(cfg, "run.resume_ckpt_path=auto", option)


def test_number_of_processes_cannot_change_when_resuming(tmp_path: Path, storage: Path) -> None:
    out = tmp_path / "out"
    cfg = write_config(tmp_path / "c.yaml", storage, out, max_epoch=1)
    run(cfg)
    saved = final_state(out, "checkpoint_0.pth")
    saved["progress"]["world_size"] = 4
    torch.save(saved, out / "checkpoint_0.pth")
    with pytest.raises(ConfigError, match=r"a training in 4 process\(es\), and this is one in 1"):
        run(cfg, "run.resume_ckpt_path=auto")


def test_what_changes_when_resuming_is_told(tmp_path: Path, storage: Path) -> None:
    out = tmp_path / "out"
    cfg = write_config(tmp_path / "c.yaml", storage, out, max_epoch=1)
    run(cfg)
    (out / "log.txt").unlink()
    run(cfg, "run.resume_ckpt_path=auto", "run.max_epoch=2", "run.init_lr=0.5", "run.log_freq=1")
    warnings = [line for line in (out / "log.txt").read_text().splitlines() if " WARNING " in line]
    assert [line.split()[3] for line in warnings] == ["run.max_epoch", "run.init_lr"]
    assert "was 0.01 in" in warnings[1]
    assert warnings[1].endswith("is now 0.5")


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_a_score_that_is_no_number_is_never_the_best(
    tmp_path: Path, storage: Path, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    monkeypatch.setattr(ImageTextPretrainTask, "after_evaluation", lambda *args, **_: {"agg_metrics": value})
    out = tmp_path / "out"
    with pytest.raises(NonFiniteLossError, match="the split 'val' after epoch 0 is"):
        run(write_config(tmp_path / "c.yaml", storage, out, valid_splits=["val"]))
    assert not list(out.glob("*.pth"))


def test_auto_starts_anew_where_there_is_nothing(tmp_path: Path, storage: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".checkpoint_last.pth.x.part").write_bytes(b"half a save")
    run(write_config(tmp_path / "c.yaml", storage, tmp_path / "out", resume_ckpt_path="auto"))
    assert len(metrics_of(tmp_path / "out")) == 12
    assert not list((tmp_path / "out").glob(".checkpoint*"))


def test_resume_errors_name_the_file(tmp_path: Path, storage: Path) -> None:
    out = tmp_path / "out"
    cfg = write_config(tmp_path / "c.yaml", storage, out)
    with pytest.raises(MissingFileError, match="nothing.pth"):
        run(cfg, f"run.resume_ckpt_path={tmp_path / 'nothing.pth'}")
    run(cfg)
    saved = final_state(out)
    saved["model"]["head.weight"] = torch.zeros(1, 20)
    torch.save(saved, tmp_path / "other.pth")
    with pytest.raises(
        CheckpointError, match=r"other.pth(.|\n)*head.weight: file \(1, 20\), model \(1, 16\)"
    ):
        run(cfg, f"run.resume_ckpt_path={tmp_path / 'other.pth'}")
    torch.save({"model": {}}, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match="holds no optimizer, progress"):
        run(cfg, f"run.resume_ckpt_path={tmp_path / 'weights.pth'}")


def test_an_earlier_run_is_set_aside(tmp_path: Path, storage: Path) -> None:
    out = tmp_path / "out"
    cfg = write_config(tmp_path / "c.yaml", storage, out)
    run(cfg)
    run(cfg)
    assert len(metrics_of(out)) == 12
    (previous,) = out.glob("previous-*")
    assert sorted(path.name for path in previous.iterdir()) == ["checkpoint_1.pth", "metrics.jsonl"]


def test_evaluation_only_leaves_the_run_alone(tmp_path: Path, storage: Path) -> None:
    out = tmp_path / "out"
    cfg = write_config(tmp_path / "c.yaml", storage, out, valid_splits=["val"], test_splits=["val"])
    trained = run(cfg)
    best = out / "checkpoint_best.pth"
    again = run(cfg, "run.evaluate=true", f"run.resume_ckpt_path={best}")
    assert again["val"]["loss"] == pytest.approx(trained["val"]["loss"], abs=1e-7)
    latest = run(cfg, "run.evaluate=true", "run.resume_ckpt_path=auto")
    assert latest["val"]["loss"] == pytest.approx(metrics_of(out, "valid")[-1]["loss"], abs=1e-7)
    with pytest.raises(MissingFileError, match="holds no checkpoint"):
        run(
            cfg,
            "run.evaluate=true",
            "run.resume_ckpt_path=auto",
            f"run.output_dir={tmp_path / 'empty'}",
        )
    untrained = run(cfg, "run.evaluate=true")
    assert untrained["val"]["loss"] != pytest.approx(trained["val"]["loss"], rel=1e-2)
    assert len(metrics_of(out)) == 12


def test_corrupt_images_are_listed(tmp_path: Path, storage: Path) -> None:
    (storage / "image" / "x3.png").write_bytes(b"damaged")
    out = tmp_path / "out"
    cfg = write_config(tmp_path / "c.yaml", storage, out)
    with pytest.raises(DataError, match=r"row \[3\].*x3.png"):
        run(cfg)
    run(cfg, "datasets.openi.skip_corrupt=true")
    (line,) = (out / "skipped_images.txt").read_text().splitlines()
    assert "x3.png" in line
    assert len(metrics_of(out)) == 12
    assert "1 corrupt images were skipped" in (out / "log.txt").read_text()
    (storage / "image" / "x3.png").write_bytes((storage / "image" / "x2.png").read_bytes())
    run(cfg, "datasets.openi.skip_corrupt=true")
    assert not (out / "skipped_images.txt").exists()
    assert len(list(out.glob("previous-*/skipped_images.txt"))) == 1


def test_non_finite_loss_names_the_images(tmp_path: Path, storage: Path) -> None:
    out = tmp_path / "out"
    cfg = write_config(tmp_path / "c.yaml", storage, out, {"nan_for": "x5"}, log_freq=50, checkpoint_steps=1)
    with pytest.raises(NonFiniteLossError, match=r"at step [2-4]; image ids of the batch: .*x5"):
        run(cfg)
    lines = metrics_of(out)
    assert all(line["loss"] is not None for line in lines)
    saved = final_state(out, "checkpoint_last.pth")
    assert saved["global_step"] == len(lines) > 0
    assert all(bool(value.isfinite().all()) for value in saved["model"].values())


def test_split_that_is_not_there(tmp_path: Path, storage: Path) -> None:
    cfg = write_config(tmp_path / "c.yaml", storage, tmp_path / "out", test_splits=["holdout"])
    with pytest.raises(DataError, match=r"no data set has the split 'holdout' \(openi has train, val\)"):
        run(cfg)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_gpu_that_is_not_there(tmp_path: Path, storage: Path) -> None:
    cfg = write_config(tmp_path / "c.yaml", storage, tmp_path / "out", device="cuda")
    with pytest.raises(ConfigError, match="run.device"):
        run(cfg)


def test_metrics_table() -> None:
    text = metrics_table(
        {"f1": 0.5, "n": 3, "lengths": {"words": 9}, "findings": {"edema": {"f1": 1.0, "cases": 2}}}
    )
    assert [line.split() for line in text.splitlines()] == [
        ["f1", "0.5000"],
        ["n", "3"],
        ["lengths"],
        ["words", "9"],
        ["findings", "f1", "cases"],
        ["edema", "1.0000", "2"],
    ]
