"""BLIP-2's first stage: the Q-Former learns to read images from image-report pairs (Li et al., 2023).

Three losses share one pass of the image: contrastive (ITC), matching with hard negatives (ITM), and
writing the report (LM) through the cache of the query pass.

Shapes: B pairs on this process, W pairs over all processes (W = B without a process group), N image
tokens of width V, Q query tokens, L text tokens, D hidden size, E shared embedding size.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from transformers import BatchEncoding, BertTokenizer

from xraygpt.common.generation import GenerationConfig
from xraygpt.common.precision import vision_precision
from xraygpt.common.registry import registry
from xraygpt.models.base_model import captions_of, file_check, images_of, require_all
from xraygpt.models.bert_lm import IGNORED_LABEL, SearchSettings, bert_reports
from xraygpt.models.bert_pretrained import bert_check, load_bert, tokenize
from xraygpt.models.blip2 import Blip2Base, Blip2Config
from xraygpt.models.blip2_losses import Pairs, global_mean
from xraygpt.models.blip2_outputs import BlipOutput, BlipOutputFeatures
from xraygpt.models.bridges.qformer import QFormerBridge
from xraygpt.models.generation import GeneratedReport
from xraygpt.models.pair_training import PAIR_PARTS, PairTraining, PairTrainingConfig
from xraygpt.models.parts import VisionEncoder
from xraygpt.models.Qformer import BertLMHeadModel, KeyValueCache
from xraygpt.models.vision_tower import build_encoder


@dataclass
class Blip2QformerConfig(PairTrainingConfig, Blip2Config):
    """Settings of the first stage.

    Weights are loaded in this order, each over what was there: `bert_model`, `vit_ckpt` and `q_former_model`,
    `ckpt`. A file is a local path, ``package:…``, a web address or ``hf://owner/repository/file``.
    """

    bert_tokenizer: str = "bert-base-uncased"
    """WordPiece vocabulary file, tokenizer folder or hub name."""
    bert_model: str | None = None
    """Weights of a BERT that text and queries start from, as BLIP-2 does from bert-base-uncased; none:
    random."""
    ckpt: str | None = None
    """Checkpoint of such a training, or BLIP-2's own of its first stage; none: the heads start at random."""
    max_txt_len: int = 32
    """Longest report in tokens; longer ones are cut."""

    def __post_init__(self) -> None:
        super().__post_init__()
        longest = self.qformer.max_position_embeddings
        if not 2 <= self.max_txt_len <= longest:
            raise ValueError(f"max_txt_len must lie between 2 and {longest} (max_position_embeddings)")


FEATURE_MODES = ("image", "text", "multimodal")


