"""Cases of the prompt text of a chat."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

from tests.parity.golden import Case
from xraygpt.conversation import messages
from xraygpt.conversation.chat import Chat, ChatModel
from xraygpt.conversation.messages import IMAGE_MARK, Conversation, SeparatorStyle


def run(case: Case) -> None:
    """Both templates of the reference, and its two styles with other separators."""
    turns = case.values["turns"]
    for field in [name for name in case.values if name.endswith(".fields")]:
        name = field.removesuffix(".fields")
        _template(case, name, getattr(messages, name), turns)
    for style in ("SINGLE", "TWO"):
        text = case.values.get(f"custom_{style}")
        if text is not None:
            conv = _custom(case, SeparatorStyle[style])
            case.comparison.exact(f"custom_{style}", _talk(conv, turns)["awaiting_answer2"], text)


def ask(text: str, conv: Conversation) -> None:
    """Ask as the chat does, which takes no more of a model than its length."""
    Chat(cast(ChatModel, SimpleNamespace(max_positions=2048)), _no_images, device="cpu").ask(text, conv)


def _no_images(image: Any) -> Any:
    raise AssertionError("no image is processed here")


def _template(case: Case, name: str, template: Conversation, turns: list[str]) -> None:
    check, values = case.comparison, case.values
    for field, expected in values[f"{name}.fields"].items():
        found = getattr(template, field)
        found = found.name if isinstance(found, SeparatorStyle) else found
        check.exact(f"{name}.{field}", list(found) if isinstance(found, tuple) else found, expected)
    conv = template.copy()
    check.exact(f"{name}.prompts", _talk(conv, turns), values[f"{name}.prompts"])
    check.exact(f"{name}.messages", conv.messages, values[f"{name}.messages"])
    check.exact(f"{name}.gradio", conv.to_gradio_chatbot(), values[f"{name}.gradio"])
    conv = template.copy()
    ask(turns[0], conv)
    check.exact(f"{name}.ask_without_image", conv.get_prompt(), values[f"{name}.ask_without_image"])
    conv.append_message(conv.roles[1], "")
    check.exact(f"{name}.empty_answer", conv.get_prompt(), values[f"{name}.empty_answer"])


def _talk(conv: Conversation, turns: list[str]) -> dict[str, str]:
    """Two questions about an image; the prompt after each step, by the reference's names of the steps."""
    prompts = {"empty": conv.get_prompt()}
    conv.append_message(conv.roles[0], IMAGE_MARK)
    prompts["after_upload"] = conv.get_prompt()
    ask(turns[0], conv)
    prompts["after_ask1"] = conv.get_prompt()
    conv.append_message(conv.roles[1], None)
    prompts["awaiting_answer1"] = conv.get_prompt()
    conv.messages[-1][1] = turns[1]
    prompts["after_answer1"] = conv.get_prompt()
    ask(turns[2], conv)
    prompts["after_ask2"] = conv.get_prompt()
    conv.append_message(conv.roles[1], None)
    prompts["awaiting_answer2"] = conv.get_prompt()
    return prompts


def _custom(case: Case, style: SeparatorStyle) -> Conversation:
    """A conversation with the separators that the calls name."""
    sep, sep2, system = (case.call_text(rf"\b{word} '(.+?)'") for word in ("sep", "sep2", "system"))
    return replace(messages.CONV_VISION.copy(), sep_style=style, sep=sep, sep2=sep2, system=system)
