"""MiniGPT4: the prompt path, the loss, what is trained, generation, and its files."""

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests.models.tiny import PROMPT, tiny_config
from tests.parity.minigpt4 import watching
from xraygpt.common.checkpoint import load_weights, save_checkpoint
from xraygpt.common.errors import CheckpointError, DataError, MissingFileError
from xraygpt.conversation.conversation import CONV_VISION, Chat
from xraygpt.models.generation import GenerationConfig
from xraygpt.models.mini_gpt4 import MiniGPT4
from xraygpt.models.prompts import caption_rows
from xraygpt.runners.train_state import trainable_state

Make = Callable[..., MiniGPT4]
Batch = dict[str, Any]
SHORT = GenerationConfig(max_new_tokens=8)


def test_the_row_is_bos_text_image_text(make_model: Make, batch: Batch) -> None:
    model = make_model()
    images = model.encode_img(batch["image"])[0]
    embeds, mask = model.embed_prompt([PROMPT] * 2, images)
    table, tokenizer = model.llama_model.get_input_embeddings(), model.llama_tokenizer
    before, after = (tokenizer(p, add_special_tokens=False).input_ids for p in PROMPT.split("<ImageHere>"))
    expected = torch.cat([table(torch.tensor([1, *before])), images[1], table(torch.tensor(after))])
    torch.testing.assert_close(embeds[1], expected)
    assert mask.all()


def test_an_empty_prompt_is_bos_and_image(make_model: Make, batch: Batch) -> None:
    model = make_model()
    assert model.embed_prompt(["", ""], model.encode_img(batch["image"])[0])[0].shape == (2, 4, 32)


def test_unequal_prompts_are_padded_on_the_left(make_model: Make, batch: Batch) -> None:
    model = make_model()
    images = model.encode_img(batch["image"])[0]
    embeds, mask = model.embed_prompt(["<ImageHere>", PROMPT], images)
    assert mask[1].all()
    assert mask[0].tolist() == [0] * (mask.shape[1] - 4) + [1] * 4
    torch.testing.assert_close(embeds[0, -3:], images[0])


def test_images_and_placeholders_must_match(make_model: Make, batch: Batch) -> None:
    model = make_model()
    images, ones = model.encode_img(batch["image"])
    with pytest.raises(ValueError, match="room for 1 images"):
        model.embed_prompt([PROMPT], images)
    with pytest.raises(ValueError, match="exactly once"):
        model.prompt_wrap(images, ones, "no placeholder")
    wrapped, mask = model.prompt_wrap(images, ones, PROMPT)
    assert wrapped.shape[:2] == mask.shape
    assert model.prompt_wrap(images, ones, "")[0] is images


def test_loss_is_that_of_the_captions_alone(make_model: Make, batch: Batch) -> None:
    model = make_model()
    images = model.encode_img(batch["image"])[0]
    table, tokenizer = model.llama_model.get_input_embeddings(), model.llama_tokenizer
    terms = []
    for row, caption in enumerate(batch["caption"]):
        ids = tokenizer(caption + "###", add_special_tokens=False, return_tensors="pt").input_ids
        prompt = model.embed_prompt([PROMPT], images[row : row + 1])[0]
        logits = model.llama_model(inputs_embeds=torch.cat([prompt, table(ids)], dim=1)).logits
        first = prompt.shape[1] - 1
        terms.append(F.cross_entropy(logits[0, first:-1], ids[0], reduction="none"))
    output = model(batch)
    torch.testing.assert_close(output["loss"], torch.cat(terms).mean())
    lengths = [len(term) for term in terms]
    assert output["num_targets"] == sum(lengths)
    assert lengths[0] != lengths[1]
    assert output["num_padded"] == max(lengths) - min(lengths)
    assert output["num_positions"] == 2 * (prompt.shape[1] + max(lengths))


def test_the_parity_harness_sees_what_reaches_the_language_model(make_model: Make, batch: Batch) -> None:
    """The recorded cases with a whole model quote reports, so they do not lie in the repository."""
    seen: list[int] = []

    def watch(llm: Any, embeds: torch.Tensor, mask: torch.Tensor, labels: torch.Tensor) -> dict[str, Any]:
        seen.append(len(embeds))
        return {"loss": embeds.sum()}

    with watching(watch):
        make_model()(batch)
    assert seen == [2]


def test_a_long_caption_is_cut_and_empty_ones_are_refused(make_model: Make, batch: Batch) -> None:
    model = make_model(max_txt_len=5)
    assert model(batch)["num_targets"] == 10
    model.end_sym = ""
    with pytest.raises(DataError, match=r"\['a', 'b'\]"):
        model(batch | {"caption": ["", ""]})


