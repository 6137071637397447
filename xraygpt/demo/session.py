"""One user's conversation about one radiograph. Nothing here knows the user interface."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image
from torch import Tensor

from xraygpt.common.errors import DataError
from xraygpt.conversation.chat import Chat
from xraygpt.conversation.conversation import Conversation
from xraygpt.conversation.messages import IMAGE_MARK
from xraygpt.datasets.datasets.images import read_image
from xraygpt.models.generation import GenerationConfig
from xraygpt.processors.image_modes import to_rgb

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

    def turns(self) -> list[Turn]:
        """What was said, the image marks left out."""
        return _turns(self.conversation)


def begin(chat: Chat, image: Image.Image) -> Session:
    """Start a conversation about `image`."""
    session = Session(chat.new_conversation(), [])
    chat.upload_img(image, session.conversation, session.images)
    return session


def ask(
    chat: Chat, session: Session | None, question: str, generation: GenerationConfig
) -> Iterator[list[Turn]]:
    """Ask a question; yields all turns as the answer grows.

    The session gets question and answer when the answer is complete; if it is given up before, or fails, the
    conversation stays as it was.

    Raises:
        DataError: there is no session, no question, or the question is too long for the model.
    """
    if session is None:
        raise DataError("Choose a radiograph first: upload a file or take an example.")
    if not question.strip():
        raise DataError("Type a question first.")
    conversation = session.conversation.copy()
    chat.ask(question.strip(), conversation)
    asked = _turns(conversation)
    yield asked
    for text in chat.stream_answer(
        conversation,
        session.images,
        max_new_tokens=generation.max_new_tokens,
        num_beams=generation.num_beams,
        min_length=generation.min_length,
        top_p=generation.top_p,
        repetition_penalty=generation.repetition_penalty,
        length_penalty=generation.length_penalty,
        temperature=generation.temperature if generation.do_sample else 0.0,
    ):
        yield [*asked, (conversation.roles[1], text)]
    session.conversation = conversation


def chosen_generation(default: GenerationConfig, beams: int, temperature: float) -> GenerationConfig:
    """`default` with the user's choice: one beam takes the likeliest word at temperature 0 and draws words
    above; several beams search without chance, whatever the temperature.
    """
    sample = beams == 1 and temperature > 0
    return replace(
        default,
        num_beams=beams,
        do_sample=sample,
        temperature=temperature if sample else 1.0,
    )


def open_upload(path: str | Path) -> Image.Image:
    """Decode an uploaded file.

    Raises:
        DataError: it is no image that can be read; names the file as the user knows it.
    """
    path = Path(path)
    try:
        return read_image(path)
    except DataError as error:
        raise DataError(
            f"{path.name} cannot be read as an image. Choose an undamaged PNG, JPEG or TIFF file; "
            "convert DICOM files to PNG first."
        ) from error


def preview(image: Image.Image) -> Image.Image:
    """What the browser shows of `image`: 8-bit RGB, at most `PREVIEW_SIDE` pixels, its aspect ratio kept."""
    shown = to_rgb(image).copy()
    shown.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
    return shown


def _turns(conversation: Conversation) -> list[Turn]:
    spoken = (
        (str(role), str(text or "").replace(IMAGE_MARK, "").strip()) for role, text in conversation.messages
    )
    return [(role, text) for role, text in spoken if text]
