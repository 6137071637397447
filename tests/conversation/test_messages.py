"""Conversations become the prompts that models were trained with."""

import pytest

from xraygpt.conversation.conversation import CONV_VISION, CONV_VISION_NEW, Conversation, SeparatorStyle
from xraygpt.conversation.messages import IMAGE_MARK, check_template, fill_template, trained_conversation

TEMPLATE = "###Patient: {} ###Doctor: "


def _talk(conv: Conversation) -> Conversation:
    conv = conv.copy()
    for role, text in (
        ("Patient", f"{IMAGE_MARK} Q1"),
        ("Doctor", "A1"),
        ("Patient", "Q2"),
        ("Doctor", None),
    ):
        conv.append_message(role, text)
    return conv


def test_one_separator() -> None:
    conv = _talk(CONV_VISION)
    assert conv.get_prompt() == (
        f"{CONV_VISION.system}###Patient: {IMAGE_MARK} Q1###Doctor: A1###Patient: Q2###Doctor:"
    )
    assert CONV_VISION.messages == []


def test_two_separators() -> None:
    assert _talk(CONV_VISION_NEW).get_prompt() == (
        f"{CONV_VISION_NEW.system} Patient: {IMAGE_MARK} Q1 Doctor: A1</s>Patient: Q2 Doctor:"
    )


def test_the_trained_template_gives_the_training_prompt() -> None:
    conv = trained_conversation(TEMPLATE, "###")
    conv.append_message("Patient", f"{IMAGE_MARK} Describe.")
    assert conv.get_prompt() == TEMPLATE.format(f"{IMAGE_MARK} Describe.")
    assert _talk(trained_conversation(TEMPLATE, "###")).get_prompt() == (
        f"###Patient: {IMAGE_MARK} Q1 ###Doctor: A1###Patient: Q2 ###Doctor: "
    )
    assert _talk(trained_conversation("Q: {} A: ", "\n")).get_prompt().endswith("A1\nQ: Q2 A: ")


def test_a_chat_template_gets_whole_turns() -> None:
    conv = _talk(trained_conversation("[Q] {} [A] ", "</s>"))
    conv.messages.insert(1, ["Patient", "Again"])
    conv.render = lambda turns: "|".join(f"{turn['role']}={turn['content']}" for turn in turns)
    assert conv.get_prompt() == f"user={IMAGE_MARK} Q1 Again|assistant=A1|user=Q2"
    assert conv.copy().get_prompt() == conv.get_prompt()
    assert conv.stop_strings() == ["</s>"]


def test_dropping_turns_keeps_the_images() -> None:
    shorter = _talk(CONV_VISION).without_oldest_turn()
    assert shorter is not None
    assert shorter.messages == [["Patient", f"{IMAGE_MARK} Q2"], ["Doctor", None]]
    assert shorter.without_oldest_turn() is None


def test_what_gradio_shows() -> None:
    assert _talk(CONV_VISION).to_gradio_chatbot() == [["Q2", None]]
    assert _talk(CONV_VISION_NEW).to_gradio_chatbot() == [[f"{IMAGE_MARK} Q1", "A1"], ["Q2", None]]


def test_stop_strings_and_dict() -> None:
    assert CONV_VISION.stop_strings() == ["###"]
    assert CONV_VISION_NEW.stop_strings() == ["</s>"]
    assert CONV_VISION.sep_style is SeparatorStyle.SINGLE
    assert CONV_VISION.dict()["roles"] == ("Patient", "Doctor")


def test_other_braces_are_plain_text() -> None:
    conv = trained_conversation("{role}: {} {x}", "###")
    conv.append_message("Patient", "What is {0} {}?")
    assert conv.get_prompt() == "{role}: What is {0} {}? {x}"
    for template in ("no slot", "{0}", "{} and {}"):
        with pytest.raises(ValueError, match="prompt_template"):
            check_template(template)
    check_template("")
    check_template("chat")
    assert fill_template("chat", "Q") == fill_template("", "Q") == "Q"