def test_only_the_projection_is_trained(make_model: Make, batch: Batch) -> None:
    model = make_model().train()
    model(batch)["loss"].backward()
    assert {n for n, p in model.named_parameters() if p.grad is not None} == {
        "llama_proj.weight",
        "llama_proj.bias",
    }
    assert set(trainable_state(model)) == {"llama_proj.weight", "llama_proj.bias"}
    assert [name for name, child in model.named_children() if child.training] == ["llama_proj"]


def test_everything_but_the_language_model_can_be_trained(make_model: Make, batch: Batch) -> None:
    model = make_model(freeze_vit=False, freeze_qformer=False).train()
    model(batch)["loss"].backward()
    idle = {n.split(".")[0] for n, p in model.named_parameters() if p.grad is None}
    assert idle == {"llama_model"}
    assert not model.llama_model.training
    assert model.visual_encoder.training


def test_batched_generation_equals_one_by_one(make_model: Make, batch: Batch) -> None:
    model = make_model()
    prompts = ["<ImageHere>", PROMPT]
    together = model.generate(batch | {"prompt": prompts}, SHORT)
    alone = [
        model.generate({"image": batch["image"][row : row + 1], "prompt": prompts[row]}, SHORT)[0]
        for row in range(2)
    ]
    assert together == alone
    swapped = model.generate(batch | {"image": batch["image"].flip(0), "prompt": prompts}, SHORT)
    assert swapped != together


