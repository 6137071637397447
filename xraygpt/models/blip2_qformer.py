"""BLIP-2's first stage: the Q-Former learns to read images from image-report pairs (Li et al., 2023).

Three losses share one pass of the image: contrastive (ITC), matching with hard negatives (ITM), and
writing the report (LM) through the cache of the query pass.

Shapes: B pairs, N image tokens of width V, Q query tokens, L text tokens, D hidden size, E shared
embedding size.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import BatchEncoding, BertTokenizer

from xraygpt.common.registry import registry
from xraygpt.datasets.batch import captions_of, images_of
from xraygpt.models.blip2 import Blip2Base, Blip2Config
from xraygpt.models.blip2_outputs import BlipOutputFeatures
from xraygpt.models.blip_caption import PAIR_PARTS
from xraygpt.models.blip_pretrain import PairTraining, PairTrainingConfig
from xraygpt.models.bridges.qformer import QFormerBridge
from xraygpt.models.parts import VisionEncoder
from xraygpt.models.Qformer import BertLMHeadModel
from xraygpt.models.vision_tower import build_encoder


@dataclass
class Blip2QformerConfig(Blip2Config, PairTrainingConfig):
    """Settings of the first stage; its `ckpt` may be BLIP-2's own of its first stage too.

    The vocabulary size is that of the tokenizer, [DEC] included, whatever `qformer.vocab_size` says.
    """

    BERT_FIELD = "qformer"


FEATURE_MODES = ("image", "text", "multimodal")


@registry.register_model("blip2_feature_extractor")
@registry.register_model("blip2")
class Blip2Qformer(Blip2Base, PairTraining):
    """The first stage's model; `freeze_vit` leaves ln_vision trainable, as LAVIS does."""

    config_class: ClassVar[type] = Blip2QformerConfig
    PRETRAINED_MODEL_CONFIG_DICT: ClassVar[dict[str, str]] = {
        "pretrain": "configs/models/blip2_pretrain.yaml",
        "tiny": "configs/models/blip2_tiny.yaml",
    }
    MODEL_TYPE_REQUIRED = False
    REQUIRED_PARTS = ("Qformer", "query_tokens", *PAIR_PARTS)
    CHECKPOINT = ("a trained first stage", "a training of this project (arch blip2), or BLIP-2's first stage")

    Qformer: BertLMHeadModel

    def __init__(
        self,
        cfg: Blip2QformerConfig,
        *,
        encoder: VisionEncoder,
        bridge: QFormerBridge,
        tokenizer: BertTokenizer,
    ) -> None:
        super().__init__(cfg, encoder, bridge)
        self.tokenizer = tokenizer
        self.max_txt_len = cfg.max_txt_len
        self.max_length = cfg.qformer.max_position_embeddings
        self.start_ids = [tokenizer.bos_token_id]
        self.copy_from_decoder()
        self.init_heads(cfg, cfg.qformer.hidden_size, cfg.qformer.hidden_size)

    @classmethod
    def build(cls, cfg: Blip2QformerConfig) -> Self:
        """The model of a configuration, with random weights."""
        tokenizer = cls.init_tokenizer(cfg.bert_tokenizer)
        sizes = replace(cfg.qformer, vocab_size=len(tokenizer), query_length=cfg.num_query_token)
        encoder = build_encoder(cfg)
        bridge = QFormerBridge(sizes, encoder.width, text=True)
        return cls(cfg, encoder=encoder, bridge=bridge, tokenizer=tokenizer)

    with_random_weights = build

    def copy_from_decoder(self) -> None:
        """Start the queries' feed-forward parts as copies of the text's, as BLIP-2 does."""
        for layer in self.Qformer.bert.encoder.layers():
            layer.intermediate_query.load_state_dict(layer.intermediate.state_dict())
            layer.output_query.load_state_dict(layer.output.state_dict())

    @property
    def decoder(self) -> BertLMHeadModel:
        return self.Qformer

    def image_inputs(self, image_embeds: Tensor) -> dict[str, Any]:
        queries = self.query_tokens.expand(len(image_embeds), -1, -1)
        return {"query_embeds": queries, "encoder_hidden_states": image_embeds}

    def read_images(self, image: Tensor) -> tuple[Tensor, Tensor, dict[str, Any]]:
        image_embeds = self.embed_image(image)
        output = self.Qformer.bert(**self.image_inputs(image_embeds), use_cache=True)
        feats = self.project(self.vision_proj, output.last_hidden_state)
        return feats, image_embeds, {"cache": output.past_key_values}

    def forward_image(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, height, width) -> query outputs (B, Q, D) and image tokens (B, N, V)."""
        image_embeds = self.embed_image(image)
        return self.Qformer.bert(**self.image_inputs(image_embeds)).last_hidden_state, image_embeds

    def forward_text(self, text_tokens: BatchEncoding) -> Tensor:
        """Tokenized texts -> their [CLS] outputs (B, D)."""
        return self._text_states(text_tokens)[:, 0]

    def encode_texts(self, text_tokens: BatchEncoding) -> Tensor:
        return self.project(self.text_proj, self.forward_text(text_tokens))

    def _text_states(self, tokens: BatchEncoding) -> Tensor:
        """(B, L, D): the text alone."""
        return self.Qformer.bert(tokens.input_ids, attention_mask=tokens.attention_mask).last_hidden_state

    def itm_logits(self, image_embeds: Tensor, text_ids: Tensor, text_mask: Tensor) -> Tensor:
        """As in `PairTraining`; the mean over the queries."""
        return self.itm_head(self._multimodal(image_embeds, text_ids, text_mask)).mean(dim=1)

    def _multimodal(self, image_embeds: Tensor, text_ids: Tensor, text_mask: Tensor) -> Tensor:
        """(B, Q, D): the queries, having seen image and text."""
        num_queries = self.query_tokens.shape[1]
        mask = F.pad(text_mask, (num_queries, 0), value=1)
        output = self.Qformer.bert(text_ids, attention_mask=mask, **self.image_inputs(image_embeds))
        return output.last_hidden_state[:, :num_queries]

    @torch.no_grad()
    def extract_features(self, samples: Mapping[str, Any], mode: str = "multimodal") -> BlipOutputFeatures:
        """Features of a batch: of its images, its texts, or of the queries having seen both.

        A text is cut only where the position embeddings end.
        """
        if mode not in FEATURE_MODES:
            raise ValueError(f"mode must be one of {FEATURE_MODES}, not {mode!r}")
        if mode == "image":
            queries, _ = self.forward_image(images_of(samples))
            projected = self.project(self.vision_proj, queries)
            return BlipOutputFeatures(image_embeds=queries, image_embeds_proj=projected)
        tokens = self.tokenize(captions_of(samples), max_length=self.max_length)
        if mode == "text":
            states = self._text_states(tokens)
            projected = self.project(self.text_proj, states)
            return BlipOutputFeatures(text_embeds=states, text_embeds_proj=projected)
        image_embeds = self.embed_image(images_of(samples))
        embeds = self._multimodal(image_embeds, tokens.input_ids, tokens.attention_mask)
        return BlipOutputFeatures(multimodal_embeds=embeds)
