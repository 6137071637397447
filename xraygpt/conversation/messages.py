"""A conversation as plain data: who said what, and how that becomes one prompt."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from itertools import groupby
from typing import Any, Self

from xraygpt.datasets.batch import Turn

IMAGE_PLACEHOLDER = "<ImageHere>"
"""Where the embeddings of an image go."""
IMAGE_MARK = f"<Img>{IMAGE_PLACEHOLDER}</Img>"
TEMPLATE_SLOT = "{}"
CHAT = "chat"
"""The `prompt_template` that stands for the tokenizer's own chat template."""


def check_template(template: str) -> None:
    """Raise ValueError unless a prompt template is empty, `CHAT`, or holds ``{}`` once; other braces are
    text."""
    if template not in ("", CHAT) and template.count(TEMPLATE_SLOT) != 1:
        raise ValueError(
            f"prompt_template must hold {TEMPLATE_SLOT} exactly once, where the prompt goes, or be {CHAT}"
        )


def fill_template(template: str, prompt: str) -> str:
    """Put a prompt into its template; an empty one, or `CHAT`, leaves it as it is."""
    return template.replace(TEMPLATE_SLOT, prompt) if template not in ("", CHAT) else prompt


class SeparatorStyle(Enum):
    """How the messages of a conversation are joined."""

    SINGLE = auto()
    """``system sep role: message sep role: message sep …``"""
    TWO = auto()
    """As SINGLE, with `sep` after the first role's messages and `sep2` after the second's."""
    TEMPLATE = auto()
    """Every question in the template that the model was trained with, the answer behind it."""


@dataclass
class Conversation:
    """The turns of a chat. `messages` holds ``[role, text]``; the text is None while it is awaited."""

    system: str
    roles: tuple[str, str] = ("Patient", "Doctor")
    messages: list[list[str | None]] = field(default_factory=list)
    offset: int = 0
    """Number of leading messages that are not shown to the user."""
    sep_style: SeparatorStyle = SeparatorStyle.SINGLE
    sep: str = "###"
    sep2: str | None = None
    template: str = TEMPLATE_SLOT
    """Style TEMPLATE: the prompt template of the training, e.g. ``###Patient: {} ###Doctor: ``."""
    render: Callable[[list[Turn]], str] | None = field(default=None, repr=False)
    """Writes the turns as a tokenizer's chat template says; of the settings above, only `roles` and the
    separators, as stop strings, are of use then."""
    conv_id: Any = None

    def get_prompt(self) -> str:
        """Return the whole conversation as the text that the language model continues."""
        if self.render is not None:
            return self.render(self._turns())
        if self.sep_style is SeparatorStyle.TEMPLATE:
            # The mark that closes an answer often opens the next question too; it is written once then.
            closing = "" if self.template.startswith(self.sep) else self.sep
            text = self.system + closing if self.system else ""
            for role, message in self.messages:
                if role == self.roles[0]:
                    text += fill_template(self.template, str(message))
                elif message:
                    text += message + closing
            return text
        ends = (self.sep, self.sep2 if self.sep_style is SeparatorStyle.TWO and self.sep2 else self.sep)
        text = self.system + self.sep
        for role, message in self.messages:
            text += f"{role}: {message}{ends[self.roles.index(str(role))]}" if message else f"{role}:"
        return text

    def append_message(self, role: str, message: str | None) -> None:
        self.messages.append([role, message])

    def stop_strings(self) -> list[str]:
        """Return the strings that end an answer."""
        return [mark for mark in dict.fromkeys((self.sep, self.sep2)) if mark and mark.strip()]

    def without_oldest_turn(self) -> "Conversation | None":
        """Return a copy without the first question and its answer; None when only the last question is left.

        Images of a dropped question move to the next one, so the conversation goes on about them.
        """
        questions = [number for number, (role, _) in enumerate(self.messages) if role == self.roles[0]]
        if len(questions) < 2:
            return None
        first, second = questions[:2]
        shorter = self.copy()
        marks = IMAGE_MARK * str(self.messages[first][1]).count(IMAGE_MARK)
        question = str(self.messages[second][1])
        shorter.messages[second][1] = f"{marks} {question}" if marks else question
        del shorter.messages[first:second]
        return shorter

    def to_gradio_chatbot(self) -> list[list[str | None]]:
        """Return the turns that are shown, as ``[question, answer]``; an awaited answer is None."""
        turns: list[list[str | None]] = []
        for role, message in self.messages[self.offset :]:
            if role == self.roles[0] or not turns:
                turns.append([message, None])
            else:
                turns[-1][1] = message
        return turns

    def copy(self) -> Self:
        return dataclasses.replace(self, messages=[list(message) for message in self.messages])

    def dict(self) -> dict[str, Any]:
        names = ("system", "roles", "messages", "offset", "sep", "sep2", "conv_id")
        return {name: getattr(self, name) for name in names}

    def _turns(self) -> list[Turn]:
        """What was said, by turns: chat templates refuse two of the same role in succession."""
        said = [(role, text) for role, text in self.messages if text]
        system = [{"role": "system", "content": self.system}] if self.system else []
        return system + [
            {
                "role": "user" if role == self.roles[0] else "assistant",
                "content": " ".join(str(text) for _, text in texts),
            }
            for role, texts in groupby(said, key=lambda message: message[0])
        ]


CONV_VISION = Conversation(
    system=(
        "You are an experienced Doctor, give the following medical scan: <Img>ImageContent</Img>. "
        "You will be able to see the medical scan once I provide it to you. Please answer my questions."
    ),
    offset=2,
)
"""The conversation of the released demo. Training never showed its system text to the model."""

CONV_VISION_NEW = Conversation(
    system=(
        "A chat between a patient and an experienced Doctor.If you are a doctor, please answer the medical "
        "questions based on the patient's description. Give the following medical scan: "
        "<Img>ImageContent</Img>. You will be able to see the medical scan once I provide it to you. "
        "Please answer the patients questions."
    ),
    sep_style=SeparatorStyle.TWO,
    sep=" ",
    sep2="</s>",
)
"""The reference's second conversation, in Vicuna's later format."""


def trained_conversation(prompt_template: str, end_sym: str) -> Conversation:
    """Return a conversation whose first prompt is exactly a prompt of the training."""
    return Conversation(
        system="",
        sep_style=SeparatorStyle.TEMPLATE,
        sep=end_sym,
        template=prompt_template or TEMPLATE_SLOT,
    )
