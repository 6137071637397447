"""From a command line to a page that is served on this machine only and leaves nothing behind."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import gradio as gr
from gradio.exceptions import ServerFailedToStartError
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from xraygpt.common.command_line import STOPPING
from xraygpt.common.config import CommandLine, Config, merge_files
from xraygpt.common.errors import ConfigError
from xraygpt.common.logger import setup_logger
from xraygpt.common.paths import PACKAGE_PREFIX
from xraygpt.common.precision import resolve_device
from xraygpt.common.registry import registry
from xraygpt.conversation.chat import Chat
from xraygpt.conversation.messages import IMAGE_MARK
from xraygpt.demo.examples import make_examples
from xraygpt.demo.page import STYLE, UPLOADS, Page, build_page
from xraygpt.models.base_model import BaseModel
from xraygpt.models.vision_tower import preprocessing_for
from xraygpt.processors import Blip2ImageTrainProcessor, load_processor
from xraygpt.processors.base_processor import BaseProcessor

TINY_MODEL = (
    "This is the tiny model that comes with the package: it was trained on **synthetic radiographs** only "
    "and on single requests for a report. It cannot read real radiographs, and hardly answers questions."
)
HOST = "127.0.0.1"
LOCAL_NAMES = (HOST, "localhost", "[::1]")
UPLOAD_LIMIT = "100mb"
FOLDER_PREFIX = "xraygpt-demo-"

logger = logging.getLogger(__name__)


class DemoCommandLine(CommandLine, Protocol):
    """The parsed command line of demo.py."""

    device: str | None
    server_port: int


def launch(args: DemoCommandLine) -> None:
    """Serve the demo that `args` describe until it is interrupted; no uploaded image outlives it.

    Raises:
        XrayGPTError: anything that the user can fix.
        OSError: the folder for temporary files cannot be written.
    """
    setup_logger()
    with _private_folder():
        serve(make_page(args), args.server_port)


def make_page(args: DemoCommandLine) -> Any:
    """Build the model and the page (a `gradio.Blocks`) around it."""
    cfg = Config(args)
    device = resolve_device(args.device or cfg.run_cfg.device)
    model_class = registry.get_model_class(cfg.arch, BaseModel)
    if not hasattr(model_class, "embed_prompt"):
        raise ConfigError(f"{args.cfg_path}: model.arch: one cannot chat with {cfg.arch}; use mini_gpt4.")
    processor = vis_processor(args, cfg)
    model: Any = model_class.from_config(cfg.model_cfg, device=device).to(device).eval()
    page = Page(
        chat=Chat(model, processor),
        generation=cfg.run_cfg.generate,
        examples=make_examples(),
        first_question=first_question(model.prompt_list, model.prompt_template),
        about=TINY_MODEL if cfg.model_cfg.llama_model.startswith(PACKAGE_PREFIX) else "",
    )
    return build_page(page)


def vis_processor(args: CommandLine, cfg: Config) -> BaseProcessor:
    """Return the image processor of the demo.

    That of a data set in the user's file, if there is one: its ``eval`` node, else its ``train`` node, which
    is where the reference's demo looks. Otherwise, and where that node crops at random, the model's own
    ``preprocess.vis_processor.eval``, as in evaluation.
    """
    wanted = merge_files([args.cfg_path], args.options)
    preprocessing = preprocessing_for(cfg.model_cfg)
    for name, section in (wanted.get("datasets") or {}).items():
        nodes = (section or {}).get("vis_processor") or {}
        split = "eval" if "eval" in nodes else "train"
        if split in nodes:
            node = cfg.datasets_cfg[name].vis_processor[split]
            processor = load_processor(node["name"], node, preprocessing)
            if not isinstance(processor, Blip2ImageTrainProcessor):
                return processor
            logger.info("datasets.%s.vis_processor.%s crops at random: not used here", name, split)
    node = cfg.preprocess_cfg.get("vis_processor", {}).get("eval")
    if node is None:
        raise ConfigError(f"{args.cfg_path}: no image processor; set preprocess.vis_processor.eval.")
    return load_processor(node["name"], node, preprocessing)


def first_question(prompt_list: list[str], template: str) -> str:
    """Return the first prompt of the training as a user would type it, without template and image."""
    if not prompt_list:
        return "Describe this chest x-ray in detail."
    before, _, after = (template or "{}").partition("{}")
    prompt = prompt_list[0].removeprefix(before).removesuffix(after)
    return prompt.replace(IMAGE_MARK, "").strip()


def wait() -> None:
    """Do nothing until a signal ends it; gradio's own way would end as if all was well."""
    threading.Event().wait()


