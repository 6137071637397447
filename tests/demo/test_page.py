"""The page, through gradio's own client: what a browser would send and get."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

pytest.importorskip("gradio", reason="the demo needs gradio: make install")

import gradio_client

from tests.demo.talker import Talker
from xraygpt.common.errors import ConfigError
from xraygpt.conversation.chat import Chat
from xraygpt.demo.examples import make_examples
from xraygpt.demo.page import NOTHING_SAID, READY, START, Page, build_page, serve
from xraygpt.models.generation import GenerationConfig


def brightness(image: Image.Image) -> Tensor:
    return torch.full((3, 2, 2), float(max(image.convert("L").getextrema())))


@pytest.fixture(scope="module")
def page() -> Page:
    return Page(
        chat=Chat(Talker(), brightness),
        generation=GenerationConfig(max_new_tokens=20),
        examples=make_examples(),
        first_question="What is it?",
        about="This model only knows brightness.",
    )


@pytest.fixture(scope="module")
def address(page: Page) -> Iterator[str]:
    blocks = build_page(page)
    _, url, _ = blocks.launch(
        server_name="127.0.0.1", share=False, prevent_thread_lock=True, quiet=True, ssr_mode=False
    )
    yield url
    blocks.close()


def said(messages: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(message["role"], message["content"][0]["text"]) for message in messages]


def test_upload_ask_again_reset_in_two_tabs(address: str, tmp_path: Path) -> None:
    clients = []
    for value in (30, 90):
        file = tmp_path / f"{value}.png"
        Image.new("L", (13, 7), value).save(file)
        client = gradio_client.Client(address, verbose=False)
        shown, messages, status, question = client.predict(
            gradio_client.handle_file(file), api_name="/upload"
        )
        assert shown["visible"]
        assert (messages, status, question) == ([], READY, "What is it?")
        clients.append(client)
    answers = [said(client.predict("What is it?", 1, 0.0, api_name="/answer")[0]) for client in clients]
    assert [answer[-1] for answer in answers] == [
        ("assistant", "Brightness 30"),
        ("assistant", "Brightness 90"),
    ]
    steps = list(clients[0].submit("Again?", 1, 0.0, api_name="/answer"))
    assert [said(step[0])[-1] for step in steps][:3] == [
        ("user", "Again?"),
        ("assistant", "Brightness"),
        ("assistant", "Brightness 30"),
    ]
    assert len(said(steps[-1][0])) == 4
    assert clients[0].predict(api_name="/reset")[1:] == ([], START, "What is it?")
    messages, status, question = clients[0].predict("And now?", 1, 0.0, api_name="/answer")
    assert (messages, question) == ([], "And now?")
    assert "Choose a radiograph first" in status
    assert len(said(clients[1].predict("Again?", 1, 0.0, api_name="/answer")[0])) == 4


def test_a_damaged_file_is_a_message_and_ends_the_conversation(page: Page, tmp_path: Path) -> None:
    file = tmp_path / "chest.png"
    file.write_bytes(b"no image")
    session, _, messages, status, _ = page.upload(None, str(file))
    assert session is None
    assert messages == []
    assert status.startswith("**Problem:** chest.png cannot be read as an image.")


def test_an_example_is_sent_to_the_model(page: Page) -> None:
    class Click:
        index = 2

    session, shown, *_ = page.choose_example(None, Click())
    assert shown.visible
    assert float(session.images[0].mean()) == brightness(page.examples[2].image).mean()


@pytest.mark.parametrize("how", ["reset", "show"])
def test_an_answer_that_is_being_written_gives_way(page: Page, how: str) -> None:
    session = page.show(None, page.examples[0].image)[0]
    answering = page.answer("What is it?", session, 1, 0.0)
    next(answering)
    after = page.reset(session) if how == "reset" else page.show(session, page.examples[1].image)
    assert after[0] is not session
    assert list(answering)[-1] == after[2:]


def test_an_empty_answer_is_said(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Talker, "complete_stream", lambda self, *_: iter([""]))
    session = page.show(None, page.examples[0].image)[0]
    *_, (messages, status, _) = page.answer("What is it?", session, 1, 0.0)
    assert [message["role"] for message in messages] == ["user"]
    assert status == NOTHING_SAID


def test_the_page_says_what_it_is(page: Page) -> None:
    texts = [
        component["props"]["value"]
        for component in build_page(page).get_config_file()["components"]
        if component["type"] == "markdown"
    ]
    notice = next(text for text in texts if "This model only knows brightness." in text)
    assert "not for clinical use" in notice
    assert any("synthetic" in text for text in texts)


def test_a_taken_port_is_an_error(page: Page) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} is not free"):
            serve(build_page(page), port)


def test_the_page_is_served_on_this_machine_only() -> None:
    served: dict[str, Any] = {}
    serve(SimpleNamespace(launch=served.update, block_thread=lambda: None), port=7860)
    assert (served["server_name"], served["share"]) == ("127.0.0.1", False)
