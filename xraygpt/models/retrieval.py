"""Image-text retrieval: which texts belong to which images, by contrast first and by matching of the best.

Shapes: I images, T texts, Q features of size E for each image, N image tokens of width V, L text tokens.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from transformers import BatchEncoding

from xraygpt.common.logger import progress
from xraygpt.models.bert_pretrained import tokenize
from xraygpt.models.blip2_losses import best_cosines

NOT_RANKED = -100.0
"""Score of pairs outside the first `k_test` by cosine similarity."""


@runtime_checkable
class RetrievalModel(Protocol):
    """What retrieval asks of a model."""

    tokenizer: Any
    max_txt_len: int

    @property
    def device(self) -> torch.device: ...

    def encode_images(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, height, width) -> unit vectors (B, Q, E) and image tokens (B, N, V)."""
        ...

    def encode_texts(self, text_tokens: BatchEncoding) -> Tensor:
        """Tokenized texts -> unit vectors (B, E)."""
        ...

    def compute_itm(self, image_inputs: Tensor, text_ids: Tensor, text_atts: Tensor) -> Tensor:
        """(B, N, V), (B, L), (B, L) -> matching logits (B,), the higher the likelier."""
        ...


@dataclass
class Gallery:
    """Images and texts to be compared, each with each."""

    similarity: Tensor
    """(I, T): cosine of the image's feature that is most similar to the text."""
    image_tokens: Tensor
    """(I, N, V), in main memory."""
    text_ids: Tensor
    """(T, L)"""
    text_mask: Tensor
    """(T, L)"""


@torch.no_grad()
def encode_gallery(
    model: RetrievalModel,
    images: Iterable[Tensor],
    texts: Collection[str],
    *,
    max_txt_len: int | None = None,
    batch_size: int = 64,
) -> Gallery:
    """Encode batches (B, 3, height, width) of images, and texts cut at `max_txt_len` (default: the model's).

    `texts` is read once the images are through, so that one loop over the data can fill it.
    """
    encoded = [(feats, tokens.cpu()) for feats, tokens in map(model.encode_images, images)]
    image_feats = torch.cat([feats for feats, _ in encoded])  # (I, Q, E)
    tokens = tokenize(model.tokenizer, list(texts), max_txt_len or model.max_txt_len).to(image_feats.device)
    rows = torch.arange(len(texts), device=image_feats.device).split(batch_size)
    parts = [{key: tokens[key][part] for key in ("input_ids", "attention_mask")} for part in rows]
    text_feats = torch.cat([model.encode_texts(BatchEncoding(part)) for part in parts])  # (T, E)
    return Gallery(
        # One text batch at a time: (I, T, Q) does not fit into memory for some ten thousand reports.
        torch.cat([best_cosines(image_feats, part) for part in text_feats.split(batch_size)], dim=1),
        torch.cat([tokens for _, tokens in encoded]),
        tokens.input_ids,
        tokens.attention_mask,
    )


@torch.no_grad()
def rerank(
    model: RetrievalModel, gallery: Gallery, k_test: int, batch_size: int = 64
) -> tuple[Tensor, Tensor]:
    """Scores (I, T) of texts for images and (T, I) of images for texts.

    The `k_test` best partners of each by cosine similarity get that similarity plus the matching logit,
    all others `NOT_RANKED`.
    """
    return (
        _rerank(model, gallery, gallery.similarity, k_test, batch_size, rows_are_images=True),
        _rerank(model, gallery, gallery.similarity.T, k_test, batch_size, rows_are_images=False),
    )


def _rerank(
    model: RetrievalModel,
    gallery: Gallery,
    similarity: Tensor,
    k_test: int,
    batch_size: int,
    *,
    rows_are_images: bool,
) -> Tensor:
    best, columns = similarity.topk(min(k_test, similarity.shape[1]), dim=1)
    rows = torch.arange(len(similarity), device=similarity.device)[:, None].expand_as(columns)
    images, texts = (rows, columns) if rows_are_images else (columns, rows)
    batches = list(zip(images.flatten().split(batch_size), texts.flatten().split(batch_size), strict=True))
    what = "re-ranking reports" if rows_are_images else "re-ranking images"
    logits = [
        model.compute_itm(
            gallery.image_tokens[i.cpu()].to(similarity.device), gallery.text_ids[t], gallery.text_mask[t]
        )
        for i, t in progress(batches, total=len(batches), desc=what)
    ]
    scores = torch.full_like(similarity, NOT_RANKED, memory_format=torch.contiguous_format)
    return scores.scatter(1, columns, best + torch.cat(logits).view_as(best).to(best.dtype))


def in_full_order(scores: Tensor, similarity: Tensor) -> Tensor:
    """Scores of `rerank` with the pairs outside the first `k_test` behind the others, by similarity."""
    return torch.where(scores == NOT_RANKED, NOT_RANKED + similarity, scores)


def compute_sim_matrix(
    model: RetrievalModel,
    data_loader: Iterable[Mapping[str, Any]],
    *,
    texts: Sequence[str],
    k_test: int,
    max_txt_len: int | None = None,
    batch_size: int = 64,
) -> tuple[Tensor, Tensor]:
    """`encode_gallery` and `rerank` under the reference's name: scores (I, T) and (T, I)."""
    images = (batch["image"].to(model.device) for batch in data_loader)
    gallery = encode_gallery(model, images, texts, max_txt_len=max_txt_len, batch_size=batch_size)
    return rerank(model, gallery, k_test, batch_size)
