"""From a command line to a finished run; what train.py and evaluate.py share."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from xraygpt.common.config import CommandLine, Config
from xraygpt.common.dist_utils import cleanup, init_distributed_mode, is_main_process
from xraygpt.common.logger import setup_logger
from xraygpt.common.registry import registry
from xraygpt.common.run_record import remove_run_record, write_run_record
from xraygpt.common.utils import now
from xraygpt.datasets.seeding import seed_everything
from xraygpt.tasks import setup_task


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
    init_distributed_mode(cfg.run_cfg)
    try:
        metrics = _run(cfg, started)
        if is_main_process():
            write_run_record(
                Path(cfg.run_cfg.output_dir).expanduser(),
                config=args.cfg_path,
                started=datetime.fromtimestamp(started).isoformat(timespec="seconds"),
                seconds=time.time() - started,
            )
        return metrics
    finally:
        cleanup()


def metrics_table(metrics: Mapping[str, Any]) -> str:
    """Return metrics as lines of name and value; nested ones are indented below the name of their group.

    A group of groups (such as findings with figures each) becomes one table.
    """
    lines: list[str] = []
    for key, value in metrics.items():
        if not isinstance(value, Mapping):
            lines.append(f"  {key:<32}{_cell(value)}")
        elif value and all(isinstance(row, Mapping) for row in value.values()):
            lines.append(f"  {key:<32}{''.join(map(_cell, next(iter(value.values()))))}")
            lines += [f"    {name:<30}{''.join(map(_cell, row.values()))}" for name, row in value.items()]
        else:
            lines += [f"  {key}", *(f"  {line}" for line in metrics_table(value).splitlines())]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    shown = f"{value:.4f}" if isinstance(value, float) else str(value)
    return f" {shown:>12}"


def _run(cfg: Config, started: float) -> dict[str, dict[str, Any]]:
    output_dir = Path(cfg.run_cfg.output_dir).expanduser()
    if is_main_process():
        remove_run_record(output_dir)
    setup_logger(cfg.run_cfg.output_dir)
    cfg.pretty_print()
    # The same in every process, so that all begin with the same weights.
    seed_everything(cfg.run_cfg.seed)
    task = setup_task(cfg)
    datasets = task.build_datasets(cfg)
    model = task.build_model(cfg)
    runner_cls = registry.get_runner_class(cfg.run_cfg.runner)
    runner = runner_cls(cfg=cfg, job_id=now(), task=task, model=model, datasets=datasets)
    metrics: dict[str, dict[str, Any]] = runner.train()
    if is_main_process():
        metrics = task.after_run(
            metrics, datasets, output_dir=output_dir, elapsed=lambda: time.time() - started
        )
    return metrics
