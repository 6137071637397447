"""``bridge: qformer``, BLIP-2's: learnt queries read the image (Li et al., 2023).

Shapes: B images, N image tokens of width V, Q query tokens, D the Q-Former's width.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from xraygpt.common.checkpoint import load_state, save_checkpoint
from xraygpt.common.paths import cached_file
from xraygpt.common.registry import registry
from xraygpt.models.base_model import freeze, is_frozen
from xraygpt.models.key_translation import TEXT_HALF, TIED, load_image_half, select_qformer_keys
from xraygpt.models.parts import Bridge, LayerNorm
from xraygpt.models.Qformer import BertLMHeadModel, QformerConfig, QueryModel

logger = logging.getLogger(__name__)


@registry.register_bridge("qformer")
class QFormerBridge(Bridge):
    """The norm behind the encoder, the Q-Former and its query tokens (1, Q, D).

    Args:
        config: sizes of the Q-Former.
        width: V.
        text: whether to build the text half too, which BLIP-2's first stage trains.
    """

    pretrained = True

    def __init__(self, config: QformerConfig, width: int, *, text: bool = False) -> None:
        config = replace(config, encoder_width=width)
        super().__init__(config.hidden_size)
        self.config = config
        self.ln_vision = LayerNorm(width)
        self.query_tokens = nn.Parameter(torch.zeros(1, config.query_length, config.hidden_size))
        nn.init.normal_(self.query_tokens, mean=0.0, std=config.initializer_range)
        self.Qformer: BertLMHeadModel | QueryModel = BertLMHeadModel(config) if text else QueryModel(config)

    @classmethod
    def from_config(cls, model_config: Any, width: int, llm_width: int) -> Self:
        """Build it with random weights; its sizes are ``model.qformer`` and ``model.num_query_token``."""
        return cls(replace(model_config.qformer, query_length=model_config.num_query_token), width)

    def num_tokens(self, count: int) -> int:
        return self.query_tokens.shape[1]

    def freeze(self, model_config: Any) -> None:
        """Freeze the Q-Former with its queries (`freeze_qformer`), and the norm (`freeze_vit`)."""
        if model_config.freeze_vit:
            freeze(self.ln_vision)
        if model_config.freeze_qformer:
            freeze(self.Qformer)
            self.query_tokens.requires_grad_(False)

    def load(self, url_or_filename: str | Path) -> None:
        """Load a BLIP-2, XrayGPT or own checkpoint, or a folder of Hugging Face's BLIP-2.

        The text half in the file is ignored, by name, where there is none here.
        """
        path = cached_file(url_or_filename)
        load_state(
            self,
            select_qformer_keys(load_image_half(path)),
            where=str(path),
            ignore=() if isinstance(self.Qformer, BertLMHeadModel) else TEXT_HALF,
            expect_missing=(r"^Qformer\.bert\.embeddings\.position_ids$", *TIED),
        )
        logger.info("Q-Former loaded from %s", path)

    def export(self, folder: Path) -> None:
        """Write ``qformer.pth``, the norm included, if the Q-Former was trained."""
        if not is_frozen(self.Qformer):
            save_checkpoint(folder / "qformer.pth", {"model": self.state_dict()})

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, V) -> (B, Q, D), float32 without autocast."""
        return self.read(self.ln_vision(tokens).float())

    def read(self, image_embeds: Tensor) -> Tensor:
        """What the queries read off normalised tokens (B, N, V): (B, Q, D)."""
        queries = self.query_tokens.expand(len(image_embeds), -1, -1)
        output = self.Qformer.bert(query_embeds=queries, encoder_hidden_states=image_embeds)
        states: Tensor = output.last_hidden_state
        return states
