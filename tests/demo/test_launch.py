"""From the command line to the page: which processor, which question, which errors."""

from __future__ import annotations

import argparse
import errno
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("gradio", reason="the demo needs gradio: make install")

import gradio as gr

from xraygpt.common.command_line import guarded
from xraygpt.common.config import Config
from xraygpt.common.errors import ConfigError, MissingFileError
from xraygpt.common.paths import install_hint
from xraygpt.demo import launch as demo
from xraygpt.demo.launch import first_question, make_page, serve, vis_processor
from xraygpt.demo.page import UPLOADS
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


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of temporary files; a launched demo logs nothing."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(demo, "setup_logger", lambda: None)
    monkeypatch.setattr(demo, "make_page", lambda args: None)
    return tmp_path


def upload(text: str = "a patient") -> Path:
    """Leave a file as gradio does."""
    file = Path(os.environ[UPLOADS], "1234", "DOE_JANE.png")
    file.parent.mkdir(parents=True)
    file.write_text(text)
    return file


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_ends_the_demo_and_nothing_is_kept(
    name: str, temporary: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def served(*_: Any) -> None:
        folder = upload().parents[1]
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        os.kill(os.getpid(), number)
        time.sleep(9)

    monkeypatch.setattr(demo, "serve", served)
    number = getattr(signal, name)
    usual = signal.default_int_handler if name == "SIGINT" else signal.SIG_DFL
    before = signal.signal(number, usual)  # the tests may run in the background, where some are ignored
    try:
        assert guarded(lambda: demo.launch(arguments(temporary)) or 0) == 128 + number
    finally:
        signal.signal(number, before)
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert list(temporary.iterdir()) == []


def test_folders_of_killed_demos_are_removed_and_those_of_running_ones_are_not(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed, other = temporary / f"{demo.FOLDER_PREFIX}1", temporary / "someone_else"
    for folder in (killed, other):
        folder.mkdir()
        (folder / "DOE_JANE.png").touch()
    (temporary / f"{demo.FOLDER_PREFIX}link").symlink_to(other)
    running: list[Path] = []

    def served(*_: Any) -> None:
        running.append(upload())
        if len(running) == 1:
            demo.launch(arguments(temporary))  # a second demo starts and ends
            assert running[0].exists()
            assert not running[1].exists()
            os.environ[UPLOADS] = str(running[0].parents[1])

    monkeypatch.setattr(demo, "serve", served)
    demo.launch(arguments(temporary))
    assert not killed.exists()
    assert (other / "DOE_JANE.png").exists()
    assert not running[0].exists()


@pytest.mark.parametrize("file", [None, "/tmp/x"])
def test_a_disk_that_cannot_be_written_is_one_line(
    file: str | None, temporary: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", *([file] if file else []))

    monkeypatch.setattr(demo, "serve", full)
    assert guarded(lambda: demo.launch(arguments(temporary)) or 0) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {file or temporary}")
    assert error.endswith(": No space left on device\n")
    assert list(temporary.iterdir()) == []


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def test_a_taken_port_is_an_error() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with gr.Blocks() as blocks, pytest.raises(ConfigError, match=f"port {port} is not free"):
            serve(blocks, port)


def test_the_page_is_served_on_this_machine_only(monkeypatch: pytest.MonkeyPatch) -> None:
    served: dict[str, Any] = {}
    monkeypatch.setattr(demo, "wait", lambda: None)
    serve(SimpleNamespace(launch=served.update, close=lambda verbose: None), port=7860)
    assert (served["server_name"], served["share"]) == ("127.0.0.1", False)


def test_foreign_pages_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    own, codes = f"127.0.0.1:{port}", {}
    asked: list[dict[str, str]] = [
        {},
        {"Host": f"localhost:{port}"},
        {"Host": f"[::1]:{port}", "Origin": f"http://[::1]:{port}"},
        {"Origin": f"http://{own}"},
        {"Host": f"evil.example:{port}"},
        {"Host": "127.0.0.1"},
        {"Origin": "http://evil.example"},
        {"Origin": f"https://{own}"},
        {"Origin": "null"},
    ]

    def ask() -> None:
        for number, headers in enumerate(asked):
            try:
                with urllib.request.urlopen(
                    urllib.request.Request(f"http://{own}/", headers=headers)
                ) as page:
                    codes[number] = page.status
            except urllib.error.HTTPError as error:
                codes[number] = error.code

    monkeypatch.setattr(demo, "wait", ask)
    with gr.Blocks(analytics_enabled=False) as blocks:
        serve(blocks, port)
    assert list(codes.values()) == [200] * 4 + [403] * 5
