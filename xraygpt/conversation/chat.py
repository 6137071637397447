"""Chat about a radiograph: a model, an image processor and a `Conversation`."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor

from xraygpt.common.errors import DataError
from xraygpt.conversation.messages import IMAGE_MARK, Conversation, trained_conversation


class ChatModel(Protocol):
    """What a chat needs of a model."""

    prompt_template: str
    end_sym: str
    max_positions: int

    @property
    def device(self) -> torch.device: ...
    def encode_img(self, image: Tensor) -> tuple[Tensor, Tensor]: ...
    def embed_prompt(self, prompts: Sequence[str], img_embeds: Sequence[Tensor]) -> tuple[Tensor, Tensor]: ...
    def complete(
        self, inputs_embeds: Tensor, attention_mask: Tensor, *, stops: Sequence[str], **settings: Any
    ) -> tuple[list[str], Tensor]: ...
    def complete_stream(
        self, inputs_embeds: Tensor, attention_mask: Tensor, *, stops: Sequence[str], **settings: Any
    ) -> Iterator[str]: ...


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
        """A conversation in the format the model was trained with."""
        return trained_conversation(self.model.prompt_template, self.model.end_sym)

    @torch.no_grad()
    def upload_img(
        self, image: str | Path | Image.Image | Tensor, conv: Conversation, img_list: list[Tensor]
    ) -> str:
        """Add a radiograph to the conversation; `img_list` gets its embeddings (1, Q, D).

        Args:
            image: a file, a PIL image, or a processed (3, H, W) or (1, 3, H, W) tensor.
        """
        if isinstance(image, (str, Path)):
            with Image.open(image) as opened:
                image = opened.copy()
        pixels = image if isinstance(image, Tensor) else self.vis_processor(image)
        pixels = pixels.unsqueeze(0) if pixels.dim() == 3 else pixels
        embeds, _ = self.model.encode_img(pixels.to(self.device))
        img_list.append(embeds)
        conv.append_message(conv.roles[0], IMAGE_MARK)
        return "Received."

    def ask(self, text: str, conv: Conversation) -> None:
        """Add a question; it joins an image that was uploaded just before."""
        if conv.messages:
            role, message = conv.messages[-1]
            if role == conv.roles[0] and message and message.endswith(IMAGE_MARK):
                conv.messages[-1][1] = f"{message} {text}"
                return
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
        max_length: int = 2000,
    ) -> tuple[str, list[int]]:
        """Answer the last question and add the answer to `conv`; returns it with its token ids.

        Several beams search without chance; one beam samples at `temperature`, and takes the likeliest
        token at temperature 0. At most `max_length` positions are used: the oldest turns are left out of a
        longer context, never the images.

        Raises:
            DataError: not even the last question fits into `max_length`.
        """
        embeds, mask, room = self._context(conv, img_list, max_new_tokens, max_length)
        settings = _settings(num_beams, min_length, top_p, repetition_penalty, length_penalty, temperature)
        texts, ids = self.model.complete(
            embeds, mask, stops=self._stops(conv), max_new_tokens=room, **settings
        )
        text = _cleaned(texts[0], conv)
        self._store(conv, text)
        return text, ids[0].tolist()

    def stream_answer(
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
        max_length: int = 2000,
    ) -> Iterator[str]:
        """Like `answer`, but yields the growing text; `conv` gets the answer when it is complete."""
        embeds, mask, room = self._context(conv, img_list, max_new_tokens, max_length)
        settings = _settings(num_beams, min_length, top_p, repetition_penalty, length_penalty, temperature)
        text = ""
        for written in self.model.complete_stream(
            embeds, mask, stops=self._stops(conv), max_new_tokens=room, **settings
        ):
            text = _cleaned(written, conv)
            yield text
        self._store(conv, text)

    def get_context_emb(self, conv: Conversation, img_list: list[Tensor]) -> Tensor:
        """The conversation as the model reads it: (1, T, D), images in place, BOS first."""
        return self._embed(conv, img_list)[0]

    def _embed(self, conv: Conversation, img_list: list[Tensor]) -> tuple[Tensor, Tensor]:
        return self.model.embed_prompt([conv.get_prompt()], [image[0] for image in img_list])

    def _context(
        self, conv: Conversation, img_list: list[Tensor], max_new_tokens: int, max_length: int
    ) -> tuple[Tensor, Tensor, int]:
        """Embeddings, mask, and how many tokens the answer may have."""
        limit = min(max_length, self.model.max_positions)
        awaiting: Conversation | None = conv.copy()
        assert awaiting is not None
        if not awaiting.messages or awaiting.messages[-1][0] == conv.roles[0]:
            awaiting.append_message(conv.roles[1], None)
        while True:
            embeds, mask = self._embed(awaiting, img_list)
            if embeds.shape[1] + max_new_tokens <= limit:
                return embeds, mask, max_new_tokens
            shorter = awaiting.without_oldest_turn()
            if shorter is None:
                break
            awaiting = shorter
        room = limit - embeds.shape[1]
        if room < 1:
            raise DataError(
                f"the question takes {embeds.shape[1]} positions with its images, of {limit} that may be "
                "used: shorten it or raise max_length."
            )
        return embeds, mask, room

    def _stops(self, conv: Conversation) -> list[str]:
        return list(dict.fromkeys([*conv.stop_strings(), self.model.end_sym]))

    @staticmethod
    def _store(conv: Conversation, text: str) -> None:
        if conv.messages and conv.messages[-1][0] == conv.roles[1] and conv.messages[-1][1] is None:
            conv.messages[-1][1] = text
        else:
            conv.append_message(conv.roles[1], text)


def _settings(
    num_beams: int,
    min_length: int,
    top_p: float,
    repetition_penalty: float,
    length_penalty: float,
    temperature: float,
) -> dict[str, Any]:
    sample = num_beams == 1 and temperature > 0
    return {
        "num_beams": num_beams,
        "min_length": min_length,
        "top_p": top_p,
        "repetition_penalty": repetition_penalty,
        "length_penalty": length_penalty,
        "do_sample": sample,
        "temperature": temperature if sample else 1.0,
    }


def _cleaned(text: str, conv: Conversation) -> str:
    """The answer without the role that the model may write before it."""
    return text.removeprefix(f"{conv.roles[1]}:").strip().replace("ChatDoctor", "XrayGPT")
