"""From a command line to a finished run; what train.py and evaluate.py share."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Mapping
from contextlib import nullcontext
from datetime import datetime
from pathlib import Path
from typing import Any

from xraygpt.common.command_line import command_text, guarded
from xraygpt.common.config import CommandLine, Config
from xraygpt.common.dist_utils import cleanup, init_distributed_mode, is_main_process
from xraygpt.common.errors import ConfigError, XrayGPTError
from xraygpt.common.logger import METRICS_FILE, setup_logger
from xraygpt.common.paths import require_all
from xraygpt.common.registry import registry
from xraygpt.common.run_record import remove_run_record, write_run_record
from xraygpt.common.utils import now
from xraygpt.datasets.seeding import seed_everything
from xraygpt.evaluation.results import PAGE_FILE, SCORES_FILE
from xraygpt.models.base_model import BaseModel
from xraygpt.models.llm import weights_left_in_files
from xraygpt.runners.run_folder import AUTO, BEST, find_resume_checkpoint, resumable
from xraygpt.runners.runner_base import RunnerBase
from xraygpt.runners.trackers import check_trackers
from xraygpt.tasks import BaseTask, setup_task
from xraygpt.tasks.audit import AUDIT_FILE, AUDIT_PAGE, AuditTask, audit_config
from xraygpt.tasks.base_task import Splits
from xraygpt.tasks.predictions import predictions_path

logger = logging.getLogger(__name__)


def run_program(
    args: CommandLine, evaluate_only: bool, started: float, last: bool = True, audit: bool = False
) -> int:
    """Do what train.py or evaluate.py is called for; return the exit status (see `guarded`).

    Prints the metrics of an evaluation, where the files are, and which command comes next.

    Args:
        last: no other run follows in these processes, so that they leave one another.
        audit: do not score the reports but find out whether they depend on the images (`AuditTask`).
    """

    def run() -> int:
        metrics, closing_lines = _launch(args, evaluate_only, started, last, audit)
        # Not is_main_process: processes have left one another by now.
        if os.environ.get("RANK", "0") == "0":
            for split, values in metrics.items() if evaluate_only else ():
                print(f"split {split}\n{metrics_table(values)}")
            for line in closing_lines:
                print(line)
        return 0

    return guarded(run, lambda: _how_to_resume(args, evaluate_only))


def launch(args: CommandLine, evaluate_only: bool = False, audit: bool = False) -> dict[str, dict[str, Any]]:
    """Run the configuration that `args` names; return the metrics of its test splits.

    Args:
        evaluate_only: do not train, whatever ``run.evaluate`` says.
        audit: as for `run_program`.

    Raises:
        XrayGPTError: anything that the user can fix.
        OSError: a file cannot be read or written.
    """
    return _launch(args, evaluate_only, time.time(), True, audit)[0]


def _launch(
    args: CommandLine, evaluate_only: bool, started: float, last: bool, audit: bool
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Return what `launch` does, and lines that say where the files are and what comes next."""
    cfg = Config(args)
    cfg.run_cfg.evaluate = cfg.run_cfg.evaluate or evaluate_only
    if cfg.run_cfg.evaluate and not cfg.run_cfg.test_splits:
        raise ConfigError(
            f"run.test_splits is empty, so there is nothing to evaluate; set it ({args.cfg_path})"
        )
    if not cfg.run_cfg.evaluate:
        check_trackers(cfg.run_cfg.log_with)
    if audit:
        if cfg.run_cfg.resume_ckpt_path == AUTO:
            trained = Path(cfg.run_cfg.output_dir).expanduser()
            cfg.run_cfg.resume_ckpt_path = str(find_resume_checkpoint(AUTO, trained) or trained / BEST)
        audit_config(cfg)
    output_dir = _make_output_dir(cfg.run_cfg.output_dir)
    init_distributed_mode(cfg.run_cfg)
    try:
        metrics = _run(cfg, output_dir, started, audit)
        if is_main_process():
            write_run_record(
                output_dir,
                config=args.cfg_path,
                started=datetime.fromtimestamp(started).isoformat(timespec="seconds"),
                seconds=time.time() - started,
            )
        closing_lines = _closing_lines(args, cfg, output_dir, started)
    except BaseException:
        cleanup()
        raise
    if last:
        cleanup()
    return metrics, closing_lines


