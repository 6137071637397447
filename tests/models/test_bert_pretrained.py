"""Starting from a published BERT, with transformers' own as the independent implementation."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertForPreTraining

from xraygpt.common.errors import CheckpointError
from xraygpt.models.bert_pretrained import load_bert
from xraygpt.models.Qformer import BertLMHeadModel, QformerConfig

SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 12,
}


def published(path: Path) -> BertForPreTraining:
    """Write a random BERT under the keys of the published files; return it."""
    torch.manual_seed(0)
    bert = BertForPreTraining(BertConfig(vocab_size=20, **SIZES)).eval()
    with torch.no_grad():
        for name, parameter in bert.named_parameters():
            # The models here have no segments; everything else is far from its initial value.
            parameter.fill_(0.0) if "token_type" in name else parameter.normal_(std=0.3)
    renamed = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for name, value in bert.state_dict().items()
    }
    torch.save(renamed, path)
    return bert


def qformer(**changes: int) -> BertLMHeadModel:
    torch.manual_seed(1)
    return BertLMHeadModel(QformerConfig(vocab_size=21, encoder_width=8, **SIZES | changes)).eval()


def test_text_is_encoded_as_by_the_bert(tmp_path: Path) -> None:
    bert = published(tmp_path / "bert.bin")
    model = qformer()
    untouched = model.bert.encoder.layers()[0].crossattention.self.key.weight.clone()
    added = model.bert.embeddings.word_embeddings.weight[20].clone()
    load_bert(model, tmp_path / "bert.bin")
    ids, mask = torch.randint(0, 20, (3, 9)), torch.ones(3, 9)
    mask[1, 5:] = 0
    with torch.no_grad():
        expected = bert(ids, attention_mask=mask)
        hidden = model.bert(ids, attention_mask=mask).last_hidden_state
        logits = model.cls(hidden)
    kept = mask.bool()
    torch.testing.assert_close(logits[..., :20][kept], expected.prediction_logits[kept], rtol=1e-4, atol=1e-4)
    assert torch.equal(model.bert.encoder.layers()[0].crossattention.self.key.weight, untouched)
    assert torch.equal(model.bert.embeddings.word_embeddings.weight[20], added)


def test_bert_of_another_size_is_refused(tmp_path: Path) -> None:
    published(tmp_path / "bert.bin")
    with pytest.raises(CheckpointError, match="another size"):
        load_bert(qformer(hidden_size=32), tmp_path / "bert.bin")
