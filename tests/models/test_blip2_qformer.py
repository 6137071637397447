"""BLIP-2's first stage: losses, negatives, freezing, weight files, generation, two processes."""

import multiprocessing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from xraygpt.common.errors import CheckpointError, DataError, MissingFileError
from xraygpt.models.base_model import freeze
from xraygpt.models.blip2 import Blip2Base, Blip2Config, LayerNorm
from xraygpt.models.blip2_losses import (
    Similarities,
    contrastive_loss,
    draw_hard_negatives,
    id_keys,
    same_pairs,
)
from xraygpt.models.blip2_qformer import Blip2Qformer, Blip2QformerConfig
from xraygpt.models.eva_vit import VisionConfig
from xraygpt.models.generation import GenerationConfig
from xraygpt.models.Qformer import QformerConfig
from xraygpt.models.retrieval import NOT_RANKED, compute_sim_matrix

WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] . the heart lungs are is clear normal enlarged left right effusion no"
TEXTS = [
    "The heart is normal.",
    "The lungs are clear.",
    "Left effusion.",
    "The heart is enlarged. No effusion.",
]


@pytest.fixture
def config(tmp_path: Path) -> Blip2QformerConfig:
    vocabulary = tmp_path / "vocab.txt"
    vocabulary.write_text("\n".join(WORDS.split()), encoding="utf-8")
    return small_config(str(vocabulary))


def small_config(vocabulary: str) -> Blip2QformerConfig:
    return Blip2QformerConfig(
        vision=VisionConfig(img_size=28, embed_dim=32, depth=2, num_heads=4, mlp_ratio=2.0),
        qformer=QformerConfig(
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=48,
            max_position_embeddings=32,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        ),
        num_query_token=4,
        embed_dim=16,
        max_txt_len=12,
        bert_tokenizer=vocabulary,
    )


def build(config: Blip2QformerConfig) -> Blip2Qformer:
    torch.manual_seed(0)
    return Blip2Qformer.from_config(config)


def test_all_that_is_missing_is_said(config: Blip2QformerConfig, tmp_path: Path) -> None:
    where = {key: str(tmp_path / key) for key in ("vit_ckpt", "q_former_model", "bert_tokenizer")}
    where["bert_tokenizer"] += "/not/here"
    with pytest.raises(MissingFileError) as caught:
        Blip2Qformer.check_files(replace(config, **where))
    assert str(caught.value).count("missing file:") == 3
    assert all(path in str(caught.value) for path in where.values())
    Blip2Qformer.check_files(config)


def test_a_data_set_without_images_is_named(config: Blip2QformerConfig) -> None:
    with pytest.raises(DataError, match=r"datasets\.openi\.data_type"):
        build(config)({"caption": TEXTS, "source": "openi"})


def batch(size: int = 4) -> dict[str, Any]:
    images = torch.randn(4, 3, 28, 28, generator=torch.Generator().manual_seed(1))
    return {"image": images[:size], "caption": TEXTS[:size], "image_id": [f"image{i}" for i in range(size)]}


def test_losses_are_finite_and_add_up(config: Blip2QformerConfig) -> None:
    losses = build(config)(batch())
    assert set(losses) == {"loss", "loss_itc", "loss_itm", "loss_lm"}
    assert torch.allclose(losses["loss"], losses["loss_itc"] + losses["loss_itm"] + losses["loss_lm"])
    assert losses["loss"].isfinite()


