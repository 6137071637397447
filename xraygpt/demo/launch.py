"""From a command line to a page served on this machine."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Protocol

from xraygpt.common.config import CommandLine, Config, merge_files
from xraygpt.common.errors import ConfigError
from xraygpt.common.logger import setup_logger
from xraygpt.common.paths import PACKAGE_PREFIX
from xraygpt.common.precision import resolve_device
from xraygpt.common.registry import registry
from xraygpt.conversation.chat import Chat
from xraygpt.conversation.messages import IMAGE_MARK
from xraygpt.demo.examples import make_examples
from xraygpt.demo.page import Page, build_page, serve
from xraygpt.processors import Blip2ImageTrainProcessor, load_processor
from xraygpt.processors.base_processor import BaseProcessor

TINY_MODEL = (
    "This is the tiny model that comes with the package: it was trained on **synthetic radiographs** only "
    "and on single requests for a report. It cannot read real radiographs, and hardly answers questions."
)

logger = logging.getLogger(__name__)


class DemoCommandLine(CommandLine, Protocol):
    """The parsed command line of demo.py."""

    device: str | None
    server_port: int


def launch(args: DemoCommandLine) -> None:
    """Serve the demo that `args` describe until it is interrupted.

    Raises:
        XrayGPTError: anything that the user can mend.
    """
    setup_logger()
    serve(make_page(args), args.server_port)


def make_page(args: DemoCommandLine) -> Any:
    """Build the model and the page (a `gradio.Blocks`) around it."""
    cfg = Config(args)
    device = resolve_device(args.device or cfg.run_cfg.device)
    arch = cfg.to_dict()["model"]["arch"]
    model_class = registry.get_model_class(arch)
    if not hasattr(model_class, "embed_prompt"):
        raise ConfigError(f"{args.cfg_path}: model.arch: one cannot chat with {arch}; use mini_gpt4.")
    processor = vis_processor(args, cfg)
    model = model_class.from_config(cfg.model_cfg, device=device).to(device).eval()
    page = Page(
        chat=Chat(model, processor),
        generation=cfg.run_cfg.generate,
        examples=make_examples(),
        first_question=first_question(model.prompt_list, model.prompt_template),
        about=TINY_MODEL if cfg.model_cfg.llama_model.startswith(PACKAGE_PREFIX) else "",
    )
    return build_page(page)


def vis_processor(args: CommandLine, cfg: Config) -> BaseProcessor:
    """The image processor of the demo.

    That of a data set in the user's file, if there is one: its ``eval`` node, else its ``train`` node, which
    is where the reference's demo looks. Otherwise, and where that node crops at random, the model's own
    ``preprocess.vis_processor.eval``, as in evaluation.
    """
    wanted = merge_files([args.cfg_path], args.options)
    for name, section in (wanted.get("datasets") or {}).items():
        nodes = (section or {}).get("vis_processor") or {}
        split = "eval" if "eval" in nodes else "train"
        if split in nodes:
            processor = _build(cfg.datasets_cfg[name].vis_processor[split])
            if not isinstance(processor, Blip2ImageTrainProcessor):
                return processor
            logger.info("datasets.%s.vis_processor.%s crops at random: not used here", name, split)
    node = cfg.preprocess_cfg.get("vis_processor", {}).get("eval")
    if node is None:
        raise ConfigError(f"{args.cfg_path}: no image processor; set preprocess.vis_processor.eval.")
    return _build(node)


def first_question(prompt_list: list[str], template: str) -> str:
    """The first prompt of the training as a user would type it, without template and image."""
    if not prompt_list:
        return "Describe this chest x-ray in detail."
    before, _, after = (template or "{}").partition("{}")
    prompt = prompt_list[0].removeprefix(before).removesuffix(after)
    return prompt.replace(IMAGE_MARK, "").strip()


def _build(node: Mapping[str, Any]) -> BaseProcessor:
    return load_processor(node["name"], node)
