"""Learning from pairs of images and reports by contrast (ITC), matching (ITM) and writing (LM), and BLIP's
pretraining (Li et al., 2022).

BLIP and BLIP-2's first stage differ in how they encode; what is done with the encodings is `PairTraining`.

Shapes: B pairs on this process, W pairs over all processes (W = B without a process group), N image
tokens of width V, Q image features of size E, L text tokens.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import BatchEncoding

from xraygpt.common.dist_utils import all_gather_with_grad, all_reduce_mean, get_rank, get_world_size
from xraygpt.common.registry import registry
from xraygpt.datasets.batch import captions_of, images_of
from xraygpt.models.bert_pretrained import ENCODER_START
from xraygpt.models.blip2_outputs import BlipOutput
from xraygpt.models.blip_caption import PAIR_PARTS, BertWriter, BertWriterConfig, BlipBase, BlipConfig
from xraygpt.models.med import BertLMHeadModel, BertModel
from xraygpt.models.parts import VisionEncoder


@dataclass
class PairTrainingConfig(BertWriterConfig):
    """Settings of contrast and matching."""

    embed_dim: int = 256
    """Size E of the space in which images and texts are compared."""
    min_temp: float = 0.0
    """The learnt temperature of the contrast does not fall below this. 0 sets no bound, as in BLIP-2; BLIP
    has 0.001. A rate that suits the other weights can take the temperature to 0.01 within a hundred steps,
    and the gradients of the contrast then drown those of matching."""
    mask_same_report: bool = True
    """Treat a pair with the same report as a match too: never a negative in ITM, part of the target in ITC.
    The same report is that of the same study, or one with the same words as far as the model reads them;
    reports repeat far more often than captions do. Off, as in the reference: only the pair itself and those
    of the same image_id. A pair that all others of the batch match counts in ITM without a negative."""
    mask_same_findings: bool = False
    """The same for a pair with the same findings, in data that have labels: their reports say the same in
    other words."""

    def __post_init__(self) -> None:
        if self.embed_dim < 1:
            raise ValueError("embed_dim must be at least 1")
        if not 0 <= self.min_temp < 1:
            raise ValueError("min_temp must be at least 0 and below 1")
        super().__post_init__()


class PairTraining(BertWriter):
    """Base of the models that learn which image and which report belong together.

    Subclasses call `init_heads` and define the encoders, which retrieval uses too.
    """

    def init_heads(self, cfg: PairTrainingConfig, image_width: int, text_width: int) -> None:
        """Build what compares images and texts of these widths."""
        self.vision_proj = nn.Linear(image_width, cfg.embed_dim)
        self.text_proj = nn.Linear(text_width, cfg.embed_dim)
        self.itm_head = nn.Linear(text_width, 2)
        self.temp = nn.Parameter(torch.tensor(0.07))  # what similarities are divided by
        self.min_temp = cfg.min_temp
        self.mask_same_report = cfg.mask_same_report
        self.mask_same_findings = cfg.mask_same_findings

    # ---- encoders

    def read_images(self, image: Tensor) -> tuple[Tensor, Tensor, dict[str, Any]]:
        """(B, 3, height, width) -> what `encode_images` returns, and the arguments of `writing_loss`."""
        raise NotImplementedError

    def encode_images(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, height, width) -> unit vectors (B, Q, E) and image tokens (B, N, V)."""
        return self.read_images(image)[:2]

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
        return best_cosines(feats, self.encode_texts(self.tokenize(texts)))

    # ---- losses

    @property
    def world_size(self) -> int:
        """Processes whose pairs are compared; while evaluating each keeps to its own, of whatever number."""
        return get_world_size() if self.training else 1

    def forward(self, samples: Mapping[str, Any]) -> BlipOutput:
        """Losses of a batch with "image" (B, 3, height, width) and "caption" (B texts).

        Where they are known, "image_id", "study_id" and "labels" tell which pairs belong together.
        """
        if self.training and self.min_temp > 0:
            with torch.no_grad():
                self.temp.clamp_(min=self.min_temp)
        image_feats, image_embeds, seen = self.read_images(images_of(samples))
        # Of one length on all processes, so that they can be gathered.
        tokens = self.tokenize(captions_of(samples), "longest" if self.world_size == 1 else "max_length")
        text_feats = self.encode_texts(tokens)
        to_texts = best_cosines(image_feats, self._gather(text_feats)) / self.temp  # (B, W)
        to_images = best_cosines(self._gather(image_feats), text_feats).T / self.temp  # (B, W)
        matches = self._matches(samples, tokens.input_ids)
        loss_itc = contrastive_loss(to_texts, to_images, matches)
        loss_itm = self._matching_loss(image_embeds, tokens, to_texts, to_images, matches)
        loss_lm = global_mean(*self.writing_loss(tokens, **seen), self.world_size)
        return BlipOutput(
            loss=loss_itc + loss_itm + loss_lm, loss_itc=loss_itc, loss_itm=loss_itm, loss_lm=loss_lm
        )

    def _gather(self, tensor: Tensor) -> Tensor:
        """(B, ...) -> (W, ...), with gradient."""
        return all_gather_with_grad(tensor) if self.world_size > 1 else tensor

    def _matches(self, samples: Mapping[str, Any], text_ids: Tensor) -> Tensor:
        """(B, W) bool: which of all pairs belong to this process's i-th, the row.

        These are the pair itself, pairs of the same image_id and, if wanted, report or findings. They are
        part of the contrastive target and never negatives.
        """
        batch, device = len(text_ids), text_ids.device
        first = get_rank() * batch if self.world_size > 1 else 0
        own = torch.arange(first, first + batch, device=device)
        matches = own[:, None] == torch.arange(batch * self.world_size, device=device)
        keys = [id_keys(samples["image_id"])] if samples.get("image_id") is not None else []
        if self.mask_same_report:
            keys.append(text_ids)
            if "study_id" in samples:
                keys.append(id_keys(samples["study_id"]))
        if self.mask_same_findings and "labels" in samples:
            keys.append(samples["labels"])
        for key in keys:
            rows = key.to(device)
            matches = matches | (rows[:, None] == self._gather(rows)).all(-1)
        return matches

    def _matching_loss(
        self, images: Tensor, tokens: BatchEncoding, to_texts: Tensor, to_images: Tensor, matches: Tensor
    ) -> Tensor:
        """Tell B true pairs from B with a wrong image and B with a wrong text, all of them hard to tell."""
        image, image_found = draw_hard_negatives(to_images, matches)
        text, text_found = draw_hard_negatives(to_texts, matches)
        ids, mask = tokens.input_ids, tokens.attention_mask
        logits = self.itm_logits(
            torch.cat([images, self._gather(images)[image], images]),
            torch.cat([ids, ids, self._gather(ids)[text]]),
            torch.cat([mask, mask, self._gather(mask)[text]]),
        )
        true = torch.ones_like(image_found)
        labels = torch.cat([true, ~true, ~true]).long()
        # Rows without a negative only fill up the batch.
        counted = torch.cat([true, image_found, text_found])
        losses = F.cross_entropy(logits.float(), labels, reduction="none") * counted
        return global_mean(losses.sum(), counted.sum(), self.world_size)