@registry.register_model("blip2_feature_extractor")
@registry.register_model("blip2")
class Blip2Qformer(PairTraining, Blip2Base):
    """The first stage's model.

    `freeze_vit` leaves ln_vision trainable, as LAVIS does. The vocabulary size is that of the tokenizer,
    [DEC] included, whatever `qformer.vocab_size` says.
    """

    config_class: ClassVar[type] = Blip2QformerConfig
    PRETRAINED_MODEL_CONFIG_DICT: ClassVar[dict[str, str]] = {
        "pretrain": "configs/models/blip2_pretrain.yaml",
        "tiny": "configs/models/blip2_tiny.yaml",
    }
    MODEL_TYPE_REQUIRED = False

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
        self._copy_text_half_to_queries()
        width = cfg.qformer.hidden_size
        self.init_heads(cfg, width, width)
        self.max_txt_len = cfg.max_txt_len

    @property
    def bridge(self) -> QFormerBridge:
        bridge = super().bridge
        assert isinstance(bridge, QFormerBridge)
        return bridge

    @classmethod
    def build(cls, cfg: Blip2QformerConfig) -> Self:
        """The model of a configuration, with random weights."""
        tokenizer = cls.init_tokenizer(cfg.bert_tokenizer)
        sizes = replace(cfg.qformer, vocab_size=len(tokenizer), query_length=cfg.num_query_token)
        encoder = build_encoder(cfg)
        bridge = QFormerBridge(sizes, encoder.width, text=True)
        return cls(cfg, encoder=encoder, bridge=bridge, tokenizer=tokenizer)

    @classmethod
    def check_files(cls, cfg: Blip2QformerConfig) -> None:
        trained = "a training of this project (arch blip2), or BLIP-2's first stage"
        checks = [
            bert_check(cfg.bert_model),
            file_check("model.ckpt", cfg.ckpt, "a trained first stage", trained),
        ]
        require_all([*cls.part_checks(cfg), *checks, lambda: cls.init_tokenizer(cfg.bert_tokenizer)])

    @classmethod
    def from_config(cls, cfg: Blip2QformerConfig, device: str | torch.device = "cpu") -> Self:
        """Build the model and load the weight files that `cfg` names."""
        cls.check_files(cfg)
        model = cls.build(replace(cfg, vit_precision=vision_precision(cfg.vit_precision, device)))
        if cfg.bert_model is not None:
            load_bert(model.Qformer, cfg.bert_model)
            model._copy_text_half_to_queries()
        model.load_parts(cfg)
        if cfg.ckpt is not None:
            model.load_checkpoint(cfg.ckpt, required=("Qformer", "query_tokens", *PAIR_PARTS))
        return model

    def _copy_text_half_to_queries(self) -> None:
        """Start the queries' feed-forward parts as copies of the text's, as BLIP-2 does."""
        for layer in self.Qformer.bert.encoder.layers():
            layer.intermediate_query.load_state_dict(layer.intermediate.state_dict())
            layer.output_query.load_state_dict(layer.output.state_dict())

    # ---- losses

    def forward(self, samples: Mapping[str, Any]) -> BlipOutput:
        """Losses of a batch with "image" (B, 3, height, width) and "caption" (B texts).

        Where they are known, "image_id", "study_id" and "labels" tell which pairs belong together.
        """
        image_embeds = self.embed_image(images_of(samples))
        queries = self.query_tokens.expand(len(image_embeds), -1, -1)
        query_output = self.Qformer.bert(
            query_embeds=queries, encoder_hidden_states=image_embeds, use_cache=True
        )
        tokens = self.tokenize(samples["caption"])
        loss_itc, loss_itm = self.pair_losses(
            samples,
            self.project(self.vision_proj, query_output.last_hidden_state),
            self.encode_texts(tokens),
            Pairs(image_embeds, tokens.input_ids, tokens.attention_mask),
        )
        loss_lm = self._writing_loss(tokens, query_output.past_key_values)
        return BlipOutput(
            loss=loss_itc + loss_itm + loss_lm, loss_itc=loss_itc, loss_itm=loss_itm, loss_lm=loss_lm
        )

    def itm_logits(self, image_embeds: Tensor, text_ids: Tensor, text_mask: Tensor) -> Tensor:
        """Scores (B, 2) of no match / match, the mean over the queries."""
        return self.itm_head(self._multimodal(image_embeds, text_ids, text_mask)).mean(dim=1)

    def _multimodal(self, image_embeds: Tensor, text_ids: Tensor, text_mask: Tensor) -> Tensor:
        """(B, Q, D): the queries, having seen image and text."""
        queries = self.query_tokens.expand(len(image_embeds), -1, -1)
        output = self.Qformer.bert(
            text_ids,
            query_embeds=queries,
            attention_mask=torch.cat([text_mask.new_ones(queries.shape[:-1]), text_mask], dim=1),
            encoder_hidden_states=image_embeds,
        )
        return output.last_hidden_state[:, : queries.shape[1]]

    def _writing_loss(self, tokens: BatchEncoding, query_cache: KeyValueCache) -> Tensor:
        """Loss of writing the report after the queries; the text begins with [DEC] in place of [CLS]."""
        ids = tokens.input_ids.clone()
        ids[:, 0] = self.tokenizer.bos_token_id
        num_queries = self.query_tokens.shape[1]
        mask = torch.cat([tokens.attention_mask.new_ones(len(ids), num_queries), tokens.attention_mask], 1)
        labels = ids.masked_fill(ids == self.tokenizer.pad_token_id, IGNORED_LABEL)
        output = self.Qformer(
            ids, attention_mask=mask, past_key_values=query_cache, labels=labels, reduction="none"
        )
        return global_mean(output.loss.sum(), (labels[:, 1:] != IGNORED_LABEL).sum(), self.world_size)

    # ---- use of the trained model

    def forward_image(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, height, width) -> query outputs (B, Q, D) and image tokens (B, N, V)."""
        image_embeds = self.embed_image(image)
        return self.bridge.read(image_embeds), image_embeds

    def forward_text(self, text_tokens: BatchEncoding) -> Tensor:
        """Tokenized texts -> their [CLS] outputs (B, D)."""
        output = self.Qformer.bert(text_tokens.input_ids, attention_mask=text_tokens.attention_mask)
        return output.last_hidden_state[:, 0]

    def encode_images(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, height, width) -> unit vectors of the queries (B, Q, E) and image tokens (B, N, V)."""
        outputs, image_embeds = self.forward_image(image)
        return self.project(self.vision_proj, outputs), image_embeds

    def encode_texts(self, text_tokens: BatchEncoding) -> Tensor:
        """Tokenized texts -> unit vectors (B, E)."""
        return self.project(self.text_proj, self.forward_text(text_tokens))

    @torch.no_grad()
    def extract_features(self, samples: Mapping[str, Any], mode: str = "multimodal") -> BlipOutputFeatures:
        """Features of a batch: of its images, its texts, or of the queries having seen both."""
        if mode not in FEATURE_MODES:
            raise ValueError(f"mode must be one of {FEATURE_MODES}, not {mode!r}")
        if mode == "text":
            tokens = self.tokenize_whole(captions_of(samples))
            output = self.Qformer.bert(tokens.input_ids, attention_mask=tokens.attention_mask)
            text_embeds = output.last_hidden_state
            projected = self.project(self.text_proj, text_embeds)
            return BlipOutputFeatures(text_embeds=text_embeds, text_embeds_proj=projected)
        if mode == "image":
            image_embeds, _ = self.forward_image(images_of(samples))
            projected = self.project(self.vision_proj, image_embeds)
            return BlipOutputFeatures(image_embeds=image_embeds, image_embeds_proj=projected)
        tokens = self.tokenize_whole(captions_of(samples))
        image_embeds = self.embed_image(images_of(samples))
        embeds = self._multimodal(image_embeds, tokens.input_ids, tokens.attention_mask)
        return BlipOutputFeatures(multimodal_embeds=embeds)

    def tokenize_whole(self, texts: Sequence[str]) -> BatchEncoding:
        """Like `tokenize`, cut only where the position embeddings end."""
        longest = self.Qformer.config.max_position_embeddings
        return tokenize(self.tokenizer, texts, longest).to(self.device)

    @torch.no_grad()
    def generate(self, samples: Mapping[str, Any], generation: GenerationConfig) -> list[str]:
        """Write a report for each image of the batch."""
        sequences = self._write(self.embed_image(images_of(samples)), generation)
        return self.tokenizer.batch_decode(sequences[:, 1:], skip_special_tokens=True)

    @torch.no_grad()
    def generate_detailed(
        self, samples: Mapping[str, Any], generation: GenerationConfig
    ) -> list[GeneratedReport]:
        """The reports of `generate`, each with how it came about."""
        image_embeds = self.embed_image(images_of(samples))
        sequences = self._write(image_embeds, generation)

        def logits_of(rows: slice) -> Tensor:
            images = image_embeds[rows]
            queries = self.query_tokens.expand(len(images), -1, -1)
            return self.Qformer(
                sequences[rows, :-1], query_embeds=queries, encoder_hidden_states=images
            ).logits

        return bert_reports(self.tokenizer, sequences[:, 1:], logits_of)

    def _write(self, image_embeds: Tensor, generation: GenerationConfig) -> Tensor:
        """Write about images (B, N, V); returns the tokens, [DEC] first, padded behind the end token."""
        batch = len(image_embeds)
        start = torch.full((batch, 1), self.tokenizer.bos_token_id, device=image_embeds.device)
        settings = SearchSettings(
            **vars(generation),
            max_length=self.Qformer.config.max_position_embeddings,
            eos_token_id=self.tokenizer.sep_token_id,
            pad_token_id=self.tokenizer.pad_token_id,
        )
        result = self.Qformer.generate(
            start,
            settings,
            query_embeds=self.query_tokens.expand(batch, -1, -1),
            encoder_hidden_states=image_embeds,
        )
        return result.sequences