def _how_to_resume(args: CommandLine, evaluate_only: bool) -> str:
    """Return what to do about a run that was stopped, as the end of a sentence."""
    options = list(args.options or [])
    try:
        run = Config(args).run_cfg
        evaluate = evaluate_only or run.evaluate
        may_resume = evaluate or bool(resumable(Path(run.output_dir).expanduser()))
    except XrayGPTError:  # stopped before it was found out
        evaluate = may_resume = False
    if may_resume and not evaluate:
        options = [option for option in options if not option.startswith("run.resume_ckpt_path=")]
        options.append("run.resume_ckpt_path=auto")
    command = command_text(cfg_path=args.cfg_path, options=options)
    return f"{'resume' if may_resume else 'start again'} with: {command}"


def _closing_lines(args: CommandLine, cfg: Config, output_dir: Path, started: float) -> list[str]:
    """Return where checkpoint, metrics and page are, and which command comes next."""
    run, checkpoint = cfg.run_cfg, output_dir / BEST
    if not run.evaluate and not checkpoint.is_file():
        checkpoint = max(resumable(output_dir), key=lambda path: path.stat().st_mtime, default=checkpoint)
    written = [(f"reports of {split}", predictions_path(output_dir, split)) for split in run.test_splits]
    written += [("scores", output_dir / SCORES_FILE), ("page", output_dir / PAGE_FILE)]
    written += [("audit", output_dir / AUDIT_FILE), ("page", output_dir / AUDIT_PAGE)]
    if not run.evaluate:
        written.insert(0, ("metrics", output_dir / METRICS_FILE))
    files = [(what, path) for what, path in written if path.is_file() and path.stat().st_mtime >= started - 1]
    if not run.evaluate:
        files.insert(0, ("checkpoint", checkpoint))
    lines = [f"{what + ':':<12} {path}" for what, path in files]
    following = _next_command(args, cfg, checkpoint)
    return [*lines, f"{'next:':<12} {following}"] if following else lines


def _next_command(args: CommandLine, cfg: Config, checkpoint: Path) -> str | None:
    """Return the command that ``run.next`` names, else one that uses what this run has made."""
    run, options = cfg.run_cfg, list(args.options or [])
    if run.next is not None:
        verb, path = run.next.split(maxsplit=1)
        return command_text(verb=verb, cfg_path=path, options=[])
    splits = run.test_splits or run.valid_splits
    if not run.evaluate and splits:
        options += [f"run.resume_ckpt_path={checkpoint}", f"run.test_splits=[{','.join(splits)}]"]
        return command_text(verb="evaluate", cfg_path=args.cfg_path, options=options)
    if hasattr(registry.get_model_class(cfg.arch), "embed_prompt"):
        weights = [] if run.evaluate else [f"model.ckpt={checkpoint}"]
        options = [option for option in options if option.startswith("model.")] + weights
        return command_text(verb="demo", cfg_path=args.cfg_path, options=options)
    return None


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


def _run(cfg: Config, output_dir: Path, started: float, audit: bool) -> dict[str, dict[str, Any]]:
    setup_logger(output_dir)
    if is_main_process():
        remove_run_record(output_dir)
        logger.debug("configuration: %s", json.dumps(cfg.to_dict(), indent=2, ensure_ascii=False))
    # The same in every process, so that all begin with the same weights.
    seed_everything(cfg.run_cfg.seed)
    task = AuditTask(cfg) if audit else setup_task(cfg)
    datasets = _build_datasets(task, cfg)
    sharded = cfg.run_cfg.parallel.strategy == "fsdp" and not cfg.run_cfg.evaluate
    with weights_left_in_files() if sharded else nullcontext():
        model = task.build_model(cfg)
    runner_cls = registry.get_runner_class(cfg.run_cfg.runner, RunnerBase)
    metrics = runner_cls(cfg=cfg, job_id=now(), task=task, model=model, datasets=datasets).train()
    if not is_main_process():
        return metrics
    return task.after_run(metrics, datasets, output_dir=output_dir, elapsed=lambda: time.time() - started)


def _build_datasets(task: BaseTask, cfg: Config) -> dict[str, Splits]:
    """Build the data sets; look for the model's files first, so that one start tells all that is missing.

    Raises:
        MissingFileError: with a paragraph for each file or folder.
    """
    datasets: dict[str, Splits] = {}
    model_class = registry.get_model_class(cfg.arch, BaseModel)
    require_all(
        [lambda: model_class.check_files(cfg.model_cfg), lambda: datasets.update(task.build_datasets(cfg))]
    )
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