def id_keys(ids: Sequence[str] | Tensor) -> Tensor:
    """(B, 1) int64 keys that are equal exactly where the ids are, the same on every process."""
    if isinstance(ids, Tensor):
        return ids.view(-1, 1)
    digests = [hashlib.blake2b(str(name).encode(), digest_size=8).digest() for name in ids]
    return torch.tensor([int.from_bytes(digest, "big", signed=True) for digest in digests]).view(-1, 1)


def best_cosines(image_feats: Tensor, text_feats: Tensor) -> Tensor:
    """Unit vectors (I, Q, E) of images and (T, E) of texts -> cosines (I, T), float32 whatever autocast says.

    Of an image's Q features the one most similar to the text counts. Half precision has too few numbers
    between the cosines of like reports.
    """
    with torch.autocast(image_feats.device.type, enabled=False):
        return torch.einsum("iqe,te->itq", image_feats.float(), text_feats.float()).amax(-1)


def contrastive_loss(
    to_texts: Tensor, to_images: Tensor, matches: Tensor, label_smoothing: float = 0.1
) -> Tensor:
    """Mean cross-entropy of both directions, scores (B, W) each.

    The target of a row is its `matches` (B, W) in equal parts, smoothed over all pairs.
    """
    targets = matches.float()
    targets = targets / targets.sum(1, keepdim=True)
    targets = (1 - label_smoothing) * targets + label_smoothing / targets.shape[1]
    texts, images = (-(F.log_softmax(s, dim=1) * targets).sum(1).mean() for s in (to_texts, to_images))
    return (texts + images) / 2