def serve(blocks: Any, port: int) -> None:
    """Serve the page on this machine only, until interrupted.

    Raises:
        ConfigError: the port is taken.
    """
    try:
        blocks.launch(
            server_name=HOST,
            server_port=port,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            ssr_mode=False,
            # Fonts of the system: the page fetches nothing from elsewhere.
            theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]).set(
                block_info_text_color="*neutral_600", block_info_text_color_dark="*neutral_300"
            ),
            css=STYLE,
            footer_links=[],
            max_file_size=UPLOAD_LIMIT,
            app_kwargs={"middleware": [Middleware(LocalOnly, port=port)]},
        )
    except (OSError, ServerFailedToStartError) as error:
        if getattr(error, "errno", None) is not None:  # gradio's own about the port have none
            raise
        raise ConfigError(f"--server-port: port {port} is not free") from error
    logger.info("the demo is at http://%s:%d ; end it with Ctrl-C", HOST, port)
    try:
        wait()
    finally:
        blocks.close(verbose=False)


class LocalOnly:
    """Refuses requests that come from another page than the demo's own.

    A foreign page can send them from the user's browser, and even read the answers if it lets its own name
    resolve to 127.0.0.1 (DNS rebinding); the headers Host and Origin then hold that name.
    """

    def __init__(self, app: ASGIApp, port: int) -> None:
        self.app = app
        self.hosts = {f"{name}:{port}" for name in LOCAL_NAMES} | set(LOCAL_NAMES if port == 80 else ())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            headers = Headers(scope=scope)
            origins = [origin.removeprefix("http://") for origin in headers.getlist("origin")]
            if not {headers.get("host", ""), *origins} <= self.hosts:
                refusal = PlainTextResponse("This demo answers its own page only.", status_code=403)
                await refusal(scope, receive, send)
                return
        await self.app(scope, receive, send)


@contextmanager
def _private_folder() -> Iterator[None]:
    """Give gradio a folder for its files that only this user can enter, and remove it with all in it.

    A demo holds a lock on its folder, so that one without belongs to a demo that was killed; such are
    removed first.
    """
    for folder in Path(tempfile.gettempdir()).glob(f"{FOLDER_PREFIX}*"):
        if (lock := _lock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)) is not None:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX))
        lock = _lock(folder, fcntl.LOCK_EX)
        if folder.exists():  # if not, another demo that was starting took it for an abandoned one
            break
    os.environ[UPLOADS] = str(folder)
    try:
        yield
    except OSError as error:
        # Pillow does not say which file it could not write.
        error.filename = error.filename or str(folder)
        raise
    finally:
        # A second Ctrl-C must not cut this short.
        handlers = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, *STOPPING)}
        shutil.rmtree(folder, ignore_errors=True)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        del os.environ[UPLOADS]
        if lock is not None:
            os.close(lock)


def _lock(folder: Path, how: int) -> int | None:
    """Lock a folder of this user's; return its descriptor, None if that cannot be."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    with suppress(OSError):
        if os.fstat(descriptor).st_uid == os.getuid():
            fcntl.flock(descriptor, how)
            return descriptor
    os.close(descriptor)
    return None
