"""Image-text retrieval with a first-stage model: which texts belong to which images."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import BatchEncoding

from xraygpt.models.blip2_qformer import Blip2Qformer

NOT_RANKED = -100.0
"""Score of pairs outside the first `k_test` by cosine similarity."""


@torch.no_grad()
def compute_sim_matrix(
    model: Blip2Qformer,
    data_loader: Iterable[Mapping[str, Any]],
    *,
    texts: Sequence[str],
    k_test: int,
    max_txt_len: int | None = None,
    batch_size: int = 64,
) -> tuple[Tensor, Tensor]:
    """Scores (images, texts) and (texts, images).

    The `k_test` best partners of each by cosine similarity get that similarity plus the matching logit,
    all others `NOT_RANKED`. Texts are cut at `max_txt_len` tokens (default: the model's).
    """
    tokens = _tokenize(model, texts, max_txt_len or model.max_txt_len)
    text_feats = F.normalize(model.text_proj(model.forward_text(tokens)), dim=-1)  # (T, E)
    outputs = [model.forward_image(batch["image"]) for batch in data_loader]
    image_tokens = torch.cat([tokens for _, tokens in outputs])
    image_feats = F.normalize(model.vision_proj(torch.cat([queries for queries, _ in outputs])), dim=-1)
    similarity = torch.einsum("iqe,te->itq", image_feats, text_feats).amax(-1)  # (I, T)

    def rerank(scores: Tensor, *, rows_are_images: bool) -> Tensor:
        ranked = torch.full_like(scores, NOT_RANKED)
        best, columns = scores.topk(min(k_test, scores.shape[1]), dim=1)
        rows = torch.arange(len(scores), device=scores.device)[:, None].expand_as(columns)
        images, captions = (rows, columns) if rows_are_images else (columns, rows)
        logits = _matching_logits(
            model, image_tokens, tokens, images.flatten(), captions.flatten(), batch_size
        )
        return ranked.scatter(1, columns, best + logits.view_as(best))

    return rerank(similarity, rows_are_images=True), rerank(similarity.T.contiguous(), rows_are_images=False)


def _tokenize(model: Blip2Qformer, texts: Sequence[str], max_txt_len: int) -> BatchEncoding:
    tokens = model.tokenizer(
        list(texts), padding=True, truncation=True, max_length=max_txt_len, return_tensors="pt"
    )
    return tokens.to(model.device)


def _matching_logits(
    model: Blip2Qformer,
    image_tokens: Tensor,
    texts: BatchEncoding,
    images: Tensor,
    captions: Tensor,
    batch_size: int,
) -> Tensor:
    """Matching logits of the pairs (images[i], captions[i]), (P,)."""
    logits = [
        model.compute_itm(image_tokens[i], texts.input_ids[t], texts.attention_mask[t])
        for i, t in zip(images.split(batch_size), captions.split(batch_size), strict=True)
    ]
    return torch.cat(logits)