@pytest.mark.parametrize("beams", [1, 3])
def test_a_cache_of_fixed_size_writes_the_same(
    make_model: Make, batch: Batch, beams: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model().eval()
    prompts = ["<ImageHere>", "<ImageHere> Describe this chest x-ray in detail."]
    samples = {"image": batch["image"][:2], "prompt": prompts}
    settings = GenerationConfig(max_new_tokens=8, min_length=6, num_beams=beams)
    caches, write = list[str](), model.llama_model.generate

    def spy(**inputs: Any) -> Any:
        caches.append(inputs["generation_config"].cache_implementation)
        return write(**inputs)

    monkeypatch.setattr(model.llama_model, "generate", spy)
    texts = model.generate(samples, settings)
    model.static_cache = True
    assert model.generate(samples, settings) == texts
    assert caches == [None, "static"]


def test_generation_stops_at_the_end_symbol(make_model: Make, batch: Batch) -> None:
    model = make_model()
    free = model.generate(batch, SHORT)[0]
    model.end_sym = next(mark for mark in free[2:] if mark.strip() and free.find(mark) > 0)
    assert model.generate(batch, SHORT)[0] == free[: free.find(model.end_sym)].strip()


def test_a_chat_starts_from_the_training_prompt(make_model: Make, batch: Batch) -> None:
    model = make_model()
    chat = Chat(model, lambda image: image)
    conv, images = chat.new_conversation(), list[torch.Tensor]()
    chat.upload_img(batch["image"][0], conv, images)
    chat.ask("Describe this chest x-ray.", conv)
    assert conv.get_prompt() == PROMPT
    streamed = list(chat.stream_answer(conv.copy(), images, SHORT))
    text, _ = chat.answer(conv, images, max_new_tokens=8, temperature=0)
    assert text == streamed[-1] == model.generate(batch, SHORT)[0]
    assert chat.answer(conv, images, max_new_tokens=4, num_beams=2)[0] is not None
    released = CONV_VISION.copy()
    chat.upload_img(batch["image"][0], released, images[:0])
    assert torch.equal(chat.get_context_emb(released, images), model.get_context_emb(released, images))


def test_an_error_while_streaming_reaches_the_caller(make_model: Make, batch: Batch) -> None:
    model = make_model()
    embeds = torch.zeros(1, 4, 7)  # not the model's width
    with pytest.raises(RuntimeError):
        list(model.complete_stream(embeds, torch.ones(1, 4), SHORT, stops=[]))


def test_parts_written_by_one_model_are_read_by_another(
    make_model: Make, batch: Batch, llm_folder: Path, tmp_path: Path
) -> None:
    model = make_model(freeze_vit=False, freeze_qformer=False)
    model.export(tmp_path)
    assert set(load_weights(tmp_path / "projection.pth")) == {"llama_proj.weight", "llama_proj.bias"}
    files = {
        "vit_ckpt": str(tmp_path / "vit.pth"),
        "q_former_model": str(tmp_path / "qformer.pth"),
        "ckpt": str(tmp_path / "projection.pth"),
        "llama_model": str(llm_folder),
        "llm_precision": "fp32",
    }
    other = MiniGPT4.from_config(tiny_config(**files)).eval()
    torch.testing.assert_close(other(batch)["loss"], model(batch)["loss"])


def test_checkpoints_that_do_not_fit_are_refused(make_model: Make, tmp_path: Path) -> None:
    model = make_model()
    save_checkpoint(tmp_path / "q.pth", {"model": {"query_tokens": torch.zeros(1, 3, 16)}})
    with pytest.raises(CheckpointError, match="no llama_proj"):
        model.load_checkpoint(tmp_path / "q.pth", required=("llama_proj",))
    save_checkpoint(tmp_path / "w.pth", {"model": {"llama_proj.weight": torch.zeros(32, 9)}})
    with pytest.raises(CheckpointError) as caught:
        model.load_checkpoint(tmp_path / "w.pth")
    assert "llama_proj.bias" in str(caught.value)
    assert "(32, 9)" in str(caught.value)


def test_all_missing_files_are_reported_at_once(tmp_path: Path) -> None:
    config = tiny_config(
        vit_ckpt=str(tmp_path / "v.pth"),
        q_former_model="package:weights/absent.pth",
        ckpt=str(tmp_path / "c.pth"),
        llama_model=str(tmp_path / "llm"),
        prompt="",
        prompt_path=str(tmp_path / "prompts.txt"),
    )
    with pytest.raises(MissingFileError) as caught:
        MiniGPT4.from_config(config)
    for part in ("v.pth", "absent.pth", "c.pth", "llm", "prompts.txt", "eva_vit_g.pth", "model.ckpt"):
        assert part in str(caught.value)
    assert str(caught.value).count("missing file:") == 5
    with pytest.raises(MissingFileError, match=re.escape(str(caught.value))):
        MiniGPT4.check_files(config)


def test_a_vision_encoder_of_another_size_is_refused(make_model: Make, tmp_path: Path) -> None:
    file = tmp_path / "eva_vit_g.pth"
    for shape in ((1, 257, 1408), (1, 5, 1408), (7,)):  # ViT-g's; its width alone; not one at all
        save_checkpoint(file, {"model": {"pos_embed": torch.zeros(shape)}})
        with pytest.raises(CheckpointError) as caught:
            make_model().load_vision_encoder(file)
        assert all(part in str(caught.value) for part in (str(file), str(shape), "(1, 5, 24)"))


def test_a_data_set_without_images_is_named(make_model: Make, batch: Batch) -> None:
    model = make_model()
    text = {"caption": batch["caption"], "prompt": PROMPT, "source": "openi"}
    for call in (model, model.generate):
        with pytest.raises(DataError, match=r"'openi' gives none: set datasets\.openi\.data_type to images"):
            call(text)


def test_number_formats_follow_the_device_that_is_asked_for(
    llm_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(llama_model=str(llm_folder), vit_precision="fp16")
    for has_bf16, expected in ((True, torch.bfloat16), (False, torch.float16)):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, has=has_bf16: has)
        on_cpu, on_gpu = (MiniGPT4.from_config(config, device=device) for device in ("cpu", "cuda"))
        assert on_cpu.llama_model.dtype is torch.float32
        assert on_cpu.visual_encoder.patch_embed.proj.weight.dtype is torch.float32
        assert on_gpu.llama_model.dtype is expected
        assert on_gpu.visual_encoder.patch_embed.proj.weight.dtype is torch.float16


def test_a_template_may_hold_other_braces(llm_folder: Path) -> None:
    config = tiny_config(llama_model=str(llm_folder), prompt_template="{role}: {} {")
    assert config.prompts() == ["{role}: <Img><ImageHere></Img> Describe this chest x-ray. {"]


def test_random_parts_are_said_in_the_log(llm_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        MiniGPT4.from_config(tiny_config(llama_model=str(llm_folder)))
    assert "the vision encoder has random weights" in caplog.text
    assert "the Q-Former has random weights" in caplog.text


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("prompt_template", "no slot"),
        ("prompt_template", "{0}"),
        ("prompt", "no placeholder"),
        ("max_txt_len", 0),
        ("num_query_token", 0),
    ],
)
def test_settings_that_break_a_rule_are_refused(setting: str, value: Any) -> None:
    with pytest.raises(ValueError, match=setting):
        tiny_config(**{setting: value})


def test_captions_that_are_cut_are_counted(make_model: Make) -> None:
    texts = ["The heart is large.", "Normal."]
    rows = caption_rows(make_model().llama_tokenizer, texts, "###", 1000)
    lengths = sorted(map(len, rows))
    counts = [
        make_model(max_txt_len=n, end_sym="###").cut_captions(texts) for n in (*lengths, lengths[0] - 1)
    ]
    assert counts == [1, 0, 2]
    assert sorted(make_model(max_txt_len=lengths[1] - 1).caption_lengths(texts)) == [
        lengths[0],
        lengths[1] - 1,
    ]
