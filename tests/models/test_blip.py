"""BLIP's models: the report writer, and its pretraining with shared weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from xraygpt.common.checkpoint import save_checkpoint
from xraygpt.common.errors import CheckpointError, ConfigError, DataError, MissingFileError
from xraygpt.models.bert_lm import SearchResult
from xraygpt.models.blip_caption import BlipCaption, BlipCaptionConfig
from xraygpt.models.blip_pretrain import BlipPretrain, BlipPretrainConfig
from xraygpt.models.eva_vit import VisionConfig
from xraygpt.models.generation import GenerationConfig
from xraygpt.models.med import MedConfig

WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] . the heart lungs are is clear normal enlarged left right effusion no"
REPORTS = ["the heart is normal.", "left effusion.", "the lungs are clear. no effusion."]
VISION = VisionConfig(img_size=28, patch_size=14, embed_dim=32, depth=2, num_heads=2)
MED = MedConfig(
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=48,
    max_position_embeddings=24,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
)


@pytest.fixture
def sizes(tmp_path: Path) -> dict[str, Any]:
    vocabulary = tmp_path / "vocab.txt"
    vocabulary.write_text("\n".join(WORDS.split()), encoding="utf-8")
    return {
        "vision": VISION,
        "med": MED,
        "bert_tokenizer": str(vocabulary),
        "max_txt_len": 12,
        "freeze_vit": False,
    }


def writer(sizes: dict[str, Any], **changes: Any) -> BlipCaption:
    torch.manual_seed(0)
    return BlipCaption.from_config(BlipCaptionConfig(**{**sizes, **changes}))


def pretraining(sizes: dict[str, Any], **changes: Any) -> BlipPretrain:
    torch.manual_seed(0)
    return BlipPretrain.from_config(BlipPretrainConfig(**{**sizes, "embed_dim": 8, **changes}))


def batch() -> dict[str, Any]:
    images = torch.randn(3, 3, 28, 28, generator=torch.Generator().manual_seed(1))
    return {"image": images, "caption": list(REPORTS), "image_id": ["a", "b", "c"]}


def test_the_loss_is_the_smoothed_cross_entropy_of_each_next_word(sizes: dict[str, Any]) -> None:
    model = writer(sizes).eval()
    found = {name: value.detach() for name, value in model(batch()).items()}
    total = 0.0
    number = 0
    for row, report in enumerate(REPORTS):
        ids = torch.tensor([[model.tokenizer.bos_token_id, *model.tokenizer(report).input_ids[1:]]])
        image = model.embed_image(batch()["image"][row : row + 1])
        logs = model.text_decoder(ids, encoder_hidden_states=image).logits[0, :-1].log_softmax(-1)
        hard = -logs.gather(1, ids[0, 1:, None]).sum()
        total += float((0.9 * hard - 0.1 * logs.mean(-1).sum()).detach())
        number += ids.shape[1] - 1
    assert int(found["num_targets"]) == number
    assert float(found["loss"]) == pytest.approx(total / number, abs=1e-5)


def test_the_prompt_is_given_and_not_learnt(sizes: dict[str, Any]) -> None:
    model = writer(sizes, prompt="the lungs").eval()
    assert model.tokenizer.convert_ids_to_tokens(model.start_ids) == ["[DEC]", "the", "lungs"]
    assert int(model(batch())["num_targets"]) == int(writer(sizes).eval()(batch())["num_targets"])
    with pytest.raises(ConfigError, match="no room for a report"):
        writer(sizes, prompt="the heart is normal . the lungs are clear . no")


def test_a_report_is_told_without_the_prompt(sizes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model = writer(sizes, prompt="the lungs").eval()
    report = model.tokenizer("are clear.", add_special_tokens=False, return_tensors="pt").input_ids

    def found(start: Tensor, settings: Any, **image: Any) -> SearchResult:
        assert start.tolist() == [model.start_ids] * 3
        return SearchResult(torch.cat([start, report.expand(3, -1)], dim=1), None)

    monkeypatch.setattr(model.text_decoder, "generate", found)
    assert model.generate(batch(), GenerationConfig()) == ["are clear."] * 3


@pytest.mark.parametrize("prompt", ["", "the lungs"])
@pytest.mark.parametrize("num_beams", [1, 2])
def test_no_report_is_longer_than_those_of_the_training(
    sizes: dict[str, Any], monkeypatch: pytest.MonkeyPatch, prompt: str, num_beams: int
) -> None:
    model = writer(sizes, prompt=prompt).eval()
    search, lengths = model.text_decoder.generate, []

    def recording(*args: Any, **kwargs: Any) -> SearchResult:
        result = search(*args, **kwargs)
        lengths.append(result.sequences.shape[1])
        return result

    monkeypatch.setattr(model.text_decoder, "generate", recording)
    model.generate(batch(), GenerationConfig(min_length=300, num_beams=num_beams))
    assert lengths == [model.max_txt_len]


def test_beams_do_not_sample(sizes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"run\.generate"):
        writer(sizes).eval().generate(batch(), GenerationConfig(num_beams=3, do_sample=True))


def test_a_few_steps_teach_the_reports_and_they_are_then_written(sizes: dict[str, Any]) -> None:
    model = writer(sizes).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(60):
        loss = model(batch())["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    assert model.generate(batch(), GenerationConfig(max_new_tokens=11)) == REPORTS
    assert model.generate(batch(), GenerationConfig(max_new_tokens=11, num_beams=3)) == REPORTS
    torch.manual_seed(0)
    sampled = GenerationConfig(max_new_tokens=11, do_sample=True, top_p=0.5)
    assert model.generate(batch(), sampled) == REPORTS

    details = model.generate_detailed(batch(), GenerationConfig(max_new_tokens=11))
    assert [report.text for report in details] == REPORTS
    assert [report.tokens for report in details] == [
        len(model.tokenizer(report).input_ids) - 1 for report in REPORTS
    ]
    assert {report.stop_reason for report in details} == {"end_token"}
    (cut, *_) = model.generate_detailed(batch(), GenerationConfig(max_new_tokens=2))
    assert (cut.text, cut.tokens, cut.stop_reason) == ("the heart", 2, "length")


@pytest.mark.parametrize("prompt", ["", "the lungs"])
@torch.no_grad()
def test_the_probability_of_a_report_is_that_of_its_tokens(sizes: dict[str, Any], prompt: str) -> None:
    model = writer(sizes, prompt=prompt).eval()
    generation = GenerationConfig(max_new_tokens=6, repetition_penalty=2.0)
    for row, report in enumerate(model.generate_detailed(batch(), generation)):
        image = model.embed_image(batch()["image"][row : row + 1])
        sequence = model.write(image, generation)[:, : len(model.start_ids) + report.tokens]
        logs = model.text_decoder(sequence, encoder_hidden_states=image).logits.log_softmax(-1)[0, :-1]
        written = logs.gather(1, sequence[0, 1:, None])[len(model.start_ids) - 1 :]
        assert report.mean_log_probability == pytest.approx(float(written.mean()), abs=1e-5)


def test_encoder_and_decoder_are_one_but_for_self_attention(sizes: dict[str, Any]) -> None:
    model = pretraining(sizes)
    shared = dict(model.text_encoder.named_parameters())
    decoder = dict(model.text_decoder.bert.named_parameters())
    assert shared.keys() == decoder.keys()
    apart = {name for name in shared if shared[name] is not decoder[name]}
    assert apart == {name for name in shared if ".attention." in name}
    words = model.text_encoder.get_input_embeddings()
    assert words is not None
    assert model.text_decoder.get_output_embeddings().weight is words.weight


def test_pretraining_reaches_every_part_with_its_gradient(sizes: dict[str, Any]) -> None:
    model = pretraining(sizes).train()
    losses = model(batch())
    assert set(losses) == {"loss", "loss_itc", "loss_itm", "loss_lm"}
    losses["loss"].backward()
    without = [name for name, p in model.named_parameters() if p.grad is None]
    assert without == []


def test_pretraining_writes_with_the_loss_of_the_report_writer(sizes: dict[str, Any], tmp_path: Path) -> None:
    trained = pretraining(sizes)
    save_checkpoint(tmp_path / "checkpoint.pth", {"model": trained.state_dict()})
    model = writer(sizes, ckpt=str(tmp_path / "checkpoint.pth"))
    assert torch.allclose(trained.eval()(batch())["loss_lm"], model.eval()(batch())["loss"], atol=1e-6)


def test_pretraining_does_not_start_from_a_report_writer(sizes: dict[str, Any], tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "checkpoint.pth", {"model": writer(sizes).state_dict()})
    with pytest.raises(CheckpointError) as caught:
        pretraining(sizes, ckpt=str(tmp_path / "checkpoint.pth"))
    missing, _ = str(caught.value).split("(it holds")
    assert all(part in missing for part in ("text_encoder", "vision_proj", "text_proj", "itm_head"))


def test_a_text_to_be_matched_begins_with_its_own_token(sizes: dict[str, Any]) -> None:
    model = pretraining(sizes).eval()
    image, tokens = model.embed_image(batch()["image"]), model.tokenize(REPORTS)

    def scores(first: str) -> Tensor:
        ids = tokens.input_ids.clone()
        ids[:, 0] = model.tokenizer.convert_tokens_to_ids(first)
        output = model.text_encoder(ids, attention_mask=tokens.attention_mask, encoder_hidden_states=image)
        return model.itm_head(output.last_hidden_state[:, 0])

    before = tokens.input_ids.clone()
    found = model.itm_logits(image, tokens.input_ids, tokens.attention_mask)
    torch.testing.assert_close(found, scores("[ENC]"))
    assert not torch.allclose(found, scores("[CLS]"), atol=1e-3)
    assert torch.equal(tokens.input_ids, before)


def test_matching_sees_the_image_and_contrast_the_right_pair(sizes: dict[str, Any]) -> None:
    model = pretraining(sizes).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    torch.manual_seed(3)
    for _ in range(120):
        loss = model(batch())["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    assert model.similarity(batch()["image"], REPORTS).argmax(1).tolist() == [0, 1, 2]
    tokens = model.tokenize(REPORTS)
    image = model.embed_image(batch()["image"])
    scores = torch.stack(
        [
            model.compute_itm(image, tokens.input_ids.roll(i, 0), tokens.attention_mask.roll(i, 0))
            for i in range(3)
        ]
    )
    assert (scores[0] > scores[1:]).all()


def bert_of(model: BlipCaption) -> dict[str, Tensor]:
    """The weights of a plain BERT of this size, its vocabulary without the two added tokens."""
    state = {}
    for name, value in model.text_decoder.state_dict().items():
        if "crossattention" in name or "position_ids" in name or "decoder." in name:
            continue
        cut = name.endswith(("word_embeddings.weight", "predictions.bias"))
        state[name] = torch.randn_like(value[:-2] if cut else value)
    state["bert.pooler.dense.bias"] = torch.zeros(32)
    return state


@pytest.mark.parametrize("build", [writer, pretraining])
def test_the_text_part_can_start_from_a_bert(build: Any, sizes: dict[str, Any], tmp_path: Path) -> None:
    state = bert_of(writer(sizes))
    save_file(state, tmp_path / "model.safetensors")
    model = build(sizes, bert_model=str(tmp_path / "model.safetensors"))
    words = model.text_decoder.bert.embeddings.word_embeddings.weight
    assert torch.equal(words[:-2], state["bert.embeddings.word_embeddings.weight"])
    parts = [model.text_decoder.bert, *([model.text_encoder] if isinstance(model, BlipPretrain) else [])]
    for part in parts:
        query = part.encoder.layers()[1].attention.self.query.weight
        assert torch.equal(query, state["bert.encoder.layer.1.attention.self.query.weight"])


def test_what_is_missing_or_wrong_is_said(sizes: dict[str, Any]) -> None:
    with pytest.raises(MissingFileError, match=r"(?s)model\.bert_model.*model\.ckpt"):
        writer(sizes, bert_model="nowhere.safetensors", ckpt="nowhere.pth")
    with pytest.raises(ValueError, match="max_txt_len"):
        BlipCaptionConfig(**{**sizes, "max_txt_len": 25})
    with pytest.raises(ValueError, match="embed_dim"):
        BlipPretrainConfig(**{**sizes, "embed_dim": 0})
    assert BlipPretrainConfig().max_txt_len == BlipCaptionConfig().max_txt_len == 40
    with pytest.raises(DataError, match="data_type"):
        writer(sizes)({"caption": REPORTS, "source": "openi", "image_id": ["a"]})


def test_a_frozen_vision_encoder_stays_frozen(sizes: dict[str, Any]) -> None:
    model = writer(sizes, freeze_vit=True).train()
    assert not any(p.requires_grad for p in model.visual_encoder.parameters())
    model(batch())["loss"].backward()
    assert model.ln_vision.weight.grad is not None


def test_captions_that_are_cut_are_counted(sizes: dict[str, Any]) -> None:
    # with the two marks around them: 7, 5 and 10 tokens
    assert [pretraining(sizes, max_txt_len=n).cut_captions(REPORTS) for n in (10, 9, 6, 4)] == [0, 1, 2, 3]
    assert pretraining(sizes, max_txt_len=8).caption_lengths(REPORTS) == [7, 5, 8]
    model = writer(sizes, prompt="the", max_txt_len=7)
    assert model.cut_captions(REPORTS) == 2  # the prompt counts
