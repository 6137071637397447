"""From a command line to a finished run; what train.py and evaluate.py share."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from xraygpt.common.config import CommandLine, Config
from xraygpt.common.dist_utils import cleanup, init_distributed_mode, is_main_process
from xraygpt.common.errors import ConfigError, DataError, MissingFileError, XrayGPTError
from xraygpt.common.logger import setup_logger
from xraygpt.common.registry import registry
from xraygpt.common.run_record import remove_run_record, write_run_record
from xraygpt.common.utils import now
from xraygpt.datasets.seeding import seed_everything
from xraygpt.tasks import BaseTask, setup_task
from xraygpt.tasks.context import Splits

SECONDS_FOR_MESSAGE = 3.0
"""torchrun stops all processes once one has failed, so the others let the main one say why first."""


def run_program(args: CommandLine, evaluate_only: bool, started: float) -> int:
    """Do what train.py or evaluate.py is called for; return the exit status.

    That is 2 after an error that the user can mend. Of several processes the main one prints the error, or
    the metrics of an evaluation; an unusable sample (DataError) is told by whichever process met it.
    """
    # Not is_main_process: processes have not joined yet, or no longer, when an error arrives here.
    is_main = os.environ.get("RANK", "0") == "0"
    try:
        metrics = launch(args, evaluate_only=evaluate_only, started=started)
    except XrayGPTError as error:
        if is_main or isinstance(error, DataError):
            print(f"error: {error}", file=sys.stderr, flush=True)
        if not is_main:
            time.sleep(SECONDS_FOR_MESSAGE)
        return 2
    if evaluate_only and is_main:
        for split, values in metrics.items():
            print(f"split {split}")
            print(metrics_table(values))
    return 0


def launch(
    args: CommandLine, evaluate_only: bool = False, started: float | None = None
) -> dict[str, dict[str, Any]]:
    """Run the configuration that `args` names; return the metrics of its test splits.

    Args:
        evaluate_only: do not train, whatever ``run.evaluate`` says.
        started: what `time.time` gave at the start of the program, for the run's wall time; None for now.

    Raises:
        XrayGPTError: anything that the user can mend.
    """
    started = time.time() if started is None else started
    cfg = Config(args)
    cfg.run_cfg.evaluate = cfg.run_cfg.evaluate or evaluate_only
    if cfg.run_cfg.evaluate and not cfg.run_cfg.test_splits:
        raise ConfigError(
            f"run.test_splits is empty, so there is nothing to evaluate; set it ({args.cfg_path})"
        )
    output_dir = _make_output_dir(cfg.run_cfg.output_dir)
    init_distributed_mode(cfg.run_cfg)
    try:
        metrics = _run(cfg, output_dir, started)
        if is_main_process():
            write_run_record(
                output_dir,
                config=args.cfg_path,
                started=datetime.fromtimestamp(started).isoformat(timespec="seconds"),
                seconds=time.time() - started,
            )
        return metrics
    finally:
        cleanup()


def _make_output_dir(setting: str) -> Path:
    """Make the folder for everything that a run writes.

    Raises:
        ConfigError: it cannot be made, or not be written to.
    """
    folder = Path(setting).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"run.output_dir: {folder} cannot be made ({error}); name another folder"
        ) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"run.output_dir: {folder} may not be written to; name another folder")
    return folder


def _run(cfg: Config, output_dir: Path, started: float) -> dict[str, dict[str, Any]]:
    if is_main_process():
        remove_run_record(output_dir)
    setup_logger(output_dir)
    cfg.pretty_print()
    # The same in every process, so that all begin with the same weights.
    seed_everything(cfg.run_cfg.seed)
    task = setup_task(cfg)
    datasets = _build_datasets(task, cfg)
    model = task.build_model(cfg)
    runner_cls = registry.get_runner_class(cfg.run_cfg.runner)
    runner = runner_cls(cfg=cfg, job_id=now(), task=task, model=model, datasets=datasets)
    metrics: dict[str, dict[str, Any]] = runner.train()
    if is_main_process():
        metrics = task.after_run(
            metrics, datasets, output_dir=output_dir, elapsed=lambda: time.time() - started
        )
    return metrics


def _build_datasets(task: BaseTask, cfg: Config) -> dict[str, Splits]:
    """Build the data sets; look for the model's files first, so that one start tells all that is missing.

    Raises:
        MissingFileError: with a paragraph for each file or folder.
    """
    missing: list[str] = []
    datasets: dict[str, Splits] = {}
    try:
        registry.get_model_class(cfg.to_dict()["model"]["arch"]).check_files(cfg.model_cfg)
    except MissingFileError as error:
        missing.append(str(error))
    try:
        datasets = task.build_datasets(cfg)
    except MissingFileError as error:
        missing.append(str(error))
    if missing:
        raise MissingFileError("\n".join(missing))
    return datasets


def metrics_table(metrics: Mapping[str, Any]) -> str:
    """Return metrics as lines of name and value; nested ones are indented below the name of their group.

    A group of groups (such as findings with figures each) becomes one table.
    """
    lines: list[str] = []
    for key, value in metrics.items():
        if not isinstance(value, Mapping):
            lines.append(f"  {key:<32}{_cell(value)}")
        elif _is_table(value):
            lines.append(f"  {key:<32}{''.join(map(_cell, next(iter(value.values()))))}")
            lines += [f"    {name:<30}{''.join(map(_cell, row.values()))}" for name, row in value.items()]
        else:
            lines += [f"  {key}", *(f"  {line}" for line in metrics_table(value).splitlines())]
    return "\n".join(lines)


def _is_table(group: Mapping[str, Any]) -> bool:
    rows = list(group.values())
    return bool(rows) and all(
        isinstance(row, Mapping) and not any(isinstance(cell, Mapping) for cell in row.values())
        for row in rows
    )


def _cell(value: Any) -> str:
    shown = f"{value:.4f}" if isinstance(value, float) else str(value)
    return f" {shown:>12}"
