"""What BLIP-2's models share: vision encoder, Q-Former, tokenizer, how their weights are loaded, and what the
Q-Former hands to a language model.

Shapes: B images or texts, N image tokens, V their width, Q query tokens, D the Q-Former's width (H in
`Blip2Features`, where D is that of the language model), T text tokens.
"""

import logging
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import BertTokenizer, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from xraygpt.common.checkpoint import load_state
from xraygpt.common.paths import cached_file
from xraygpt.models.base_model import Check, file_check, is_frozen
from xraygpt.models.bert_pretrained import init_bert_tokenizer
from xraygpt.models.key_translation import TEXT_HALF, TIED, select_qformer_keys
from xraygpt.models.Qformer import BertLMHeadModel, QformerConfig, QueryModel
from xraygpt.models.vision_tower import BLIP2_FILES, VisionTower, VisionTowerConfig, image_half

logger = logging.getLogger(__name__)

BLIP2_QFORMER_URL = f"{BLIP2_FILES}/blip2_pretrained_flant5xxl.pth"


@dataclass
class Blip2Config(VisionTowerConfig):
    """Settings of the frozen halves, shared by all models on top of them."""

    qformer: QformerConfig = field(default_factory=QformerConfig)
    """Sizes of the Q-Former."""
    q_former_model: str | None = None
    """Weights of Q-Former, query tokens and ln_vision (a BLIP-2 checkpoint or folder will do); none:
    random."""
    num_query_token: int = 32
    """Number of query tokens Q."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_query_token < 1:
            raise ValueError("num_query_token must be at least 1")

    def qformer_config(self) -> QformerConfig:
        """`qformer` with the widths that follow from the rest."""
        return replace(self.qformer, encoder_width=self.vision.embed_dim, query_length=self.num_query_token)


class Blip2Base(VisionTower):
    """Base of the models with a vision encoder and a Q-Former: sets `Qformer` and `query_tokens` too."""

    Qformer: BertLMHeadModel | QueryModel
    query_tokens: nn.Parameter

    @classmethod
    def init_tokenizer(
        cls, source: str = "bert-base-uncased", truncation_side: str = "right"
    ) -> BertTokenizer:
        """See `init_bert_tokenizer`."""
        return init_bert_tokenizer(source, truncation_side)

    @classmethod
    def init_Qformer(
        cls,
        num_query_token: int,
        vision_width: int,
        cross_attention_freq: int = 2,
        *,
        config: QformerConfig | None = None,
        text: bool = False,
    ) -> tuple[QueryModel | BertLMHeadModel, nn.Parameter]:
        """A random Q-Former and its query tokens (1, Q, D), with or without the text half.

        `config` gives the other sizes (BERT-base by default).
        """
        config = replace(
            config or QformerConfig(),
            encoder_width=vision_width,
            cross_attention_freq=cross_attention_freq,
            query_length=num_query_token,
        )
        query_tokens = nn.Parameter(torch.zeros(1, num_query_token, config.hidden_size))
        nn.init.normal_(query_tokens, mean=0.0, std=config.initializer_range)
        return (BertLMHeadModel(config) if text else QueryModel(config)), query_tokens

    def init_parts(self, cfg: Blip2Config, *, text: bool) -> None:
        """Build vision encoder, ln_vision, Q-Former and query tokens of `cfg`, without loading weights.

        `freeze_vit` freezes the encoder only; ln_vision is the subclass's to decide.
        """
        self.init_vision(cfg)
        sizes = cfg.qformer_config()
        self.Qformer, self.query_tokens = self.init_Qformer(
            cfg.num_query_token, cfg.vision.embed_dim, sizes.cross_attention_freq, config=sizes, text=text
        )

    @classmethod
    def part_checks(cls, cfg: Blip2Config) -> list[Check]:
        """Checks of the weight files that `load_parts` reads, for `require_all`."""
        return [
            cls.vision_check(cfg),
            file_check(
                "model.q_former_model", cfg.q_former_model, "weights of the Q-Former", BLIP2_QFORMER_URL
            ),
        ]

    def load_parts(self, cfg: Blip2Config) -> None:
        """Load the weight files that `cfg` names.

        Raises MissingFileError or CheckpointError.
        """
        if cfg.vit_ckpt is not None:
            self.load_vision_encoder(cfg.vit_ckpt)
        if cfg.q_former_model is not None:
            self.load_from_pretrained(cfg.q_former_model)

    def load_from_pretrained(self, url_or_filename: str | Path) -> None:
        """Load Q-Former, query tokens and ln_vision from a BLIP-2, XrayGPT or own checkpoint, or from a
        folder of Hugging Face's BLIP-2.

        The text half in the file is ignored, by name, where this model has none.
        """
        path = cached_file(url_or_filename)
        load_state(
            self,
            select_qformer_keys(image_half(path)),
            where=str(path),
            ignore=() if isinstance(self.Qformer, BertLMHeadModel) else TEXT_HALF,
            expect_missing=(
                r"^(?!query_tokens$|Qformer\.|ln_vision\.)",
                r"^Qformer\.bert\.embeddings\.position_ids$",
                *TIED,
            ),
        )
        logger.info("Q-Former loaded from %s", path)

    def run_queries(self, image_embeds: Tensor) -> Tensor:
        """(B, N, V) -> (B, Q, D): what the query tokens read off the image."""
        queries = self.query_tokens.expand(image_embeds.shape[0], -1, -1)
        return self.Qformer.bert(query_embeds=queries, encoder_hidden_states=image_embeds).last_hidden_state


class Blip2Features(Blip2Base):
    """A model with a language model behind the Q-Former, and access to what its three parts give."""

    llama_model: PreTrainedModel

    def encode_queries(self, image: Tensor) -> Tensor:
        """Images (B, 3, height, width) -> output of the Q-Former (B, Q, H), float32.

        No gradient is kept through parts that are frozen.
        """
        patches = self.embed_image(image).float()  # (B, N, V)
        frozen = is_frozen(self.Qformer) and not (patches.requires_grad or self.query_tokens.requires_grad)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
            return self.run_queries(patches)

    def get_image_features(self, pixel_values: Tensor) -> BaseModelOutputWithPooling:
        """Images (B, 3, height, width) -> `last_hidden_state` (B, N, V) of the vision encoder, normalised.

        `pooler_output` (B, V) is the class token, normalised once more, as there.
        """
        tokens = self.embed_image(pixel_values)
        return BaseModelOutputWithPooling(
            last_hidden_state=tokens, pooler_output=self.ln_vision(tokens[:, 0])
        )

    def get_qformer_features(self, pixel_values: Tensor) -> Tensor:
        """Images (B, 3, height, width) -> what the queries read off them, (B, Q, H) float32."""
        return self.encode_queries(pixel_values)

    def get_text_features(
        self, input_ids: Tensor, attention_mask: Tensor | None = None
    ) -> BaseModelOutputWithPooling:
        """Texts (B, T) int64 -> `last_hidden_state` (B, T, D) of the language model, without output layer."""
        output = self.llama_model.base_model(input_ids=input_ids, attention_mask=attention_mask)
        return BaseModelOutputWithPooling(last_hidden_state=output.last_hidden_state)
