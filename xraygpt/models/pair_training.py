"""Learning from pairs of images and reports by contrast (ITC) and matching (ITM), for any two encoders.

BLIP-2's Q-Former and BLIP's two towers differ in how they encode; what is done with the encodings is here.

Shapes: B pairs on this process, W pairs over all processes (W = B without a process group), N image
tokens of width V, Q image features of size E, L text tokens.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import BatchEncoding, BertTokenizer

from xraygpt.common.dist_utils import get_rank, get_world_size
from xraygpt.models.base_model import BaseModel, all_gather_with_grad
from xraygpt.models.bert_pretrained import count_cut, tokenize
from xraygpt.models.blip2_losses import (
    Pairs,
    Similarities,
    best_cosines,
    contrastive_loss,
    draw_hard_negatives,
    global_mean,
    id_keys,
    matching_batch,
    matching_loss,
    own_pairs,
    pair_similarities,
    same_pairs,
    shared_targets,
)

PAIR_PARTS = ("vision_proj", "text_proj", "itm_head", "temp")
"""What `PairTraining` adds to a model: names of its parts, and of their keys in checkpoints."""


@dataclass
class PairTrainingConfig:
    """Settings of contrast and matching."""

    embed_dim: int = 256
    """Size E of the space in which images and texts are compared."""
    min_temp: float = 0.0
    """The learnt temperature of the contrast does not fall below this. 0 sets no bound, as in BLIP-2; BLIP
    has 0.001. A rate that suits the other weights can take the temperature to 0.01 within a hundred steps,
    and the gradients of the contrast then drown those of matching."""
    mask_same_report: bool = True
    """Treat a pair with the same report as a match too: never a negative in ITM, part of the target in ITC.
    The same report is that of the same study, or one with the same words as far as the model reads them.
    Reports repeat far more often than captions do. Off, as in the reference, only the pair itself and pairs
    of the same image_id count as matches. A pair that all others of the batch match has no negative: only
    the true pair counts in ITM."""
    mask_same_findings: bool = False
    """The same for a pair with the same findings, in data that have labels: their reports say the same in
    other words."""

    def __post_init__(self) -> None:
        if self.embed_dim < 1:
            raise ValueError("embed_dim must be at least 1")
        if not 0 <= self.min_temp < 1:
            raise ValueError("min_temp must be at least 0 and below 1")
        super().__post_init__()  # type: ignore[misc]  # of the model's configuration that this is mixed into


class PairTraining(BaseModel):
    """Mixin of the models that learn which image and which report belong together.

    Subclasses set `tokenizer` and `max_txt_len`, call `init_heads` and define the encoders, which retrieval
    uses too.
    """

    tokenizer: BertTokenizer
    max_txt_len: int
    vision_proj: nn.Linear
    text_proj: nn.Linear
    itm_head: nn.Linear
    temp: nn.Parameter
    """What similarities are divided by."""
    min_temp: float
    """What `temp` does not fall below."""
    mask_same_report: bool
    """Whether equal reports and images of one study match too, not only equal image ids."""
    mask_same_findings: bool
    """Whether pairs with equal labels match too, in data that have labels."""

    def init_heads(self, cfg: PairTrainingConfig, image_width: int, text_width: int) -> None:
        """Build what compares images and texts of these widths."""
        self.vision_proj = nn.Linear(image_width, cfg.embed_dim)
        self.text_proj = nn.Linear(text_width, cfg.embed_dim)
        self.itm_head = nn.Linear(text_width, 2)
        self.temp = nn.Parameter(torch.tensor(0.07))
        self.min_temp = cfg.min_temp
        self.mask_same_report = cfg.mask_same_report
        self.mask_same_findings = cfg.mask_same_findings

    def encode_images(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, height, width) -> unit vectors (B, Q, E) and image tokens (B, N, V)."""
        raise NotImplementedError

    def encode_texts(self, text_tokens: BatchEncoding) -> Tensor:
        """Tokenized texts -> unit vectors (B, E)."""
        raise NotImplementedError

    def itm_logits(self, image_embeds: Tensor, text_ids: Tensor, text_mask: Tensor) -> Tensor:
        """Image tokens (B, N, V) and texts (B, L) -> scores (B, 2) of no match / match."""
        raise NotImplementedError

    def project(self, linear: nn.Linear, states: Tensor) -> Tensor:
        """(..., D) -> unit vectors (..., E), in float32 whatever autocast says."""
        with torch.autocast(states.device.type, enabled=False):
            return F.normalize(linear(states.float()), dim=-1)

    def compute_itm(self, image_inputs: Tensor, text_ids: Tensor, text_atts: Tensor) -> Tensor:
        """Image tokens (B, N, V) and texts (B, L) -> matching logit (B,), the higher the likelier."""
        return self.itm_logits(image_inputs, text_ids, text_atts)[:, 1]

    @torch.no_grad()
    def similarity(self, image: Tensor, texts: Sequence[str]) -> Tensor:
        """Zero-shot: cosine (B, T) of each image's best feature with each of T texts, whatever these are."""
        feats, _ = self.encode_images(image)
        return best_cosines(feats, self.encode_texts(self.tokenize(texts, "longest")))

    def tokenize(self, texts: Sequence[str], padding: str | None = None) -> BatchEncoding:
        """`input_ids` and `attention_mask`, (B, L) each, cut at `max_txt_len`, on this model's device.

        By default padded to the longest text; with several processes to `max_txt_len`, so that their
        tensors can be gathered.
        """
        padding = padding or ("longest" if self.world_size == 1 else "max_length")
        return tokenize(self.tokenizer, texts, self.max_txt_len, padding).to(self.device)

    def cut_captions(self, captions: Sequence[str]) -> int:
        return count_cut(self.tokenizer, captions, self.max_txt_len)

    @property
    def world_size(self) -> int:
        """Processes whose pairs are compared; while evaluating each keeps to its own, of whatever number."""
        return get_world_size() if self.training else 1

    def pair_losses(
        self, samples: Mapping[str, Any], image_feats: Tensor, text_feats: Tensor, pairs: Pairs
    ) -> tuple[Tensor, Tensor]:
        """ITC and ITM of unit vectors (B, Q, E) and (B, E), and of the image tokens and texts behind them."""
        if self.training and self.min_temp > 0:
            with torch.no_grad():
                self.temp.clamp_(min=self.min_temp)
        similarities = pair_similarities(image_feats, text_feats, self.temp, self._gather)
        matches = self._matches(samples, pairs.text_ids)
        loss_itc = contrastive_loss(similarities, shared_targets(matches))
        return loss_itc, self._matching_loss(pairs, similarities, matches)

    def _gather(self, tensor: Tensor) -> Tensor:
        """(B, ...) -> (W, ...), with gradient."""
        return all_gather_with_grad(tensor) if self.world_size > 1 else tensor

    def _matches(self, samples: Mapping[str, Any], text_ids: Tensor) -> Tensor:
        """(B, W) bool: the pair itself, pairs of the same image_id and, if wanted, report or findings."""
        batch, device = len(text_ids), text_ids.device
        matches = own_pairs(batch, get_rank() if self.world_size > 1 else 0, self.world_size, device)
        keys = [id_keys(samples["image_id"]).to(device)] if samples.get("image_id") is not None else []
        if self.mask_same_report:
            keys.append(text_ids)
            if "study_id" in samples:
                keys.append(id_keys(samples["study_id"]).to(device))
        if self.mask_same_findings and "labels" in samples:
            keys.append(samples["labels"].to(device))
        for key in keys:
            matches = matches | same_pairs(key, self._gather(key))
        return matches

    def _matching_loss(self, pairs: Pairs, similarities: Similarities, matches: Tensor) -> Tensor:
        """Tell true pairs from (hard negative image, text) and (image, hard negative text)."""
        batch = matching_batch(
            pairs,
            Pairs(*map(self._gather, pairs)),
            wrong_images=draw_hard_negatives(similarities.text_to_image, matches),
            wrong_texts=draw_hard_negatives(similarities.image_to_text, matches),
        )
        return global_mean(*matching_loss(self.itm_logits(*batch.pairs), batch), self.world_size)
