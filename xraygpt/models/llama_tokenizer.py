"""LLaMA's SentencePiece tokenizer, exact to the id.

transformers 5 rebuilds a LLaMA tokenizer on its `tokenizers` backend, which drops a blank at the start of a
text and needs protobuf to read ``tokenizer.model``. The prompt of XrayGPT is tokenized piece by piece, with
blanks at the ends of pieces, and a projection is trained on the ids that result; so this class asks
SentencePiece itself, as the transformers 4 that the released weights were trained with did.
"""

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import AddedToken
from transformers.tokenization_utils_sentencepiece import SentencePieceBackend

from xraygpt.common.checkpoint import check_weight_file
from xraygpt.common.errors import CheckpointError
from xraygpt.common.files import read_text
from xraygpt.common.hf_folder import read_settings

logger = logging.getLogger(__name__)

_SETTINGS = ["bos_token", "eos_token", "unk_token", "model_max_length", "add_bos_token", "chat_template"]


class LlamaSentencePieceTokenizer(SentencePieceBackend):
    """Reads the ``tokenizer.model`` of a LLaMA folder.

    A blank is put before every text, as SentencePiece does; ids start with BOS unless
    ``add_special_tokens=False``. Padding is on the right unless `padding_side` says otherwise.
    """

    padding_side = "right"
    model_input_names = ["input_ids", "attention_mask"]  # noqa: RUF012

    def __init__(self, vocab_file: str, add_bos_token: bool = True, **kwargs: Any) -> None:
        self.add_bos_token = add_bos_token
        kwargs = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"} | kwargs
        super().__init__(
            vocab_file=vocab_file,
            add_bos_token=add_bos_token,
            legacy=True,
            special_tokens_pattern="bos" if add_bos_token else "none",
            clean_up_tokenization_spaces=False,
            **kwargs,
        )

    @classmethod
    def from_folder(cls, folder: Path) -> "LlamaSentencePieceTokenizer":
        """Read ``tokenizer.model`` and, where they exist, the files with special and added tokens and with a
        chat template.

        Raises:
            CheckpointError: one of them cannot be read.
        """
        file, template = folder / "tokenizer.model", folder / "chat_template.jinja"
        config = read_settings(folder / "special_tokens_map.json")
        config |= read_settings(folder / "tokenizer_config.json")
        config |= {"chat_template": read_text(template)} if template.is_file() else {}
        check_weight_file(file)
        added = read_settings(folder / "added_tokens.json")  # e.g. the [PAD] of some Vicunas: text -> id
        try:
            tokens = {int(number): AddedToken(text, normalized=False) for text, number in added.items()}
            # Marks of turns too, such as [INST], which are control symbols of tokenizer.model.
            named = config.get("added_tokens_decoder") or {}
            tokens |= {int(number): AddedToken(**token) for number, token in named.items()}
            dropped = padding_without_row(folder, {n: token.content for n, token in tokens.items()})
            tokens = {n: token for n, token in tokens.items() if token.content not in dropped}
            tokenizer = cls(
                vocab_file=str(file),
                added_tokens_decoder=tokens,
                extra_special_tokens=[token.content for token in tokens.values() if token.special],
                # A special token may be written as a string or as a dictionary with its content.
                **{
                    name: config[name]["content"] if isinstance(config[name], dict) else config[name]
                    for name in _SETTINGS
                    if config.get(name) is not None
                },
            )
        except (TypeError, KeyError, AttributeError) as error:
            raise CheckpointError(f"{folder}: its added tokens cannot be read: {error}") from error
        except (OSError, RuntimeError, ValueError) as error:
            raise CheckpointError(
                f"{file}: no SentencePiece model, truncated or damaged ({file.stat().st_size} bytes): {error}"
            ) from error
        tokenizer._update_total_vocab_size()
        return tokenizer

    def _convert_id_to_token(self, index: int) -> str:
        """An id without a piece is nothing: tables of embeddings may have more rows than there are pieces."""
        return str(self.sp_model.IdToPiece(index)) if index < self.vocab_size else ""

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """Join pieces into text; a run of text that ends at a special token is set off by a blank."""
        text, run = "", list[str]()
        tokens = [token for token in tokens if token]
        for position, token in enumerate(tokens):
            if token not in self.all_special_tokens:
                run.append(token)
                continue
            blank = " " if run or (position and tokens[position - 1] not in self.all_special_tokens) else ""
            text += blank + self.sp_model.decode(run) + token
            run = []
        return text + str(self.sp_model.decode(run))


def padding_without_row(folder: Path, tokens: Mapping[int, str], pad_token: str | None = None) -> list[str]:
    """Padding tokens among the added `tokens` that the language model in the folder has no embedding for.

    Llama 2 and many models made of it were published so: a fine-tuning added the token and never used it.
    They are dropped, since padding uses the end-of-text token here.
    """
    config = read_settings(folder / "config.json")
    rows = config.get("vocab_size", (config.get("text_config") or {}).get("vocab_size"))
    padding = [
        text
        for number, text in tokens.items()
        if isinstance(rows, int)
        and number >= rows
        and (text == pad_token or re.fullmatch(r"\W*pad\W*", text, re.IGNORECASE))
    ]
    if padding:
        logger.info("%s: dropped %s: the weights have no row for padding", folder, ", ".join(padding))
    return padding
