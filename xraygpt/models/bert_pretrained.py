"""A published BERT: its tokenizer, with the tokens that BLIP and BLIP-2 add, and weights to start from."""

import logging
from pathlib import Path

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError
from torch import nn
from transformers import BertTokenizer

from xraygpt.common.checkpoint import load_state, load_weights
from xraygpt.common.errors import MissingFileError
from xraygpt.common.paths import Check, cached_file, file_check, resolve_path

logger = logging.getLogger(__name__)

DECODER_START = "[DEC]"
"""The token that begins a text to be generated; added to BERT's vocabulary."""

ENCODER_START = "[ENC]"
"""The token that begins a text to be read together with an image; BLIP adds it too."""


def init_bert_tokenizer(source: str = "bert-base-uncased", truncation_side: str = "right") -> BertTokenizer:
    """BERT's tokenizer with the token [DEC] added as `bos_token`.

    `source` is a WordPiece vocabulary file, a folder with a tokenizer, or a name on the hub.
    Raises MissingFileError if it is neither here nor can be fetched.
    """
    path = resolve_path(source)
    if isinstance(path, Path) and path.is_file():
        tokenizer = BertTokenizer(vocab=str(path), do_lower_case=True, truncation_side=truncation_side)
    else:
        folder = isinstance(path, Path) and path.is_dir()
        try:
            if not folder:
                # One small file first: without a network each of a tokenizer's files is tried for long.
                hf_hub_download(repo_id=source, filename="config.json")
            tokenizer = BertTokenizer.from_pretrained(
                str(path) if folder else source, truncation_side=truncation_side, trust_remote_code=False
            )
            # Where it finds no vocabulary, transformers makes a tokenizer of the special tokens alone.
            if len(tokenizer) <= len(set(tokenizer.all_special_ids)):
                raise ValueError("no vocabulary")
        except (OSError, ValueError, HfHubHTTPError) as error:
            raise MissingFileError(
                f"missing file: BERT's tokenizer\n  looked for: {source}, a vocabulary file (vocab.txt), "
                "a folder, or a name on the Hugging Face hub\n  set model.bert_tokenizer to where it "
                "is; it comes with the model bert-base-uncased"
            ) from error
    tokenizer.add_special_tokens({"bos_token": DECODER_START})
    return tokenizer


UNUSED = (
    r"^bert\.(pooler\.|embeddings\.(token_type_embeddings|position_ids))",
    r"^cls\.(seq_relationship|predictions\.decoder)\.",
)
"""Keys of a BERT without a use here: for its pretraining, second names, and a table of numbers."""
OTHERWISE_INITIALISED = (*UNUSED, r".*\.crossattention\.", r".*\.(intermediate|output)_query\.")
"""What a BERT has not, or these models have under another name too."""


def bert_check(path: str | None) -> Check:
    """The check of the file that `load_bert` reads, for `require_all`."""
    source = "hf://google-bert/bert-base-uncased/model.safetensors"
    return file_check("model.bert_model", path, "weights of a BERT", source)


def load_bert(model: nn.Module, url_or_filename: str | Path) -> None:
    """Load a BERT's embeddings, layers and prediction head into `model`, which has them under BERT's names.

    Tokens that were added to the vocabulary, at its end, keep the embedding they have, as do cross-attention
    and the queries' feed-forward parts. Raises MissingFileError, or CheckpointError for other sizes.
    """
    path = cached_file(url_or_filename)
    # Older files call the weight and bias of a layer norm gamma and beta.
    state = {
        name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias"): value
        for name, value in load_weights(path).items()
    }
    own = model.state_dict()
    for key in ("bert.embeddings.word_embeddings.weight", "cls.predictions.bias"):
        if key in state and state[key].shape[1:] == own[key].shape[1:]:
            state[key] = torch.cat([state[key], own[key][len(state[key]) :]])
    load_state(model, state, where=str(path), ignore=UNUSED, expect_missing=OTHERWISE_INITIALISED)
    logger.info("BERT loaded from %s", path)
