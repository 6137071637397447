"""``run.batch_size_eval: auto``: as many images at once as there is memory for."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.toy import ToyModel, write_config, write_dataset
from xraygpt.common.config import Config
from xraygpt.common.errors import ConfigError
from xraygpt.common.generation import GenerationConfig
from xraygpt.common.precision import Precision
from xraygpt.datasets.batch import Batch
from xraygpt.runners.launch import launch
from xraygpt.tasks import report_generation, setup_task
from xraygpt.tasks.base_task import EvalContext
from xraygpt.tasks.report_generation import CPU_BATCH, ReportGenerationTask, largest_that_fits

ONE: Batch = {"image": torch.zeros(1, 3, 4, 4), "caption": ["value 1"], "image_id": ["x"], "prompt": "one"}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    data = write_dataset(tmp_path / "data", train=3, val=4)
    settings = {"task": "report_generation", "evaluate": True, "test_splits": ["val"]}
    return write_config(tmp_path / "c.yaml", data, tmp_path / "out", batch_size_eval="auto", **settings)


@pytest.mark.parametrize(("room", "enough", "size"), [(5, 100, 4), (8, 100, 8), (100, 5, 8), (1, 9, 1)])
def test_sizes_are_doubled_until_memory_or_images_end(room: int, enough: int, size: int) -> None:
    tried = []

    def run(number: int) -> None:
        tried.append(number)
        if number > room:
            raise torch.OutOfMemoryError

    assert largest_that_fits(run, enough) == size
    assert tried == [1, 2, 4, 8, 16][: len(tried)]
    with pytest.raises(torch.OutOfMemoryError):
        largest_that_fits(lambda number: run(room + number), enough)


def test_reports_of_full_length_are_tried_on_a_gpu(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_generation, "to_device", lambda batch, device: batch)
    options = ["run.generate.max_new_tokens=7"]
    task = ReportGenerationTask(Config(Namespace(cfg_path=str(config), options=options)))
    model: Any = ToyModel()
    model.end_sym = "###"

    def generate(samples: Any, generation: GenerationConfig) -> None:
        assert (samples["prompt"], model.end_sym) == ("one", "")  # no stop string ends a report
        assert len(samples["image"]) == len(samples["caption"]) == len(samples["image_id"])
        assert generation.min_length == generation.max_new_tokens == 7
        if len(samples["image"]) > 4:
            raise torch.OutOfMemoryError

    monkeypatch.setattr(model, "generate_detailed", generate)
    context = EvalContext(torch.device("cuda"), Precision(torch.float32, "cpu"), 0, config.parent)
    assert task.largest_eval_batch(model, ONE, 100, context=context) == 4
    assert (model.end_sym, model.training) == ("###", False)


def test_on_the_cpu_it_is_a_stated_number(config: Path) -> None:
    launch(Namespace(cfg_path=str(config), options=[]))
    out = config.parent / "out"
    (made,) = json.loads((out / "generation_val.json").read_text())["datasets"]
    assert made["settings"]["batch_size"] == CPU_BATCH
    assert f"run.batch_size_eval: auto is {CPU_BATCH}" in (out / "log.txt").read_text()


@pytest.mark.parametrize("task", ["image_text_pretrain", "retrieval"])
def test_tasks_that_write_no_reports_refuse_it(tmp_path: Path, task: str) -> None:
    cfg = write_config(tmp_path / "c.yaml", tmp_path, tmp_path, task=task, batch_size_eval="auto")
    config = Config(Namespace(cfg_path=str(cfg), options=[]))
    with pytest.raises(ConfigError, match=f"auto is for tasks that generate .* for run.task {task}"):
        setup_task(config)
