"""One user's conversation, without a browser."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.demo.talker import Talker
from tests.pictures.dicom_files import chest, dicom
from xraygpt.common.errors import DataError
from xraygpt.conversation.chat import Chat
from xraygpt.demo.session import PREVIEW_SIDE, ask, begin, open_upload, preview
from xraygpt.models.generation import GenerationConfig

GREEDY = GenerationConfig(max_new_tokens=20)


@pytest.fixture
def chat() -> Chat:
    return Chat(Talker(), lambda image: torch.full((3, 2, 2), float(np.asarray(image).max())))


def grey(value: int) -> Image.Image:
    return Image.new("L", (5, 9), value)


def test_the_first_prompt_is_that_of_the_training_and_a_follow_up_goes_on(chat: Chat) -> None:
    session = begin(chat, grey(40))
    assert session.turns() == []
    steps = list(ask(chat, session, " What is it? ", GREEDY))
    question = ("Patient", "What is it?")
    assert steps == [
        [question],
        [question, ("Doctor", "Brightness")],
        [question, ("Doctor", "Brightness 40")],
    ]
    assert session.turns() == steps[-1]
    first = "###Patient: <Img><ImageHere></Img> What is it? ###Doctor: "
    assert chat.model.prompts[-1] == first
    list(ask(chat, session, "And now?", GREEDY))
    assert chat.model.prompts[-1] == first + "Brightness 40###Patient: And now? ###Doctor: "
    assert len(session.turns()) == 4


def test_two_users_do_not_mix(chat: Chat) -> None:
    one, two = begin(chat, grey(10)), begin(chat, grey(200))
    answering = ask(chat, one, "One?", GREEDY)
    next(answering)
    list(ask(chat, two, "Two?", GREEDY))
    list(answering)
    assert one.turns() == [("Patient", "One?"), ("Doctor", "Brightness 10")]
    assert two.turns() == [("Patient", "Two?"), ("Doctor", "Brightness 200")]


def test_an_ended_conversation_stops_the_answer_and_keeps_nothing_of_it(chat: Chat) -> None:
    session = begin(chat, grey(1))
    answering = ask(chat, session, "What is it?", GREEDY)
    assert len(next(answering)) == 1
    assert len(next(answering)) == 2
    session.ended = "Start again."
    assert list(answering) == []
    assert session.turns() == []


def test_what_cannot_be_asked(chat: Chat) -> None:
    with pytest.raises(DataError, match="radiograph first"):
        next(ask(chat, None, "What is it?", GREEDY))
    session = begin(chat, grey(1))
    with pytest.raises(DataError, match="Type a question"):
        next(ask(chat, session, "  ", GREEDY))
    with pytest.raises(DataError, match="must not hold <ImageHere>"):
        list(ask(chat, session, "What is <ImageHere>?", GREEDY))
    with pytest.raises(DataError, match="shorten it or raise max_length"):
        list(ask(chat, session, "word " * 70, GREEDY))
    with pytest.raises(DataError, match="has 1,999,999 characters; shorten it to 960 at most"):
        next(ask(chat, session, "word " * 400_000, GREEDY))
    assert session.turns() == []


@pytest.mark.parametrize(
    ("beams", "temperature", "sample", "used"),
    [(1, 0.0, False, 1.0), (1, 0.7, True, 0.7), (3, 0.7, False, 1.0), (3, 0.0, False, 1.0)],
)
def test_beams_and_temperature_do_what_they_say(
    chat: Chat, beams: int, temperature: float, sample: bool, used: float
) -> None:
    generation = GenerationConfig(max_new_tokens=7, top_p=0.5).choose(beams, temperature)
    list(ask(chat, begin(chat, grey(1)), "What is it?", generation))
    settings = chat.model.settings
    assert (settings["num_beams"], settings["do_sample"], settings["temperature"]) == (beams, sample, used)
    assert (settings["max_new_tokens"], settings["top_p"]) == (7, 0.5)


def test_uploads_of_all_kinds(tmp_path: Path) -> None:
    deep = np.linspace(0, 4000, 35 * 1001).reshape(35, 1001).astype(np.uint16)
    files = {"deep.png": Image.fromarray(deep), "colour.jpg": Image.new("RGB", (31, 1201), "red")}
    files["grey.tif"] = grey(9)
    for name, image in files.items():
        image.save(tmp_path / name)
        opened = open_upload(tmp_path / name)
        shown = preview(opened)
        assert opened.size == image.size
        assert shown.mode == "RGB"
        assert max(shown.size) == min(max(image.size), PREVIEW_SIDE)
    low, high = preview(open_upload(tmp_path / "deep.png")).convert("L").getextrema()
    assert low < 5
    assert high > 250


def test_a_dicom_upload_is_seen_and_a_refused_one_says_why(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(dicom(chest()))
    np.testing.assert_array_equal(np.asarray(open_upload(tmp_path / "a")), chest())
    (tmp_path / "b.png").write_bytes(dicom(chest(), Modality="CT"))
    with pytest.raises(DataError, match=r"^b\.png: modality is CT"):
        open_upload(tmp_path / "b.png")


def test_a_damaged_upload_is_named(tmp_path: Path) -> None:
    file = tmp_path / "chest.jpg"
    Image.effect_noise((90, 90), 50).save(file)
    file.write_bytes(file.read_bytes()[:900])
    for path in (file, tmp_path / "notes.txt"):
        path.touch()
        with pytest.raises(
            DataError, match=rf"^{path.name}: (cannot be decoded|the file is empty)"
        ) as caught:
            open_upload(path)
        assert str(tmp_path) not in str(caught.value)
