"""Starting a text model from a published BERT, as BLIP and BLIP-2 do from bert-base-uncased."""

import logging
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from xraygpt.common.checkpoint import load_state, load_weights
from xraygpt.common.paths import cached_file
from xraygpt.models.required_files import Check, file_check

logger = logging.getLogger(__name__)

# What BERT was pretrained with and these models have no use for, second names of what else is in the file,
# and a table of numbers.
UNUSED = (
    r"^bert\.pooler\.",
    r"^cls\.seq_relationship\.",
    r"^bert\.embeddings\.(token_type_embeddings|position_ids)",
    r"^cls\.predictions\.decoder\.",
)
OTHERWISE_INITIALISED = (*UNUSED, r".*\.crossattention\.", r".*\.(intermediate|output)_query\.")
"""What a BERT has not, or these models have under another name too."""
WORDS = "bert.embeddings.word_embeddings.weight"
WORD_BIAS = "cls.predictions.bias"
BERT_SOURCE = "hf://google-bert/bert-base-uncased/model.safetensors"


def bert_check(path: str | None) -> Check:
    """The check of the file that `load_bert` reads, for `require_all`."""
    return file_check("model.bert_model", path, "weights of a BERT", BERT_SOURCE)


def translate_bert_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Keys of a published BERT -> keys of `BertLMHeadModel`: layer norms once were gamma and beta."""
    names = {"gamma": "weight", "beta": "bias"}
    return {
        re.sub(r"(?<=LayerNorm\.)(gamma|beta)$", lambda found: names[found[0]], name): value
        for name, value in state.items()
    }


def load_bert(model: nn.Module, url_or_filename: str | Path) -> None:
    """Load a BERT's embeddings, layers and prediction head into `model`, which has them under BERT's names.

    Tokens that were added to the vocabulary, at its end, keep the embedding they have, as do cross-attention
    and the queries' feed-forward parts.

    Raises:
        MissingFileError, CheckpointError: the file is not there, or is of other sizes.
    """
    path = cached_file(url_or_filename)
    state = translate_bert_keys(load_weights(path))
    own = model.state_dict()
    for key in (WORDS, WORD_BIAS):
        if key in state and state[key].shape[1:] == own[key].shape[1:]:
            state[key] = torch.cat([state[key], own[key][len(state[key]) :]])
    load_state(model, state, where=str(path), ignore=UNUSED, expect_missing=OTHERWISE_INITIALISED)
    logger.info("BERT loaded from %s", path)
