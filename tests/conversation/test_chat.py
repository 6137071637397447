"""Chat, on a model that only records what it is asked."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from tests.conversation.recorder import Recorder
from xraygpt.common.errors import DataError
from xraygpt.common.generation import GenerationConfig
from xraygpt.conversation.conversation import CONV_VISION, Chat


def _processor(image: Image.Image) -> Tensor:
    return torch.full((3, 2, 2), float(image.size[0]))


def test_a_question_joins_its_image_and_the_answer_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "x.png"
    Image.new("L", (7, 5)).save(file)
    model = Recorder("Doctor: ChatDoctor sees clear lungs.")
    chat, conv, images = Chat(model, _processor), CONV_VISION.copy(), list[Tensor]()
    assert chat.upload_img(file, conv, images) == "Received."
    assert images[0].flatten()[0] == 7
    chat.ask("What is it?", conv)
    text, ids = chat.answer(conv, images)
    assert (text, ids) == ("XrayGPT sees clear lungs.", [5, 6])
    assert conv.messages == [["Patient", "<Img><ImageHere></Img> What is it?"], ["Doctor", text]]
    assert model.prompts[-1].endswith("What is it?###Doctor:")
    assert model.settings["stops"] == ["###"]


def test_temperature_and_beams_do_what_they_say() -> None:
    model = Recorder()
    chat = Chat(model, _processor)
    wanted = {(1, 0.0): (False, 1.0), (1, 0.7): (True, 0.7), (4, 0.7): (False, 1.0)}
    for (beams, temperature), (sample, used) in wanted.items():
        conv = chat.new_conversation()
        chat.ask("Hello", conv)
        chat.answer(conv, [], num_beams=beams, temperature=temperature)
        assert (model.settings["do_sample"], model.settings["temperature"]) == (sample, used)
        assert model.settings["num_beams"] == beams


def test_streaming_stores_the_answer_at_the_end() -> None:
    chat = Chat(Recorder(), _processor)
    conv = chat.new_conversation()
    chat.ask("Hello", conv)
    parts = []
    for text in chat.stream_answer(conv, [], GenerationConfig()):
        assert len(conv.messages) == 1
        parts.append(text)
    assert parts == ["Clear", "Clear lungs."]
    assert conv.messages[-1] == ["Doctor", "Clear lungs."]


def test_a_long_chat_forgets_its_oldest_turns_but_never_the_image() -> None:
    model = Recorder()
    chat = Chat(model, _processor)
    conv, images = chat.new_conversation(), list[Tensor]()
    chat.upload_img(torch.zeros(3, 2, 2), conv, images)
    for number in range(6):
        chat.ask(f"question {number} " + "word " * 10, conv)
        chat.answer(conv, images, max_new_tokens=10, max_length=50)
    used = model.prompts[-1]
    assert len(used.split()) <= 40
    assert "<ImageHere>" in used
    assert "question 5" in used
    assert "question 0" not in used
    assert len(conv.messages) == 12


def test_a_question_that_does_not_fit_is_an_error_and_a_tight_one_shortens_the_answer() -> None:
    model = Recorder()
    chat = Chat(model, _processor)
    conv = chat.new_conversation()
    chat.ask("word " * 30, conv)
    chat.answer(conv, [], max_new_tokens=100, max_length=40)
    assert model.settings["max_new_tokens"] == 40 - len(model.prompts[-1].split())
    chat.ask("word " * 60, conv)
    with pytest.raises(DataError, match="max_length"):
        chat.answer(conv, [], max_length=40)


def test_a_question_far_beyond_the_context_is_refused_unread() -> None:
    model = Recorder()
    chat = Chat(model, _processor)
    conv = chat.new_conversation()
    with pytest.raises(DataError, match="2,000,000 characters; shorten it to 16,000 at most"):
        chat.ask("word " * 400_000, conv)
    with pytest.raises(DataError, match="shorten it to 320 at most"):
        chat.ask("a" * 321, conv, max_length=20)
    assert (conv.messages, model.prompts) == ([], [])
    chat.ask("a" * 320, conv, max_length=20)


@pytest.mark.parametrize("image", ["path", "text", "pil"])
def test_an_image_is_turned_upright_whatever_way_it_comes(tmp_path: Path, image: str) -> None:
    file, exif = tmp_path / "x.png", Image.Exif()
    exif[0x0112] = 6
    Image.new("L", (7, 5)).save(file, exif=exif)
    given = {"path": file, "text": str(file), "pil": Image.open(file)}[image]
    images = list[Tensor]()
    chat = Chat(Recorder(), _processor)
    chat.upload_img(given, chat.new_conversation(), images)
    assert images[0].flatten()[0] == 5


def test_the_mark_of_an_image_is_neither_asked_nor_answered() -> None:
    chat = Chat(Recorder("Clear <ImageHere>lungs."), _processor)
    conv = chat.new_conversation()
    with pytest.raises(DataError, match="must not hold <ImageHere>"):
        chat.ask("What is in <ImageHere>?", conv)
    assert conv.messages == []
    chat.ask("Hello", conv)
    assert chat.answer(conv, [])[0] == "Clear lungs."
    chat.ask("And now?", conv)
    chat.answer(conv, [])