@torch.no_grad()
def draw_hard_negatives(similarity: Tensor, forbidden: Tensor) -> tuple[Tensor, Tensor]:
    """For each row of `similarity` (B, W) draw a column that is not `forbidden` (B, W).

    The more similar, the likelier (softmax of the row).

    Returns:
        Columns (B,) int64, and (B,) bool: False where all are forbidden, and the column is arbitrary.
    """
    found = ~forbidden.all(dim=1)
    # A loss that is not finite is reported later, with the names of the images; no drawing from nan here.
    scores = similarity.float().nan_to_num().masked_fill(forbidden & found[:, None], -torch.inf)
    return torch.multinomial(scores.softmax(dim=1), 1).squeeze(1), found


def global_mean(total: Tensor, count: Tensor, world_size: int) -> Tensor:
    """This process's part of the mean over all processes, from its sum and its number of terms.

    The mean of the parts over the processes, which is what DistributedDataParallel makes of their gradients,
    is the mean over all terms of all processes, however these are spread.
    """
    number = count.detach().float()
    return total / (all_reduce_mean(number) if world_size > 1 else number).clamp(min=1e-6)


@dataclass
class BlipPretrainConfig(BlipConfig, PairTrainingConfig):
    """Settings of `BlipPretrain`."""


@registry.register_model("blip_pretrain")
class BlipPretrain(BlipBase, PairTraining):
    """One BERT is used three ways: as text encoder (ITC), as encoder of text that looks at the image (ITM)
    and as decoder (LM), which loads into `BlipCaption`, under the same keys.

    Left out of the published training are the momentum encoders and their queue: negatives come from the
    batch of all processes, as in BLIP-2.
    """

    config_class: ClassVar[type] = BlipPretrainConfig
    PRETRAINED_MODEL_CONFIG_DICT: ClassVar[dict[str, str]] = {
        "base": "configs/models/blip_pretrain_base.yaml",
        "tiny": "configs/models/blip_pretrain_tiny.yaml",
    }

    REQUIRED_PARTS = ("text_encoder", "text_decoder", *PAIR_PARTS)

    def __init__(self, cfg: BlipPretrainConfig, encoder: VisionEncoder) -> None:
        super().__init__(cfg, encoder)
        self.encoder_start_id: int = self.tokenizer.vocab[ENCODER_START]
        self.text_encoder = BertModel(self.med, add_pooling_layer=False)
        self.text_decoder = BertLMHeadModel(self.med)
        # Encoder and decoder share all weights but those of self-attention.
        decoder = self.text_decoder.bert
        decoder.embeddings = self.text_encoder.embeddings
        self.text_decoder.tie_weights()
        for own, theirs in zip(decoder.encoder.layers(), self.text_encoder.encoder.layers(), strict=True):
            own.crossattention = theirs.crossattention
            own.intermediate = theirs.intermediate
            own.output = theirs.output
        self.init_heads(cfg, encoder.width, self.med.hidden_size)

    def copy_from_decoder(self) -> None:
        encoder, decoder = self.text_encoder.encoder.layers(), self.text_decoder.bert.encoder.layers()
        for own, theirs in zip(encoder, decoder, strict=True):
            own.attention.load_state_dict(theirs.attention.state_dict())

    def read_images(self, image: Tensor) -> tuple[Tensor, Tensor, dict[str, Any]]:
        """As in `PairTraining`; the class token is the only feature, Q = 1."""
        image_embeds = self.embed_image(image)
        feats = self.project(self.vision_proj, image_embeds[:, :1])
        return feats, image_embeds, self.image_inputs(image_embeds)

    def encode_texts(self, text_tokens: BatchEncoding) -> Tensor:
        mask = text_tokens.attention_mask
        output = self.text_encoder(text_tokens.input_ids, attention_mask=mask, mode="text")
        return self.project(self.text_proj, output.last_hidden_state[:, 0])

    def itm_logits(self, image_embeds: Tensor, text_ids: Tensor, text_mask: Tensor) -> Tensor:
        """As in `PairTraining`; the text begins with [ENC] in place of [CLS]."""
        ids = text_ids.clone()
        ids[:, 0] = self.encoder_start_id
        output = self.text_encoder(ids, attention_mask=text_mask, encoder_hidden_states=image_embeds)
        return self.itm_head(output.last_hidden_state[:, 0])
