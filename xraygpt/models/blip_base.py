"""What BLIP's models share: vision encoder, tokenizer, sizes of the text part.

Shapes: B images, N image tokens, V their width, L text tokens.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from transformers import BatchEncoding

from xraygpt.common.errors import ConfigError
from xraygpt.common.generation import GenerationConfig
from xraygpt.common.precision import vision_precision
from xraygpt.models.base_model import file_check, images_of, require_all
from xraygpt.models.bert_lm import IGNORED_LABEL, SearchSettings, bert_reports
from xraygpt.models.bert_pretrained import ENCODER_START, bert_check, init_bert_tokenizer, load_bert
from xraygpt.models.generation import GeneratedReport
from xraygpt.models.med import BertLMHeadModel, MedConfig
from xraygpt.models.parts import LayerNorm
from xraygpt.models.vision_tower import VisionTower, VisionTowerConfig, build_encoder


@dataclass
class BlipConfig(VisionTowerConfig):
    """Settings that BLIP's models have in common."""

    med: MedConfig = field(default_factory=MedConfig)
    """Sizes of the text part; its vocabulary size is that of the tokenizer, whatever stands here."""
    bert_tokenizer: str = "bert-base-uncased"
    """WordPiece vocabulary file, tokenizer folder or hub name."""
    bert_model: str | None = None
    """Weights of a BERT that the text part starts from, as in BLIP from bert-base-uncased; none: random."""
    max_txt_len: int = 40
    """Longest text in tokens; longer ones are cut."""
    ckpt: str | None = None
    """Checkpoint of a training of this model; the report writer takes one of the pretraining too."""

    def __post_init__(self) -> None:
        super().__post_init__()
        longest = self.med.max_position_embeddings
        if not 2 <= self.max_txt_len <= longest:
            raise ValueError(f"max_txt_len must lie between 2 and {longest} (med.max_position_embeddings)")


class BlipBase(VisionTower):
    """Base of BLIP's models: a vision encoder, and a decoder that writes reports about its images."""

    REQUIRED_PARTS: ClassVar[tuple[str, ...]] = ("text_decoder",)
    """What a checkpoint of this model has to hold."""

    text_decoder: BertLMHeadModel

    def __init__(self, cfg: BlipConfig, prompt: str = "") -> None:
        super().__init__(cfg, build_encoder(cfg))
        self.ln_vision = LayerNorm(self.visual_encoder.width)
        self.tokenizer = init_bert_tokenizer(cfg.bert_tokenizer)
        self.tokenizer.add_tokens([ENCODER_START], special_tokens=True)
        self.encoder_start_id: int = self.tokenizer.vocab[ENCODER_START]
        self.max_txt_len = cfg.max_txt_len
        prompt_ids = self.tokenizer(prompt, add_special_tokens=False).input_ids
        if len(prompt_ids) + 2 > cfg.max_txt_len:
            raise ConfigError(f"model.prompt leaves no room for a report in max_txt_len {cfg.max_txt_len}")
        self.start_ids: list[int] = [self.tokenizer.bos_token_id, *prompt_ids]
        """What every report begins with: given, not learnt."""

    def med_config(self, cfg: BlipConfig) -> MedConfig:
        """`cfg.med` with what follows from the rest."""
        return replace(cfg.med, encoder_width=self.visual_encoder.width, vocab_size=len(self.tokenizer))

    @classmethod
    def check_files(cls, cfg: BlipConfig) -> None:
        require_all(
            [
                cls.vision_check(cfg),
                bert_check(cfg.bert_model),
                lambda: init_bert_tokenizer(cfg.bert_tokenizer),
                file_check("model.ckpt", cfg.ckpt, "a trained BLIP", "a training of this project"),
            ]
        )

    @classmethod
    def from_config(cls, cfg: BlipConfig, device: str | torch.device = "cpu") -> Self:
        """Build the model and load the weight files that `cfg` names."""
        cls.check_files(cfg)
        model = cls(replace(cfg, vit_precision=vision_precision(cfg.vit_precision, device)))
        model.load_parts(cfg)
        if cfg.ckpt is not None:
            model.load_checkpoint(cfg.ckpt, required=cls.REQUIRED_PARTS)
        return model

    def load_parts(self, cfg: BlipConfig) -> None:
        """Load the pretrained parts that `cfg` names, before its checkpoint."""
        if cfg.vit_ckpt is not None:
            self.load_vision_encoder(cfg.vit_ckpt)
        if cfg.bert_model is not None:
            load_bert(self.text_decoder, cfg.bert_model)

    def embed_image(self, image: Tensor) -> Tensor:
        """(B, 3, height, width) -> (B, N, V): vision encoder and ln_vision."""
        return self.ln_vision(self.encode_patches(image))

    def writing_loss(self, image_embeds: Tensor, tokens: BatchEncoding) -> tuple[Tensor, Tensor]:
        """Loss of writing the reports about images (B, N, V), summed over tokens, and their number.

        `tokens` are of prompt and report; their first is replaced by [DEC], the prompt does not count.
        """
        ids = tokens.input_ids.clone()
        ids[:, 0] = self.tokenizer.bos_token_id
        labels = ids.masked_fill(tokens.attention_mask == 0, IGNORED_LABEL)
        labels[:, : len(self.start_ids)] = IGNORED_LABEL
        output = self.text_decoder(
            ids,
            attention_mask=tokens.attention_mask,
            encoder_hidden_states=image_embeds,
            labels=labels,
            reduction="none",
        )
        return output.loss.sum(), (labels != IGNORED_LABEL).sum()

    def write(self, image_embeds: Tensor, generation: GenerationConfig) -> Tensor:
        """Write a report about each image (B, N, V), greedily, by beam search or by nucleus sampling.

        Returns the tokens, those that every report begins with included, padded behind the end token.
        """
        start = torch.tensor(self.start_ids, device=image_embeds.device).expand(len(image_embeds), -1)
        settings = SearchSettings(
            **vars(generation),
            max_length=self.max_txt_len,
            eos_token_id=self.tokenizer.sep_token_id,
            pad_token_id=self.tokenizer.pad_token_id,
        )
        return self.text_decoder.generate(start, settings, encoder_hidden_states=image_embeds).sequences

    @torch.no_grad()
    def generate(self, samples: Mapping[str, Any], generation: GenerationConfig) -> list[str]:
        """Write a report for each image of the batch."""
        sequences = self.write(self.embed_image(images_of(samples)), generation)
        return self.tokenizer.batch_decode(sequences[:, len(self.start_ids) :], skip_special_tokens=True)

    @torch.no_grad()
    def generate_detailed(
        self, samples: Mapping[str, Any], generation: GenerationConfig
    ) -> list[GeneratedReport]:
        """The reports of `generate`, each with how it came about."""
        image_embeds = self.embed_image(images_of(samples))
        sequences = self.write(image_embeds, generation)
        start = len(self.start_ids)

        def logits_of(rows: slice) -> Tensor:
            before = sequences[rows, :-1]
            return self.text_decoder(before, encoder_hidden_states=image_embeds[rows]).logits[:, start - 1 :]

        return bert_reports(self.tokenizer, sequences[:, start:], logits_of)