def test_a_few_steps_lower_the_loss(config: Blip2QformerConfig) -> None:
    model = build(replace(config, freeze_vit=False)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(40):
        loss = model(batch())["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_every_trained_parameter_gets_a_gradient(config: Blip2QformerConfig) -> None:
    model = build(replace(config, freeze_vit=False)).train()
    model(batch())["loss"].backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_frozen_vision_encoder_stays_frozen(config: Blip2QformerConfig) -> None:
    model = build(replace(config, drop_path_rate=0.5)).train()
    assert not model.visual_encoder.training
    assert model.ln_vision.training
    model(batch())["loss"].backward()
    assert all(p.grad is None for p in model.visual_encoder.parameters())
    assert model.ln_vision.weight.grad is not None
    freeze(model.Qformer)
    assert not model.train().Qformer.training


def test_batch_of_one_has_no_negative_and_still_a_loss(config: Blip2QformerConfig) -> None:
    losses = build(config)(batch(1))
    assert losses["loss_itc"].item() == pytest.approx(0.0, abs=1e-6)
    assert losses["loss"].isfinite()


def test_equal_reports_are_never_negatives(config: Blip2QformerConfig) -> None:
    model = build(config)
    samples = batch()
    samples["caption"] = [TEXTS[0], TEXTS[1], TEXTS[0], TEXTS[2]]
    samples["image_id"] = ["a", "b", "c", "b"]
    ids = model.tokenize(samples["caption"]).input_ids
    matches = model._matches(samples, ids)
    expected = [[1, 0, 1, 0], [0, 1, 0, 1], [1, 0, 1, 0], [0, 1, 0, 1]]
    assert matches.long().tolist() == expected
    for _ in range(20):
        columns, found = draw_hard_negatives(torch.randn(4, 4) * 5, matches)
        assert found.all()
        assert not matches.gather(1, columns[:, None]).any()
    model.mask_same_report = False
    assert model._matches(samples, ids).long().tolist() == [
        [1, 0, 0, 0],
        [0, 1, 0, 1],
        [0, 0, 1, 0],
        [0, 1, 0, 1],
    ]


def test_rows_without_negative_do_not_count() -> None:
    matches = torch.tensor([[True, True], [False, True]])
    columns, found = draw_hard_negatives(torch.zeros(2, 2), matches)
    assert found.tolist() == [False, True]
    assert columns[1] == 0


def test_more_similar_negatives_are_drawn_more_often() -> None:
    torch.manual_seed(0)
    similarity = torch.tensor([[9.0, 0.0, 1.0]]).expand(2000, -1)
    columns, _ = draw_hard_negatives(similarity, torch.tensor([[True, False, False]]).expand(2000, -1))
    share = (columns == 2).float().mean().item()
    assert share == pytest.approx(torch.tensor([0.0, 1.0]).softmax(0)[1].item(), abs=0.05)


def test_contrastive_loss_is_smoothed_cross_entropy_and_shared_between_matches() -> None:
    scores = torch.randn(3, 3, generator=torch.Generator().manual_seed(0))
    eye = torch.eye(3, dtype=torch.bool)
    expected = torch.nn.functional.cross_entropy(scores, torch.arange(3), label_smoothing=0.1)
    assert torch.allclose(contrastive_loss(Similarities(scores, scores), eye), expected)
    every = torch.ones(3, 3, dtype=torch.bool)
    assert torch.allclose(
        contrastive_loss(Similarities(scores, scores), every), -scores.log_softmax(1).mean()
    )


def test_ids_are_compared_as_text_or_numbers() -> None:
    keys = id_keys(["x", "y", "x"])
    assert same_pairs(keys, keys).long().tolist() == [[1, 0, 1], [0, 1, 0], [1, 0, 1]]
    assert id_keys(torch.tensor([3, 4])).tolist() == [[3], [4]]


def test_generated_text_and_features(config: Blip2QformerConfig) -> None:
    model = build(config).eval()
    for beams in (1, 2):
        texts = model.generate(batch(), GenerationConfig(max_new_tokens=5, num_beams=beams))
        assert len(texts) == 4
        assert all(isinstance(text, str) and "[" not in text for text in texts)
    assert model.extract_features(batch(), "image").image_embeds_proj.shape == (4, 4, 16)
    assert model.extract_features(batch(), "text").text_embeds.shape[::2] == (4, 32)
    assert model.extract_features(batch()).multimodal_embeds.shape == (4, 4, 32)
    with pytest.raises(ValueError, match="mode must be one of"):
        model.extract_features(batch(), "sound")


def test_retrieval_scores(config: Blip2QformerConfig) -> None:
    model = build(config).eval()
    samples = batch()
    loader = [{"image": samples["image"][:3]}, {"image": samples["image"][3:]}]
    by_image, by_text = compute_sim_matrix(model, loader, texts=TEXTS, k_test=4)
    assert torch.allclose(by_image, by_text.T, atol=1e-5)
    top, _ = compute_sim_matrix(model, loader, texts=TEXTS, k_test=1)
    assert (top == NOT_RANKED).sum() == 12


class QueriesOnly(Blip2Base):
    def __init__(self, cfg: Blip2Config) -> None:
        super().__init__()
        self.init_parts(cfg, text=False)


def test_first_stage_weights_load_into_a_model_without_text_half(
    config: Blip2QformerConfig, tmp_path: Path
) -> None:
    model = build(config)
    path = tmp_path / "blip2.pth"
    torch.save({"model": model.state_dict()}, path)
    config = replace(config, vit_ckpt=str(path), q_former_model=str(path))
    torch.manual_seed(7)
    later = QueriesOnly(config).eval()
    later.load_parts(config)
    image = batch()["image"]
    assert torch.equal(later.run_queries(later.embed_image(image)), model.eval().forward_image(image)[0])
    again = build(config)
    assert all(
        torch.equal(a, b) for a, b in zip(model.Qformer.parameters(), again.Qformer.parameters(), strict=True)
    )
    # Tied parameters need not be in the file twice.
    untied = {k: v for k, v in model.state_dict().items() if ".decoder." not in k}
    torch.save({"model": untied}, path)
    build(config)
    torch.save({"model": {k: v for k, v in untied.items() if "query.dense" not in k}}, path)
    with pytest.raises(CheckpointError, match="intermediate_query"):
        later.load_parts(config)


def test_missing_tokenizer_is_one_clear_error(
    config: Blip2QformerConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(MissingFileError, match="bert_tokenizer"):
        build(replace(config, bert_tokenizer="./nowhere/vocab.txt"))


def test_half_precision_vision_encoder_works_on_the_cpu(config: Blip2QformerConfig) -> None:
    image = batch()["image"]
    full = build(config).eval().embed_image(image)
    half = build(replace(config, vit_precision="fp16")).eval().embed_image(image)
    assert torch.allclose(full, half.float(), atol=2e-2)


def test_layer_norm_computes_in_float32() -> None:
    norm = LayerNorm(4)
    assert norm.eps == 1e-5
    x = torch.tensor([[1000.0, 1001.0, 1002.0, 1003.0]])
    out = norm(x.half())
    assert out.dtype == torch.float16
    assert torch.allclose(out.float(), norm(x), atol=2e-3)


def test_full_size_builds_on_the_meta_device(config: Blip2QformerConfig) -> None:
    with torch.device("meta"):
        model = Blip2Qformer(Blip2QformerConfig(bert_tokenizer=config.bert_tokenizer))
    assert model.query_tokens.shape == (1, 32, 768)
    keys = model.state_dict()
    assert keys["Qformer.bert.encoder.layer.10.crossattention.self.key.weight"].shape == (768, 1408)
    assert "Qformer.bert.encoder.layer.11.crossattention.self.key.weight" not in keys


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"img_size": 28, "image_size": 56}, "two names"),
        ({"vit_model": "clip_L"}, "vit_model"),
        ({"vit_precision": "fp16", "freeze_vit": False}, "freeze_vit"),
        ({"vit_precision": "int8"}, "vit_precision"),
        ({"max_txt_len": 33}, "max_position_embeddings"),
        ({"img_size": 30}, "patch_size"),
    ],
)
def test_impossible_settings_are_refused(
    config: Blip2QformerConfig, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        replace(config, **changes)


def gradients(model: Blip2Qformer) -> dict[str, Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def two_process_step(rank: int, vocabulary: str, folder: str) -> dict[str, Tensor]:
    """Contrastive gradients of half a batch, averaged over the processes as DDP does."""
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=120),
    )
    try:
        model = build(small_config(vocabulary)).train()
        part = {key: value[2 * rank : 2 * rank + 2] for key, value in batch().items()}
        losses = model(part)
        assert losses["loss_itm"].isfinite()
        losses["loss_itc"].backward()
        averaged = gradients(model)
        for gradient in averaged.values():
            dist.all_reduce(gradient)
            gradient /= 2
        return averaged
    finally:
        dist.destroy_process_group()


def test_two_processes_have_the_contrastive_gradients_of_one(
    config: Blip2QformerConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    arguments = (config.bert_tokenizer, str(tmp_path))
    # This process is the first of the two; starting one more costs half of starting both.
    other = multiprocessing.get_context("spawn").Process(target=two_process_step, args=(1, *arguments))
    other.start()
    try:
        split = two_process_step(0, *arguments)
    finally:
        other.join(timeout=60)
    assert other.exitcode == 0
    model = build(config).train()
    model(batch())["loss_itc"].backward()
    whole = gradients(model)
    assert split.keys() == whole.keys()
    for name, expected in whole.items():
        assert torch.allclose(split[name], expected, atol=1e-6), name
