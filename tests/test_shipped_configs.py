"""Every shipped YAML is valid and opens with its command; the reference's own files load unchanged."""

from __future__ import annotations

import argparse
import itertools
from dataclasses import is_dataclass
from pathlib import Path

import pytest

from xraygpt.common.config import Config, default_layer
from xraygpt.common.paths import package_root
from xraygpt.common.registry import registry

ROOT = Path(__file__).parents[1]
USER_FILES = sorted([*ROOT.glob("train_configs/**/*.yaml"), *ROOT.glob("eval_configs/**/*.yaml")])
PROGRAMS = {"train_configs": ("train.py",), "eval_configs": ("evaluate.py", "demo.py")}

# The keys and values that the released training configurations set, in the order of their files.
RELEASED_MODEL = {
    "arch": "mini_gpt4",
    "model_type": "pretrain_vicuna",
    "freeze_vit": "True",
    "freeze_qformer": "True",
}
RELEASED_RUN = """
  task: image_text_pretrain
  lr_sched: "linear_warmup_cosine_lr"
  init_lr: {init_lr}
  min_lr: {min_lr}
  warmup_lr: 1e-6
  weight_decay: 0.05
  max_epoch: {max_epoch}
  iters_per_epoch: {iters}
  batch_size_train: {batch}
  batch_size_eval: {batch}
  num_workers: 4
  warmup_steps: {warmup}
  seed: 42
  output_dir: "{output}"
  amp: True
  resume_ckpt_path: null
  evaluate: False
  train_splits: ["train"]
  device: "cuda"
  world_size: 1
  dist_url: "env://"
  distributed: True
"""
PROCESSORS = """
    vis_processor: {train: {name: "blip2_image_train", image_size: 224}}
    text_processor: {train: {name: "blip_caption"}}
"""
CHAT = """
  max_txt_len: 160
  end_sym: "###"
  low_resource: True
  prompt_path: "prompts/alignment.txt"
  prompt_template: '###Patient: {} ###Doctor: '
  ckpt: './somewhere/checkpoint.pth'
"""


def load(path: str | Path, *options: str) -> Config:
    return Config(argparse.Namespace(cfg_path=str(path), options=list(options)))


def released(
    tmp_path: Path, dataset: str, model: str = "", run: str = "\n  task: image_text_pretrain\n"
) -> Config:
    head = "".join(f"  {key}: {value}\n" for key, value in RELEASED_MODEL.items())
    file = tmp_path / "released.yaml"
    file.write_text(f"model:\n{head}{model}\ndatasets:\n  {dataset}:\n{PROCESSORS}\nrun:{run}")
    return load(file)


@pytest.mark.parametrize("path", USER_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_shipped_file_is_valid(path: Path) -> None:
    cfg = load(path)
    assert is_dataclass(cfg.run_cfg)
    assert is_dataclass(cfg.model_cfg)


@pytest.mark.parametrize("path", USER_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_shipped_file_opens_with_its_command(path: Path) -> None:
    relative = path.relative_to(ROOT)
    lines = path.read_text(encoding="utf-8").splitlines()
    opening = [line.lstrip("# ") for line in itertools.takewhile(lambda line: line.startswith("#"), lines)]
    sharded = "parallel: {strategy: fsdp}" in path.read_text(encoding="utf-8")
    start = "torchrun --nproc-per-node 4" if sharded else "python"
    commands = {f"{start} {program} --cfg-path {relative}" for program in PROGRAMS[relative.parts[0]]}
    assert commands & set(opening)


def test_every_default_file_that_a_class_names_is_there() -> None:
    models = [registry.get_model_class(name).PRETRAINED_MODEL_CONFIG_DICT for name in registry.list_models()]
    builders = [registry.get_builder_class(name).DATASET_CONFIG_DICT for name in registry.list_datasets()]
    named = {relative for table in (*models, *builders) for relative in table.values()}
    for relative in named:
        assert default_layer(relative).values
    shipped = {str(file.relative_to(package_root())) for file in (package_root() / "configs").rglob("*.yaml")}
    assert shipped == named


def test_released_stage_1(tmp_path: Path) -> None:
    run = RELEASED_RUN.format(
        init_lr="1e-4", min_lr="8e-5", max_epoch=4, iters=5000, batch=3, warmup=500, output="output/mimic"
    )
    cfg = released(tmp_path, "mimic", run=run)
    ours = load(
        ROOT / "train_configs/xraygpt_mimic_pretrain.yaml",
        "run.device=cuda",
        "run.output_dir=output/mimic",
        "run.next=null",
        "run.checkpoint_steps=null",
    )
    assert cfg.run_cfg == ours.run_cfg
    assert cfg.model_cfg.max_txt_len == ours.model_cfg.max_txt_len == 32
    assert cfg.model_cfg.end_sym == ours.model_cfg.end_sym == "\n"
    assert not cfg.model_cfg.prompt_path
    assert not ours.model_cfg.prompt_path


def test_released_stage_2(tmp_path: Path) -> None:
    run = RELEASED_RUN.format(
        init_lr="3e-5", min_lr="1e-5", max_epoch=1, iters=2501, batch=1, warmup=200, output="output/openi"
    )
    cfg = released(tmp_path, "openi", CHAT.replace("  low_resource: True\n", ""), run)
    ours = load(
        ROOT / "train_configs/xraygpt_openi_finetune.yaml",
        "run.device=cuda",
        "run.output_dir=output/openi",
        "run.next=null",
        "run.checkpoint_steps=null",
        "model.ckpt=./somewhere/checkpoint.pth",
        "run.group_by_length=false",
    )
    assert cfg.run_cfg == ours.run_cfg
    assert cfg.model_cfg == ours.model_cfg


def test_released_evaluation(tmp_path: Path) -> None:
    cfg = released(tmp_path, "openi", CHAT)
    assert cfg.model_cfg.low_resource is True
    assert cfg.model_cfg.prompt_template == "###Patient: {} ###Doctor: "
    assert cfg.datasets_cfg["openi"].vis_processor["train"]["image_size"] == 224
