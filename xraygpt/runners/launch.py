"""From a command line to a finished run; what train.py and evaluate.py share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from xraygpt.common.config import CommandLine, Config
from xraygpt.common.dist_utils import cleanup, init_distributed_mode
from xraygpt.common.logger import setup_logger
from xraygpt.common.registry import registry
from xraygpt.common.utils import now
from xraygpt.datasets.seeding import seed_everything
from xraygpt.tasks import setup_task


def launch(args: CommandLine, evaluate_only: bool = False) -> dict[str, dict[str, Any]]:
    """Run the configuration that `args` names; return the metrics of its test splits.

    Args:
        evaluate_only: do not train, whatever ``run.evaluate`` says.

    Raises:
        XrayGPTError: anything that the user can mend.
    """
    cfg = Config(args)
    cfg.run_cfg.evaluate = cfg.run_cfg.evaluate or evaluate_only
    init_distributed_mode(cfg.run_cfg)
    try:
        return _run(cfg)
    finally:
        cleanup()


def metrics_table(metrics: Mapping[str, Any]) -> str:
    """Return metrics as lines of name and value; nested ones are indented below the name of their group."""
    lines: list[str] = []
    for key, value in metrics.items():
        if isinstance(value, Mapping):
            nested = metrics_table(value).splitlines()
            lines += [f"  {key}", *(f"  {line}" for line in nested)]
        else:
            shown = f"{value:.4f}" if isinstance(value, float) else str(value)
            lines.append(f"  {key:<32} {shown:>10}")
    return "\n".join(lines)


def _run(cfg: Config) -> dict[str, dict[str, Any]]:
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
    return metrics
