"""One user's conversation about one radiograph. Nothing here knows the user interface."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image
from torch import Tensor

from xraygpt.common.errors import DataError
from xraygpt.common.generation import GenerationConfig
from xraygpt.common.image_modes import to_rgb
from xraygpt.conversation.chat import MAX_LENGTH, Chat
from xraygpt.conversation.conversation import Conversation
from xraygpt.conversation.messages import IMAGE_MARK
from xraygpt.pictures.reading import read_image

PREVIEW_SIDE = 768
"""Longest side in pixels of the image that is sent back to the browser."""

Turn = tuple[str, str]
"""Who speaks, and what."""


@dataclass
class Session:
    """What was said about one radiograph."""

    conversation: Conversation
    images: list[Tensor]
    """Embeddings of the radiograph for the language model, (1, Q, D)."""
    ended: str = ""
    """What the user is told now that the conversation is over; set from outside, and an answer that is being
    written stops."""

    def turns(self) -> list[Turn]:
        """Return what was said, the image marks left out."""
        spoken = [
            (str(role), str(text or "").replace(IMAGE_MARK, "").strip())
            for role, text in self.conversation.messages
        ]
        return [(role, text) for role, text in spoken if text]


def begin(chat: Chat, image: Image.Image) -> Session:
    """Start a conversation about `image`."""
    session = Session(chat.new_conversation(), [])
    chat.upload_img(image, session.conversation, session.images)
    return session


def ask(
    chat: Chat, session: Session | None, question: str, generation: GenerationConfig
) -> Iterator[list[Turn]]:
    """Ask a question; yields all turns as the answer grows.

    The session gets question and answer when the answer is complete. If the session is ended before, or the
    answer fails, the conversation stays as it was.

    Raises:
        DataError: there is no session, no question, or one that is too long or holds an image's mark.
    """
    if session is None:
        raise DataError("Choose a radiograph first: upload a file or take an example.")
    if not question.strip():
        raise DataError("Type a question first.")
    attempt = replace(session, conversation=session.conversation.copy())
    chat.ask(question.strip(), attempt.conversation, MAX_LENGTH)
    asked = attempt.turns()
    yield asked
    for text in chat.stream_answer(attempt.conversation, session.images, generation):
        if session.ended:
            return
        yield [*asked, (attempt.conversation.roles[1], text)]
    session.conversation = attempt.conversation


def open_upload(path: str | Path) -> Image.Image:
    """Decode an uploaded file.

    Raises:
        DataError: it is no image that can be read; names the file as the user knows it.
    """
    return read_image(Path(path), name=Path(path).name)


def preview(image: Image.Image) -> Image.Image:
    """Return what the browser shows of `image`: 8-bit RGB, at most `PREVIEW_SIDE` pixels on a side."""
    shown = to_rgb(image).copy()
    shown.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
    return shown
