"""BLIP-2's first stage: losses, negatives, freezing, weight files, generation, two processes."""

import multiprocessing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor

from tests.tolerance import rounding
from xraygpt.common.errors import CheckpointError, ConfigError, DataError, MissingFileError
from xraygpt.common.registry import registry
from xraygpt.models import blip_pretrain, load_model
from xraygpt.models.base_model import freeze
from xraygpt.models.blip2 import Blip2Base, Blip2Config
from xraygpt.models.blip2_qformer import Blip2Qformer, Blip2QformerConfig
from xraygpt.models.blip_pretrain import contrastive_loss, draw_hard_negatives
from xraygpt.models.bridges import QFormerBridge
from xraygpt.models.eva_vit import VisionConfig
from xraygpt.models.generation import GenerationConfig
from xraygpt.models.parts import LayerNorm
from xraygpt.models.Qformer import QformerConfig
from xraygpt.models.vision_tower import build_encoder
from xraygpt.runners.train_state import trainable_state

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


def matches_of(model: Blip2Qformer, samples: dict[str, Any]) -> list[list[int]]:
    return model._matches(samples, model.tokenize(samples["caption"]).input_ids).long().tolist()


def test_which_pairs_match(config: Blip2QformerConfig) -> None:
    model = build(config)
    samples = batch()
    samples["caption"] = [TEXTS[0], TEXTS[1], TEXTS[0], TEXTS[2]]
    samples["image_id"] = ["a", "b", "c", "b"]
    assert matches_of(model, samples) == [[1, 0, 1, 0], [0, 1, 0, 1], [1, 0, 1, 0], [0, 1, 0, 1]]
    samples["study_id"] = ["s", "s", "t", "u"]
    assert matches_of(model, samples) == [[1, 1, 1, 0], [1, 1, 0, 1], [1, 0, 1, 0], [0, 1, 0, 1]]
    model.mask_same_report = False
    assert matches_of(model, samples) == [[1, 0, 0, 0], [0, 1, 0, 1], [0, 0, 1, 0], [0, 1, 0, 1]]
    samples["labels"] = torch.tensor([[0.0, 1.0], [1.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    assert matches_of(model, samples)[0] == [1, 0, 0, 0]
    model.mask_same_findings = True
    assert matches_of(model, samples)[0] == [1, 0, 0, 1]


def test_other_images_of_a_study_are_never_negatives(
    config: Blip2QformerConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []

    def recording(similarity: Tensor, forbidden: Tensor) -> Any:
        drawn.append((forbidden, draw_hard_negatives(similarity, forbidden)))
        return drawn[-1][1]

    monkeypatch.setattr(blip_pretrain, "draw_hard_negatives", recording)
    model = build(config)
    samples = batch() | {"study_id": ["s", "s", "t", "s"]}
    for _ in range(20):
        model(samples)
    assert len(drawn) == 40
    for _, (columns, found) in drawn:
        assert found.all()
        assert columns[[0, 1, 3]].tolist() == [2, 2, 2]
        assert columns[2] != 2


def test_a_batch_of_one_study_has_no_negatives(config: Blip2QformerConfig) -> None:
    model = build(config)
    samples = batch() | {"study_id": ["s"] * 4}
    tokens = model.tokenize(samples["caption"])
    image_embeds = model.embed_image(samples["image"])
    logits = model.itm_logits(image_embeds, tokens.input_ids, tokens.attention_mask)
    true_pairs_alone = torch.nn.functional.cross_entropy(logits, torch.ones(4).long())
    torch.testing.assert_close(model(samples)["loss_itm"], true_pairs_alone)


def test_zero_shot_similarity_is_that_of_the_encodings(config: Blip2QformerConfig) -> None:
    model = build(config).eval()
    image = batch()["image"]
    similarity = model.similarity(image, TEXTS[:3])
    assert similarity.shape == (4, 3)
    features = model.extract_features(batch(), "image").image_embeds_proj
    words = model.extract_features(batch(), "text").text_embeds_proj[:, 0]
    for row, column in ((0, 0), (3, 2)):
        expected = (features[row] @ words[column]).max()
        torch.testing.assert_close(similarity[row, column], expected)


def test_the_contrast_is_of_similarities_over_the_temperature(config: Blip2QformerConfig) -> None:
    model = build(config).eval()
    scores = model.similarity(batch()["image"], TEXTS) / model.temp
    expected = contrastive_loss(scores, scores.T, torch.eye(4, dtype=torch.bool))
    torch.testing.assert_close(model(batch())["loss_itc"], expected)


def test_temperature_keeps_its_bound_in_training(config: Blip2QformerConfig) -> None:
    model = build(replace(config, min_temp=0.05))
    model.temp.data.fill_(0.01)
    model.eval()(batch())
    assert model.temp.item() == pytest.approx(0.01)
    model.train()(batch())
    assert model.temp.item() == pytest.approx(0.05)


def test_checkpoint_of_a_training_is_loaded(config: Blip2QformerConfig, tmp_path: Path) -> None:
    trained = build(config)
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.add_(0.01)
    path = tmp_path / "checkpoint.pth"
    torch.save({"model": trainable_state(trained)}, path)
    loaded = build(replace(config, ckpt=str(path)))
    ours, theirs = trainable_state(loaded), trainable_state(trained)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    torch.save({"model": {"query_tokens": trained.query_tokens}}, path)
    with pytest.raises(CheckpointError, match="holds no Qformer.*itm_head"):
        build(replace(config, ckpt=str(path)))
    heads = ("vision_proj", "text_proj")
    rest = {name: value for name, value in theirs.items() if not name.startswith(heads)}
    torch.save({"model": rest}, path)
    with pytest.raises(CheckpointError, match=r"holds no .*(vision_proj, text_proj|text_proj, vision_proj)"):
        build(replace(config, ckpt=str(path)))


def test_queries_start_from_the_feed_forward_parts_of_a_bert(
    config: Blip2QformerConfig, tmp_path: Path
) -> None:
    parts = ("crossattention", "_query", "decoder.", "position_ids")
    state = {
        name: torch.randn_like(value)
        for name, value in build(config).Qformer.state_dict().items()
        if not any(part in name for part in parts)
    }
    save_file(state, tmp_path / "model.safetensors")
    model = build(replace(config, bert_model=str(tmp_path / "model.safetensors")))
    for number, layer in enumerate(model.Qformer.bert.encoder.layers()):
        where = f"bert.encoder.layer.{number}"
        for own, theirs in (("intermediate_query", "intermediate"), ("output_query", "output")):
            expected = state[f"{where}.{theirs}.dense.weight"]
            assert torch.equal(getattr(layer, own).dense.weight, expected)


def test_both_architectures_and_types_are_registered() -> None:
    for name in ("blip2", "blip2_feature_extractor"):
        assert registry.get_model_class(name) is Blip2Qformer
    assert set(Blip2Qformer.PRETRAINED_MODEL_CONFIG_DICT) == {"pretrain", "tiny"}
    model = load_model("blip2_feature_extractor", "tiny", is_eval=True)
    assert model.extract_features({"image": torch.zeros(1, 3, 64, 64)}, "image").image_embeds_proj is not None


def test_generated_text_and_features(config: Blip2QformerConfig) -> None:
    model = build(config).eval()
    for beams in (1, 2):
        texts = model.generate(batch(), GenerationConfig(max_new_tokens=5, num_beams=beams))
        assert len(texts) == 4
        assert all(isinstance(text, str) and "[" not in text for text in texts)
        details = model.generate_detailed(batch(), GenerationConfig(max_new_tokens=5, num_beams=beams))
        assert [report.text for report in details] == texts
        assert all(report.mean_log_probability < 0 and 1 <= report.tokens <= 5 for report in details)
    assert model.extract_features(batch(), "image").image_embeds_proj.shape == (4, 4, 16)
    assert model.extract_features(batch(), "text").text_embeds.shape[::2] == (4, 32)
    assert model.extract_features(batch()).multimodal_embeds.shape == (4, 4, 32)
    with pytest.raises(ValueError, match="mode must be one of"):
        model.extract_features(batch(), "sound")


@torch.no_grad()
def test_the_probability_of_a_report_is_that_of_its_tokens(config: Blip2QformerConfig) -> None:
    """Step by step with the cache, as they were written, against one pass over the whole."""
    model = build(config).eval()
    images = model.embed_image(batch()["image"])
    cache = model.Qformer.bert(
        query_embeds=model.query_tokens.expand(4, -1, -1), encoder_hidden_states=images, use_cache=True
    ).past_key_values
    tokens = torch.full((4, 1), model.tokenizer.bos_token_id)
    sums = torch.zeros(4)
    for _ in range(5):
        output = model.Qformer(tokens, past_key_values=cache)
        best = output.logits[:, -1].log_softmax(-1)
        tokens, cache = best.argmax(-1, keepdim=True), output.past_key_values
        sums += best.amax(-1)
    details = model.generate_detailed(batch(), GenerationConfig(max_new_tokens=5, min_length=0))
    whole = [row for row, report in enumerate(details) if report.stop_reason == "length"]
    assert whole
    for row in whole:
        assert details[row].mean_log_probability == pytest.approx(float(sums[row]) / 5, abs=1e-5)


@pytest.mark.parametrize(
    ("given", "mode", "message"),
    [
        ("caption", "image", "image"),
        ("caption", "multimodal", "image"),
        ("image", "text", "caption|report|text"),
        ("image", "multimodal", "caption|report|text"),
    ],
)
def test_features_of_what_is_not_there_are_refused(
    config: Blip2QformerConfig, given: str, mode: str, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        build(config).extract_features({given: batch()[given]}, mode)


@pytest.mark.parametrize("num_beams", [1, 2])
def test_a_report_ends_where_the_positions_do(
    config: Blip2QformerConfig, monkeypatch: pytest.MonkeyPatch, num_beams: int
) -> None:
    model = build(config).eval()
    search, lengths = model.Qformer.generate, []

    def recording(*args: Any, **kwargs: Any) -> Any:
        result = search(*args, **kwargs)
        lengths.append(result.sequences.shape[1])
        return result

    monkeypatch.setattr(model.Qformer, "generate", recording)
    model.generate(batch(), GenerationConfig(min_length=300, num_beams=num_beams))
    # As in the reference not at max_txt_len, which is about training.
    assert lengths == [model.Qformer.config.max_position_embeddings]


def test_beams_do_not_sample(config: Blip2QformerConfig) -> None:
    with pytest.raises(ConfigError, match=r"run\.generate"):
        build(config).eval().generate(batch(), GenerationConfig(num_beams=3, do_sample=True))


def test_evaluation_compares_the_pairs_of_one_process(
    config: Blip2QformerConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blip_pretrain, "get_world_size", lambda: 2)
    model = build(config)
    assert model.train().world_size == 2
    assert model.eval().world_size == 1


def queries_only(cfg: Blip2Config) -> Blip2Base:
    encoder = build_encoder(cfg)
    return Blip2Base(cfg, encoder, QFormerBridge.from_config(cfg, encoder.width, llm_width=0))


def test_first_stage_weights_load_into_a_model_without_text_half(
    config: Blip2QformerConfig, tmp_path: Path
) -> None:
    model = build(config)
    path = tmp_path / "blip2.pth"
    torch.save({"model": model.state_dict()}, path)
    config = replace(config, vit_ckpt=str(path), q_former_model=str(path))
    torch.manual_seed(7)
    later = queries_only(config).eval()
    later.load_parts(config)
    image = batch()["image"]
    expected = model.eval().forward_image(image)[0]
    torch.testing.assert_close(later.bridge(later.encode_patches(image)), expected)
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


@pytest.mark.parametrize("source", ["./nowhere/vocab.txt", "no-bert-of-this-name", "empty"])
def test_missing_tokenizer_is_one_clear_error(
    config: Blip2QformerConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: str
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingFileError, match="bert_tokenizer"):
        build(replace(config, bert_tokenizer=source))


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
        model = Blip2Qformer.build(Blip2QformerConfig(bert_tokenizer=config.bert_tokenizer))
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


def hardest_negatives(similarity: Tensor, forbidden: Tensor) -> tuple[Tensor, Tensor]:
    """The most similar candidates, without drawing."""
    found = ~forbidden.all(1)
    return similarity.masked_fill(forbidden & found[:, None], -torch.inf).argmax(1), found


def uneven_batch() -> dict[str, Any]:
    """Two processes' halves differ in their numbers of tokens and of negatives: the first pair has none."""
    captions = [TEXTS[2], TEXTS[3], TEXTS[2], TEXTS[2]]
    return batch() | {"caption": captions, "study_id": ["s", "s", "t", "u"]}


Step = tuple[dict[str, Tensor], dict[str, Tensor]]


def step(model: Blip2Qformer, samples: dict[str, Any]) -> Step:
    """Losses and gradients of a batch; negatives are not drawn, so that they can be compared."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blip_pretrain, "draw_hard_negatives", hardest_negatives)
        losses = model.train()(samples)
    losses["loss"].backward()
    return {name: loss.detach() for name, loss in losses.items()}, gradients(model)


def two_process_step(rank: int, vocabulary: str, folder: str) -> Step:
    """Losses and gradients of half a batch, averaged over the processes as DDP does."""
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=120),
    )
    try:
        part = {key: value[2 * rank : 2 * rank + 2] for key, value in uneven_batch().items()}
        both = step(build(small_config(vocabulary)), part)
        for values in both:
            for value in values.values():
                dist.all_reduce(value)
                value /= 2
        return both
    finally:
        dist.destroy_process_group()


def test_two_processes_have_the_losses_and_gradients_of_one(
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
    model = build(config)
    whole = step(model, uneven_batch())
    # Losses and gradients are made of similarities, cosines over `temp`, of which four texts count for an
    # image; the gradient of `temp` is the difference of such similarities over `temp` once more.
    similarity = 1 / float(model.temp.detach())
    for ours, theirs in zip(split, whole, strict=True):
        assert ours.keys() == theirs.keys()
        for name, expected in theirs.items():
            largest = similarity**2 if name == "temp" else similarity
            assert torch.allclose(ours[name], expected, atol=rounding(largest, terms=4)), name
