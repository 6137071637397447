"""The page, through gradio's own client: what a browser would send and get."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

pytest.importorskip("gradio", reason="the demo needs gradio: make install")

import gradio_client

from tests.demo.talker import Talker
from xraygpt.conversation.chat import Chat
from xraygpt.demo.examples import make_examples
from xraygpt.demo.page import NOTHING_SAID, READY, START, UPLOADS, Page, build_page
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
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where gradio keeps files."""
    return tmp_path_factory.mktemp("gradio")


@pytest.fixture(scope="module")
def address(page: Page, disk: Path) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(UPLOADS, str(disk))
        blocks = build_page(page)
        _, url, _ = blocks.launch(
            server_name="127.0.0.1", share=False, prevent_thread_lock=True, quiet=True, ssr_mode=False
        )
        yield url
        blocks.close()


def kept(disk: Path) -> set[bytes]:
    return {file.read_bytes() for file in disk.rglob("*") if file.is_file()} - {b""}


def said(messages: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(message["role"], message["content"][0]["text"]) for message in messages]


def test_upload_ask_again_reset_in_two_tabs(address: str, tmp_path: Path, disk: Path) -> None:
    clients = []
    before = kept(disk)  # the examples
    for value in (30, 90):
        file = tmp_path / f"{value}.png"
        Image.new("L", (13, 7), value).save(file)
        client = gradio_client.Client(address, verbose=False)
        shown, messages, status, question = client.predict(
            gradio_client.handle_file(file), api_name="/upload"
        )
        assert shown["visible"]
        assert shown["value"].startswith('<img src="data:image/')
        assert kept(disk) == before
        assert not [path for path in disk.rglob("*") if file.name in path.name]
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
    assert status.startswith("**Problem:** chest.png: is none of DICOM, JPEG")
    assert file.exists()  # it is no upload, so it is not the page's to remove


def test_a_long_question_is_refused_while_the_model_is_busy(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = threading.Event()

    def slow(*_: Any) -> Iterator[str]:
        refused.wait(20)
        yield "At last"

    monkeypatch.setattr(Talker, "complete_stream", slow)
    busy, hasty = (gradio_client.Client(address, verbose=False) for _ in range(2))
    Image.new("L", (9, 9)).save(tmp_path / "a.png")
    busy.predict(gradio_client.handle_file(tmp_path / "a.png"), api_name="/upload")
    answering = busy.submit("What is it?", 1, 0.0, api_name="/answer")
    with pytest.raises(Exception, match="characters; shorten it"):
        hasty.predict("word " * 400_000, 1, 0.0, api_name="/answer")
    assert not answering.done()
    refused.set()
    assert said(answering.result()[0])[-1] == ("assistant", "At last")


def test_an_answer_that_fails_is_told_and_gives_the_question_back(
    page: Page, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any) -> Iterator[str]:
        yield "The heart"
        raise RuntimeError("out of memory at /home/someone")

    session = page.show(None, page.examples[0].image)[0]
    with monkeypatch.context() as patch:
        patch.setattr(Talker, "complete_stream", broken)
        *_, (messages, status, question) = page.answer("What is it?", session, 1, 0.0)
    assert (messages, question) == ([], "What is it?")
    assert status.startswith("**Problem:** this failed (RuntimeError)")
    assert "someone" not in status
    assert "out of memory at /home/someone" in caplog.text
    *_, (messages, status, _) = page.answer("What is it?", session, 1, 0.0)
    assert (len(messages), status) == (2, "")


def test_an_upload_that_the_model_fails_on_leaves_an_empty_page(
    page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("out of memory")

    Image.new("L", (9, 9)).save(tmp_path / "a.png")
    monkeypatch.setattr(Talker, "encode_img", broken)
    session, _, messages, status, _ = page.upload(None, str(tmp_path / "a.png"))
    assert (session, messages) == (None, [])
    assert "RuntimeError" in status


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


def test_the_upload_names_dicom(page: Page) -> None:
    labels = [part["props"].get("label") or "" for part in build_page(page).get_config_file()["components"]]
    assert any("Upload" in label and "DICOM" in label for label in labels)
