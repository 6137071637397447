"""From the command line to the page: which processor, which question, which errors."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("gradio", reason="the demo needs gradio: make install")

from xraygpt.common.code_version import install_hint
from xraygpt.common.config import Config
from xraygpt.common.errors import ConfigError, MissingFileError
from xraygpt.demo.launch import first_question, make_page, vis_processor
from xraygpt.processors import Blip2ImageEvalProcessor

ROOT = Path(__file__).parents[2]
MODEL = "model: {arch: mini_gpt4, model_type: tiny}\n"
OPENI = "datasets: {{openi: {{vis_processor: {{{nodes}}}}}}}\n"


def arguments(path: Path, *options: str) -> argparse.Namespace:
    return argparse.Namespace(cfg_path=str(path), options=list(options), device="cpu", server_port=0)


def side_of_input(tmp_path: Path, text: str) -> int:
    file = tmp_path / "demo.yaml"
    file.write_text(text)
    args = arguments(file)
    processor = vis_processor(args, Config(args))
    assert isinstance(processor, Blip2ImageEvalProcessor)
    return int(processor.transform.transforms[0].size[0])


def test_the_processor(tmp_path: Path) -> None:
    train, other = (
        "train: {name: blip2_image_eval, image_size: 32}",
        "eval: {name: blip2_image_eval, image_size: 16}",
    )
    crops = "train: {name: blip2_image_train, image_size: 32}"
    assert side_of_input(tmp_path, MODEL) == 64
    assert side_of_input(tmp_path, MODEL + "datasets: {openi: }\n") == 64
    assert side_of_input(tmp_path, MODEL + OPENI.format(nodes=train)) == 32
    assert side_of_input(tmp_path, MODEL + OPENI.format(nodes=f"{train}, {other}")) == 16
    assert side_of_input(tmp_path, MODEL + OPENI.format(nodes=crops)) == 64


def test_the_first_question_is_a_prompt_of_the_training() -> None:
    template = "###Patient: {} ###Doctor: "
    prompts = [template.format("<Img><ImageHere></Img> What is seen?")]
    assert first_question(prompts, template) == "What is seen?"
    assert first_question(["<Img><ImageHere></Img> What?"], "") == "What?"
    assert first_question([], template) == "Describe this chest x-ray in detail."


def test_the_default_file_asks_as_the_projection_was_trained() -> None:
    cfg = Config(arguments(ROOT / "eval_configs" / "demo_tiny.yaml"))
    assert cfg.model_cfg.prompt in (ROOT / "prompts" / "alignment.txt").read_text().splitlines()
    assert cfg.model_cfg.prompt_template == "###Patient: {} ###Doctor: "
    assert cfg.model_cfg.end_sym == "###"


def test_errors_are_for_people(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="no_such.yaml"):
        make_page(arguments(tmp_path / "no_such.yaml"))
    file = tmp_path / "llm.yaml"
    file.write_text("model: {arch: vit_classifier}\n")
    with pytest.raises(ConfigError, match="cannot chat with vit_classifier"):
        make_page(arguments(file))


def test_without_gradio_the_extra_is_named() -> None:
    code = (
        "import runpy, sys\n"
        "sys.modules['gradio'] = None\n"
        "sys.argv = ['demo.py']\n"
        "runpy.run_path('demo.py', run_name='__main__')\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 2
    assert result.stderr == f"error: the demo needs gradio: {install_hint('demo')}\n"


@pytest.mark.parametrize("port", ["0", "65536", "-1", "http"])
def test_ports_that_do_not_exist(port: str) -> None:
    result = subprocess.run(
        [sys.executable, "demo.py", f"--server-port={port}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    assert f"from 1 to 65535, not '{port}'" in result.stderr
