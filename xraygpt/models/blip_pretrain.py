"""BLIP's pretraining: two towers and a decoder learn from image-report pairs (Li et al., 2022).

One BERT is used three ways: as text encoder (contrast, ITC), as encoder of text that looks at the image
(matching, ITM) and as decoder (writing, LM). Encoder and decoder share all weights but self-attention. Left
out of the published training are the momentum encoders and their queue: negatives come from the batch of
all processes, as in BLIP-2.

Shapes: B pairs, N image tokens, V their width, L text tokens, D the text part's width, E shared size.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor
from transformers import BatchEncoding

from xraygpt.common.registry import registry
from xraygpt.models.base_model import images_of
from xraygpt.models.blip2_losses import Pairs, global_mean
from xraygpt.models.blip2_outputs import BlipOutput
from xraygpt.models.blip_base import BlipBase, BlipConfig
from xraygpt.models.med import BertLMHeadModel, BertModel
from xraygpt.models.pair_training import PAIR_PARTS, PairTraining, PairTrainingConfig


@dataclass
class BlipPretrainConfig(PairTrainingConfig, BlipConfig):
    """Settings of `BlipPretrain`."""


@registry.register_model("blip_pretrain")
class BlipPretrain(PairTraining, BlipBase):
    """ITC + ITM + LM; a trained decoder loads into `BlipCaption`, under the same keys."""

    config_class: ClassVar[type] = BlipPretrainConfig
    PRETRAINED_MODEL_CONFIG_DICT: ClassVar[dict[str, str]] = {
        "base": "configs/models/blip_pretrain_base.yaml",
        "tiny": "configs/models/blip_pretrain_tiny.yaml",
    }

    REQUIRED_PARTS = ("text_encoder", "text_decoder", *PAIR_PARTS)

    def __init__(self, cfg: BlipPretrainConfig) -> None:
        super().__init__(cfg)
        sizes = self.med_config(cfg)
        self.text_encoder = BertModel(sizes, add_pooling_layer=False)
        self.text_decoder = BertLMHeadModel(sizes)
        self._share_weights()
        self.init_heads(cfg, self.visual_encoder.width, sizes.hidden_size)

    def _share_weights(self) -> None:
        """Make encoder and decoder one, self-attention excepted."""
        decoder = self.text_decoder.bert
        decoder.embeddings = self.text_encoder.embeddings
        self.text_decoder.tie_weights()
        for own, theirs in zip(decoder.encoder.layers(), self.text_encoder.encoder.layers(), strict=True):
            own.crossattention, own.intermediate, own.output = (
                theirs.crossattention,
                theirs.intermediate,
                theirs.output,
            )

    def load_parts(self, cfg: BlipConfig) -> None:
        super().load_parts(cfg)
        if cfg.bert_model is not None:  # into the decoder, and so into all that both share
            encoder, decoder = self.text_encoder.encoder.layers(), self.text_decoder.bert.encoder.layers()
            for own, theirs in zip(encoder, decoder, strict=True):
                own.attention.load_state_dict(theirs.attention.state_dict())

    def forward(self, samples: Mapping[str, Any]) -> BlipOutput:
        """Losses of a batch with "image" (B, 3, height, width) and "caption" (B texts).

        Where they are known, "image_id", "study_id" and "labels" tell which pairs belong together.
        """
        image_feats, image_embeds = self.encode_images(images_of(samples))
        tokens = self.tokenize(samples["caption"])
        pairs = Pairs(image_embeds, tokens.input_ids, tokens.attention_mask)
        loss_itc, loss_itm = self.pair_losses(samples, image_feats, self.encode_texts(tokens), pairs)
        loss_lm = global_mean(*self.writing_loss(image_embeds, tokens), self.world_size)
        return BlipOutput(
            loss=loss_itc + loss_itm + loss_lm, loss_itc=loss_itc, loss_itm=loss_itm, loss_lm=loss_lm
        )

    def encode_images(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, height, width) -> unit vectors of the class token (B, 1, E) and image tokens (B, N, V)."""
        image_embeds = self.embed_image(image)
        return self.project(self.vision_proj, image_embeds[:, :1]), image_embeds

    def encode_texts(self, text_tokens: BatchEncoding) -> Tensor:
        """Tokenized texts -> unit vectors (B, E)."""
        output = self.text_encoder(
            text_tokens.input_ids, attention_mask=text_tokens.attention_mask, mode="text"
        )
        return self.project(self.text_proj, output.last_hidden_state[:, 0])

    def itm_logits(self, image_embeds: Tensor, text_ids: Tensor, text_mask: Tensor) -> Tensor:
        """As in `PairTraining`; the text begins with [ENC] in place of [CLS]."""
        ids = text_ids.clone()
        ids[:, 0] = self.encoder_start_id
        output = self.text_encoder(ids, attention_mask=text_mask, encoder_hidden_states=image_embeds)
        return self.itm_head(output.last_hidden_state[:, 0])
