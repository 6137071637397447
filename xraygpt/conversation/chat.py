"""Chat about a radiograph: a model, an image processor and a `Conversation`."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor

from xraygpt.common.errors import DataError
from xraygpt.common.generation import GenerationConfig
from xraygpt.common.image_modes import to_8_bit
from xraygpt.conversation.messages import IMAGE_MARK, IMAGE_PLACEHOLDER, Conversation
from xraygpt.pictures.reading import read_image

MAX_LENGTH = 2000
"""Positions of the language model that a conversation and its answer may use, unless asked otherwise."""
CHARACTERS_PER_POSITION = 16
"""A token of any language has fewer on average: a question with more of them cannot fit, which is then known
without splitting it into tokens."""


class ChatModel(Protocol):
    """What a chat needs of a model."""

    end_sym: str

    @property
    def max_positions(self) -> int: ...
    @property
    def device(self) -> torch.device: ...
    def new_conversation(self) -> Conversation: ...
    def encode_img(self, image: Tensor) -> tuple[Tensor, Tensor]: ...
    def embed_prompt(self, prompts: Sequence[str], img_embeds: Sequence[Tensor]) -> tuple[Tensor, Tensor]: ...
    def complete(
        self, embeds: Tensor, mask: Tensor, generation: GenerationConfig, stops: Sequence[str], /
    ) -> tuple[list[str], Tensor]: ...
    def complete_stream(
        self, embeds: Tensor, mask: Tensor, generation: GenerationConfig, stops: Sequence[str], /
    ) -> Iterator[str]: ...


def embed_conversation(
    model: ChatModel, conv: Conversation, img_list: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """Return a conversation with its images (1, Q, D) as the model reads it: (1, T, D) and mask (1, T)."""
    return model.embed_prompt([conv.get_prompt()], [image[0] for image in img_list])


class Chat:
    """Keeps no state of its own: a conversation and its images are passed in and changed in place.

    Args:
        vis_processor: PIL image -> (3, H, W) float tensor, the processor of the evaluation.
        device: where images are sent; the model's own device by default.
    """

    def __init__(
        self,
        model: ChatModel,
        vis_processor: Callable[[Image.Image], Tensor],
        device: str | torch.device | None = None,
    ) -> None:
        self.model = model
        self.vis_processor = vis_processor
        self.device = torch.device(device) if device is not None else model.device

    def new_conversation(self) -> Conversation:
        """Return a conversation in the format the model was trained with."""
        return self.model.new_conversation()

    @torch.no_grad()
    def upload_img(
        self, image: str | Path | Image.Image | Tensor, conv: Conversation, img_list: list[Tensor]
    ) -> str:
        """Add a radiograph to the conversation; `img_list` gets its embeddings (1, Q, D).

        Args:
            image: a file, DICOM included, a PIL image, or a processed (3, H, W) or (1, 3, H, W) tensor.

        Raises:
            DataError: the file cannot be read, or is DICOM and no chest radiograph.
        """
        if isinstance(image, (str, Path)):
            image = read_image(Path(image))
        elif isinstance(image, Image.Image):
            image = to_8_bit(image)
        pixels = image if isinstance(image, Tensor) else self.vis_processor(image)
        pixels = pixels.unsqueeze(0) if pixels.dim() == 3 else pixels
        embeds, _ = self.model.encode_img(pixels.to(self.device))
        img_list.append(embeds)
        conv.append_message(conv.roles[0], IMAGE_MARK)
        return "Received."

    def check_length(self, text: str, max_length: int | None = None) -> None:
        """Raise a DataError for a question far too long for the model's context, or `max_length` of it."""
        # Without a model, as in the reference, questions can still be put.
        positions = (getattr(self.model, "max_positions", None), max_length)
        limits = [CHARACTERS_PER_POSITION * count for count in positions if count is not None]
        if limits and len(text) > (limit := min(limits)):
            raise DataError(f"the question has {len(text):,} characters; shorten it to {limit:,} at most")

    def ask(self, text: str, conv: Conversation, max_length: int | None = None) -> None:
        """Add a question; it joins an image that was uploaded just before.

        Raises:
            DataError: the question holds the mark that stands for an image, or is too long (`check_length`).
        """
        self.check_length(text, max_length)
        if IMAGE_PLACEHOLDER in text:
            raise DataError(
                f"a question must not hold {IMAGE_PLACEHOLDER}, which stands for an uploaded image"
            )
        role, message = conv.messages[-1] if conv.messages else (None, None)
        if role == conv.roles[0] and message and message.endswith(IMAGE_MARK):
            conv.messages[-1][1] = f"{message} {text}"
        else:
            conv.append_message(conv.roles[0], text)

    def answer(
        self,
        conv: Conversation,
        img_list: list[Tensor],
        max_new_tokens: int = 300,
        num_beams: int = 1,
        min_length: int = 1,
        top_p: float = 0.9,
        repetition_penalty: float = 1.0,
        length_penalty: float = 1,
        temperature: float = 1.0,
        max_length: int = MAX_LENGTH,
    ) -> tuple[str, list[int]]:
        """Answer the last question and add the answer to `conv`; returns it with its token ids.

        Several beams search without chance; one beam samples at `temperature`, and takes the likeliest
        token at temperature 0. At most `max_length` positions are used: the oldest turns are left out of a
        longer context, never the images.

        Raises:
            DataError: not even the last question fits into `max_length`.
        """
        generation = GenerationConfig(
            max_new_tokens=max_new_tokens,
            min_length=min_length,
            top_p=top_p,
            repetition_penalty=repetition_penalty,
            length_penalty=length_penalty,
        ).choose(num_beams, temperature)
        embeds, mask, generation = self._context(conv, img_list, generation, max_length)
        texts, ids = self.model.complete(embeds, mask, generation, self._stops(conv))
        text = _cleaned(texts[0], conv)
        self._store(conv, text)
        return text, ids[0].tolist()

    def stream_answer(
        self,
        conv: Conversation,
        img_list: list[Tensor],
        generation: GenerationConfig,
        max_length: int = MAX_LENGTH,
    ) -> Iterator[str]:
        """Answer like `answer`, yielding the growing text; `conv` gets the answer when it is complete."""
        embeds, mask, generation = self._context(conv, img_list, generation, max_length)
        text = ""
        for written in self.model.complete_stream(embeds, mask, generation, self._stops(conv)):
            text = _cleaned(written, conv)
            yield text
        self._store(conv, text)

    def get_context_emb(self, conv: Conversation, img_list: list[Tensor]) -> Tensor:
        """Return the conversation as the model reads it: (1, T, D), images in place, BOS first."""
        return embed_conversation(self.model, conv, img_list)[0]

    def _context(
        self, conv: Conversation, img_list: list[Tensor], generation: GenerationConfig, max_length: int
    ) -> tuple[Tensor, Tensor, GenerationConfig]:
        """Return embeddings, mask, and `generation` with no more new tokens than there is room for."""
        limit = min(max_length, self.model.max_positions)
        awaiting = conv.copy()
        if not awaiting.messages or awaiting.messages[-1][0] == conv.roles[0]:
            awaiting.append_message(conv.roles[1], None)
        embeds, mask = embed_conversation(self.model, awaiting, img_list)
        while embeds.shape[1] + generation.max_new_tokens > limit and (
            shorter := awaiting.without_oldest_turn()
        ):
            awaiting = shorter
            embeds, mask = embed_conversation(self.model, awaiting, img_list)
        room = min(generation.max_new_tokens, limit - embeds.shape[1])
        if room < 1:
            raise DataError(
                f"the question takes {embeds.shape[1]} positions with its images, of {limit} that may be "
                "used: shorten it or raise max_length."
            )
        return embeds, mask, replace(generation, max_new_tokens=room)

    def _stops(self, conv: Conversation) -> list[str]:
        return list(dict.fromkeys([*conv.stop_strings(), self.model.end_sym]))

    @staticmethod
    def _store(conv: Conversation, text: str) -> None:
        if conv.messages and conv.messages[-1] == [conv.roles[1], None]:
            conv.messages.pop()
        conv.append_message(conv.roles[1], text)


def _cleaned(text: str, conv: Conversation) -> str:
    """Return the answer without the role that the model may write before it, nor the mark of an image."""
    text = text.removeprefix(f"{conv.roles[1]}:").replace(IMAGE_PLACEHOLDER, "").strip()
    return text.replace("ChatDoctor", "XrayGPT")
