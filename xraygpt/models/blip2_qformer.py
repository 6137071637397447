"""BLIP-2's first stage: the Q-Former learns to read images from image-report pairs (Li et al., 2023).

Three losses share one pass of the image: contrastive (ITC), matching with hard negatives (ITM), and
writing the report (LM) through the cache of the query pass.

Shapes: B pairs on this process, W pairs over all processes (W = B without a process group), N image
tokens, Q query tokens, L text tokens, D hidden size, E shared embedding size.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import BatchEncoding

from xraygpt.common.dist_utils import get_rank, get_world_size
from xraygpt.common.generation import GenerationConfig
from xraygpt.common.precision import vision_precision
from xraygpt.common.registry import registry
from xraygpt.models.base_model import all_gather_with_grad
from xraygpt.models.batches import images_of
from xraygpt.models.bert_blocks import IGNORED_LABEL
from xraygpt.models.bert_generation import SearchSettings
from xraygpt.models.blip2 import Blip2Base, Blip2Config
from xraygpt.models.blip2_losses import (
    Similarities,
    contrastive_loss,
    draw_hard_negatives,
    id_keys,
    same_pairs,
)
from xraygpt.models.blip2_outputs import BlipOutput, BlipOutputFeatures
from xraygpt.models.Qformer import BertLMHeadModel, KeyValueCache
from xraygpt.models.required_files import require_all

FEATURE_MODES = ("image", "text", "multimodal")


@dataclass
class Blip2QformerConfig(Blip2Config):
    """Settings of the first stage."""

    bert_tokenizer: str = "bert-base-uncased"
    """WordPiece vocabulary file, tokenizer folder or hub name."""
    embed_dim: int = 256
    """Size E of the space in which images and texts are compared."""
    max_txt_len: int = 32
    """Longest report in tokens; longer ones are cut."""
    mask_same_report: bool = True
    """Treat a pair with the same report text as a match too: never a negative in ITM, part of the target
    in ITC. Reports repeat far more often than captions do. Off, as in the reference, only the pair itself
    and pairs of the same image_id count as matches."""

    def __post_init__(self) -> None:
        super().__post_init__()
        longest = self.qformer.max_position_embeddings
        if not 2 <= self.max_txt_len <= longest:
            raise ValueError(f"max_txt_len must lie between 2 and {longest} (max_position_embeddings)")
        if self.embed_dim < 1:
            raise ValueError("embed_dim must be at least 1")


@registry.register_model("blip2")
class Blip2Qformer(Blip2Base):
    """The first stage's model.

    `freeze_vit` leaves ln_vision trainable, as LAVIS does. The vocabulary size is that of the tokenizer,
    [DEC] included, whatever `qformer.vocab_size` says.
    """

    config_class: ClassVar[type] = Blip2QformerConfig
    PRETRAINED_MODEL_CONFIG_DICT: ClassVar[dict[str, str]] = {}

    Qformer: BertLMHeadModel

    def __init__(self, cfg: Blip2QformerConfig) -> None:
        super().__init__()
        self.tokenizer = self.init_tokenizer(cfg.bert_tokenizer)
        sizes = replace(cfg.qformer, vocab_size=len(self.tokenizer))
        self.init_parts(replace(cfg, qformer=sizes), text=True)
        self._copy_text_half_to_queries()
        width = cfg.qformer.hidden_size
        self.vision_proj = nn.Linear(width, cfg.embed_dim)
        self.text_proj = nn.Linear(width, cfg.embed_dim)
        self.itm_head = nn.Linear(width, 2)
        self.temp = nn.Parameter(torch.tensor(0.07))
        self.max_txt_len = cfg.max_txt_len
        self.mask_same_report = cfg.mask_same_report

    @classmethod
    def check_files(cls, cfg: Blip2QformerConfig) -> None:
        require_all([*cls.part_checks(cfg), lambda: cls.init_tokenizer(cfg.bert_tokenizer)])

    @classmethod
    def from_config(cls, cfg: Blip2QformerConfig, device: str | torch.device = "cpu") -> Self:
        """Build the model and load the weight files that `cfg` names."""
        cls.check_files(cfg)
        model = cls(replace(cfg, vit_precision=vision_precision(cfg.vit_precision, device)))
        model.load_parts(cfg)
        return model

    def _copy_text_half_to_queries(self) -> None:
        """Start the queries' feed-forward parts as copies of the text's, as BLIP-2 does."""
        for layer in self.Qformer.bert.encoder.layers():
            layer.intermediate_query.load_state_dict(layer.intermediate.state_dict())
            layer.output_query.load_state_dict(layer.output.state_dict())

    # ---- gathering, text and keys

    @property
    def _world_size(self) -> int:
        """Processes whose pairs are compared; while evaluating each keeps to its own, of whatever number."""
        return get_world_size() if self.training else 1

    def _gather(self, tensor: Tensor) -> Tensor:
        """(B, ...) -> (W, ...), with gradient."""
        return all_gather_with_grad(tensor) if self._world_size > 1 else tensor

    def tokenize(self, texts: Sequence[str], padding: str | None = None) -> BatchEncoding:
        """`input_ids` and `attention_mask`, (B, L) each, cut at `max_txt_len`, on this model's device.

        By default padded to the longest text; with several processes to `max_txt_len`, so that their
        tensors can be gathered.
        """
        padding = padding or ("longest" if self._world_size == 1 else "max_length")
        tokens = self.tokenizer(
            list(texts),
            padding=padding,
            truncation=True,
            max_length=self.max_txt_len,
            return_token_type_ids=False,
            return_tensors="pt",
        )
        return tokens.to(self.device)

    def _matches(self, samples: Mapping[str, Any], text_ids: Tensor) -> Tensor:
        """(B, W) bool: which pairs match: the pair itself, the same image_id, the same report text."""
        batch, device = len(text_ids), text_ids.device
        own = torch.arange(batch, device=device) + (get_rank() * batch if self._world_size > 1 else 0)
        matches = own[:, None] == torch.arange(batch * self._world_size, device=device)[None]
        if samples.get("image_id") is not None:
            keys = id_keys(samples["image_id"]).to(device)
            matches = matches | same_pairs(keys, self._gather(keys))
        if self.mask_same_report:
            matches = matches | same_pairs(text_ids, self._gather(text_ids))
        return matches

    # ---- losses

    def forward(self, samples: Mapping[str, Any]) -> BlipOutput:
        """Losses of a batch with "image" (B, 3, height, width), "caption" (B texts), "image_id" if known."""
        image_embeds = self.embed_image(images_of(samples))
        queries = self.query_tokens.expand(len(image_embeds), -1, -1)
        query_output = self.Qformer.bert(
            query_embeds=queries, encoder_hidden_states=image_embeds, use_cache=True
        )
        tokens = self.tokenize(samples["caption"])
        text_output = self.Qformer.bert(tokens.input_ids, attention_mask=tokens.attention_mask)
        similarities = self._similarities(
            F.normalize(self.vision_proj(query_output.last_hidden_state), dim=-1),
            F.normalize(self.text_proj(text_output.last_hidden_state[:, 0]), dim=-1),
        )
        matches = self._matches(samples, tokens.input_ids)
        loss_itc = contrastive_loss(similarities, matches)
        loss_itm = self._matching_loss(image_embeds, tokens, similarities, matches)
        loss_lm = self._writing_loss(tokens, query_output.past_key_values)
        return BlipOutput(
            loss=loss_itc + loss_itm + loss_lm, loss_itc=loss_itc, loss_itm=loss_itm, loss_lm=loss_lm
        )

    def _similarities(self, image_feats: Tensor, text_feat: Tensor) -> Similarities:
        """(B, Q, E) and (B, E) unit vectors -> similarities, that of the best query of an image."""
        all_images = self._gather(image_feats)  # (W, Q, E)
        all_texts = self._gather(text_feat)  # (W, E)
        image_to_text = torch.einsum("bqe,we->bwq", image_feats, all_texts).amax(-1)
        text_to_image = torch.einsum("be,wqe->bwq", text_feat, all_images).amax(-1)
        return Similarities(image_to_text / self.temp, text_to_image / self.temp)

    def _matching_loss(
        self, image_embeds: Tensor, tokens: BatchEncoding, similarities: Similarities, matches: Tensor
    ) -> Tensor:
        """Tell true pairs from (hard negative image, text) and (image, hard negative text)."""
        ids, mask = tokens.input_ids, tokens.attention_mask
        images_all = self._gather(image_embeds)
        ids_all, mask_all = self._gather(ids), self._gather(mask)
        image_neg, image_found = draw_hard_negatives(similarities.text_to_image, matches)
        text_neg, text_found = draw_hard_negatives(similarities.image_to_text, matches)
        logits = self._itm_logits(
            torch.cat([image_embeds, images_all[image_neg], image_embeds]),
            torch.cat([ids, ids, ids_all[text_neg]]),
            torch.cat([mask, mask, mask_all[text_neg]]),
        )  # (3B, 2)
        positive = torch.ones_like(image_found)
        labels = torch.cat([positive, ~positive, ~positive]).long()
        counted = torch.cat([positive, image_found, text_found]).float()
        losses = F.cross_entropy(logits.float(), labels, reduction="none")
        return (losses * counted).sum() / counted.sum()

    def _itm_logits(self, image_embeds: Tensor, text_ids: Tensor, text_mask: Tensor) -> Tensor:
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
        return self.Qformer(ids, attention_mask=mask, past_key_values=query_cache, labels=labels).loss

    # ---- use of the trained model

    def forward_image(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, height, width) -> query outputs (B, Q, D) and image tokens (B, N, V)."""
        image_embeds = self.embed_image(image)
        return self.run_queries(image_embeds), image_embeds

    def forward_text(self, text_tokens: BatchEncoding) -> Tensor:
        """Tokenized texts -> their [CLS] outputs (B, D)."""
        output = self.Qformer.bert(text_tokens.input_ids, attention_mask=text_tokens.attention_mask)
        return output.last_hidden_state[:, 0]

    def compute_itm(self, image_inputs: Tensor, text_ids: Tensor, text_atts: Tensor) -> Tensor:
        """Image tokens (B, N, V) and texts (B, L) -> matching logit (B,), the higher the likelier."""
        return self._itm_logits(image_inputs, text_ids, text_atts)[:, 1]

    @torch.no_grad()
    def extract_features(self, samples: Mapping[str, Any], mode: str = "multimodal") -> BlipOutputFeatures:
        """Features of a batch: of its images, its texts, or of the queries having seen both."""
        if mode not in FEATURE_MODES:
            raise ValueError(f"mode must be one of {FEATURE_MODES}, not {mode!r}")
        if mode == "text":
            tokens = self.tokenize_whole(samples["caption"])
            output = self.Qformer.bert(tokens.input_ids, attention_mask=tokens.attention_mask)
            text_embeds = output.last_hidden_state
            projected = F.normalize(self.text_proj(text_embeds), dim=-1)
            return BlipOutputFeatures(text_embeds=text_embeds, text_embeds_proj=projected)
        if mode == "image":
            image_embeds, _ = self.forward_image(samples["image"])
            projected = F.normalize(self.vision_proj(image_embeds), dim=-1)
            return BlipOutputFeatures(image_embeds=image_embeds, image_embeds_proj=projected)
        tokens = self.tokenize_whole(samples["caption"])
        image_embeds = self.embed_image(samples["image"])
        embeds = self._multimodal(image_embeds, tokens.input_ids, tokens.attention_mask)
        return BlipOutputFeatures(multimodal_embeds=embeds)

    def tokenize_whole(self, texts: Sequence[str]) -> BatchEncoding:
        """Like `tokenize`, cut only where the position embeddings end."""
        longest = self.Qformer.config.max_position_embeddings
        tokens = self.tokenizer(
            list(texts), padding=True, truncation=True, max_length=longest, return_tensors="pt"
        )
        return tokens.to(self.device)

    @torch.no_grad()
    def generate(self, samples: Mapping[str, Any], generation: GenerationConfig) -> list[str]:
        """Write a report for each image of the batch."""
        image_embeds = self.embed_image(images_of(samples))
        batch = len(image_embeds)
        start = torch.full((batch, 1), self.tokenizer.bos_token_id, device=image_embeds.device)
        settings = SearchSettings(
            max_length=min(1 + generation.max_new_tokens, self.Qformer.config.max_position_embeddings),
            min_length=1 + generation.min_length,
            eos_token_id=self.tokenizer.sep_token_id,
            pad_token_id=self.tokenizer.pad_token_id,
            num_beams=generation.num_beams,
            length_penalty=generation.length_penalty,
            repetition_penalty=generation.repetition_penalty,
            do_sample=generation.do_sample,
            top_p=generation.top_p,
            temperature=generation.temperature,
        )
        result = self.Qformer.generate(
            start,
            settings,
            query_embeds=self.query_tokens.expand(batch, -1, -1),
            encoder_hidden_states=image_embeds,
        )
        return self.tokenizer.batch_decode(result.sequences, skip_special_tokens=True)
