"""From a prompt with image placeholders to the rows of ids that a language model reads.

A prompt is cut at its placeholders; each text piece is tokenized on its own, so it starts with the
tokenizer's own leading blank, as in the training of the released weights. An image stands in a row as `Q`
times `IMAGE_SLOT`, to be replaced by its embeddings. Several reports may share a row ("packing").
"""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from xraygpt.common.errors import ConfigError, MissingFileError
from xraygpt.common.files import read_text
from xraygpt.common.paths import require_file
from xraygpt.conversation.messages import IMAGE_PLACEHOLDER, fill_template
from xraygpt.models.llm import embedding_table

IMAGE_SLOT = -1


def read_prompts(path: str, template: str, where: str = "model.prompt_path") -> list[str]:
    """The lines of a prompt file that hold exactly one image placeholder, put into `template`.

    Raises:
        MissingFileError: no such file.
        ConfigError: no usable line, or one with several placeholders.
    """
    source = "prompts/alignment.txt, which ships with xraygpt"
    file = require_file(path, what="the prompts for training", source=source, where=where)
    if not file.is_file():
        raise MissingFileError(f"{file} ({where}): a folder; name a file of prompts in it, or {source}")
    prompts = []
    for number, line in enumerate(read_text(file).splitlines(), start=1):
        if line.count(IMAGE_PLACEHOLDER) > 1:
            raise ConfigError(f"{file}, line {number}: holds {IMAGE_PLACEHOLDER} more than once.")
        if IMAGE_PLACEHOLDER in line:
            prompts.append(fill_template(template, line.strip()))
    if not prompts:
        raise ConfigError(f"{file}: no line holds {IMAGE_PLACEHOLDER}, so there is no prompt in it.")
    return prompts


@lru_cache(maxsize=1024)
def prompt_row(
    tokenizer: PreTrainedTokenizerBase, prompt: str, slots: int, bos: bool = True
) -> tuple[int, ...]:
    """Ids of a prompt, every image placeholder as `slots` times `IMAGE_SLOT`, BOS first."""
    row = [tokenizer.bos_token_id] if bos and tokenizer.bos_token_id is not None else []
    for number, piece in enumerate(prompt.split(IMAGE_PLACEHOLDER)):
        if number:
            row += [IMAGE_SLOT] * slots
        row += tokenizer(piece, add_special_tokens=False).input_ids
    return tuple(row)


def caption_rows(
    tokenizer: PreTrainedTokenizerBase, captions: Sequence[str], end_sym: str, max_txt_len: int
) -> list[list[int]]:
    """Ids of the texts to be learnt, each closed by `end_sym` and cut to `max_txt_len` tokens.

    A text that is cut loses its end symbol: the model shall not learn to stop in mid-sentence.
    """
    texts = [caption + end_sym for caption in captions]
    rows: list[list[int]] = tokenizer(texts, add_special_tokens=False).input_ids
    return [row[:max_txt_len] for row in rows]


def pad_rows(rows: Sequence[Sequence[int]], pad_id: int, side: str = "right") -> tuple[Tensor, Tensor]:
    """Rows of ids -> ids (B, T) and attention mask (B, T), both int64; `side` says where the padding goes."""
    tensors = [torch.tensor(row, dtype=torch.long) for row in rows]
    mask = pad_sequence([torch.ones_like(row) for row in tensors], batch_first=True, padding_side=side)
    return pad_sequence(tensors, batch_first=True, padding_value=pad_id, padding_side=side), mask


def share_rows(lengths: Sequence[int], full: int = 0) -> list[list[int]]:
    """Tell which samples share a row (first fit, the longest first), none longer than `full` or, if that is
    more, the longest sample."""
    full = max(full, *lengths)
    rows: list[list[int]] = []
    room: list[int] = []
    for number in sorted(range(len(lengths)), key=lambda sample: -lengths[sample]):
        place = next((row for row, free in enumerate(room) if free >= lengths[number]), len(rows))
        if place == len(rows):
            rows.append([])
            room.append(full)
        rows[place].append(number)
        room[place] -= lengths[number]
    return rows


def separate(lengths: Sequence[Sequence[int]], device: torch.device) -> dict[str, Tensor]:
    """Return what keeps samples of these lengths in each row apart in a language model.

    ``attention_mask`` (R, 1, T, T) bool, which position sees which; ``position_ids`` (R, T) int64, from 0 on
    in each sample.
    """
    positions, _ = pad_rows([[at for length in row for at in range(length)] for row in lengths], 0)
    samples, _ = pad_rows([[n for n, length in enumerate(row) for _ in range(length)] for row in lengths], -1)
    samples = samples.to(device)
    same = samples[:, :, None] == samples[:, None]
    return {"attention_mask": same.tril().unsqueeze(1), "position_ids": positions.to(device)}


@torch.no_grad()
def check_packing(llm: PreTrainedModel) -> None:
    """Raise ConfigError unless a language model reads a sample behind another one as it does alone."""
    training, table = llm.training, embedding_table(llm).weight
    embeds = table[: 2 + 3].unsqueeze(0)
    llm.eval()
    try:
        together = llm(inputs_embeds=embeds, use_cache=False, **separate([[2, 3]], table.device)).logits
        alone = llm(inputs_embeds=embeds[:, 2:], use_cache=False).logits
        difference = (together[:, 2:] - alone).abs().max() / alone.abs().max()
        separated = bool(difference < torch.finfo(table.dtype).eps ** 0.5)
    except (TypeError, ValueError, RuntimeError):  # it takes no positions, or no mask of this form
        separated = False
    llm.train(training)
    if not separated:
        raise ConfigError(
            f"model.packing: the language model, a {llm.config.model_type}, does not keep the reports of a "
            "row apart; set it to false"
        )
