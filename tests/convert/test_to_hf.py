"""Exported folders, loaded by transformers: the same logits, the same text, the same features."""

import copy
import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoTokenizer, Blip2ForConditionalGeneration, Blip2Model, Blip2Processor

from tests.convert.conftest import Exported, byte_level_tokenizer, random_model
from tests.models.tiny import tiny_config
from tests.tolerance import rounding
from xraygpt.common.checkpoint import save_checkpoint
from xraygpt.common.errors import ConfigError
from xraygpt.convert.blip2 import Blip2
from xraygpt.convert.card import model_card
from xraygpt.convert.hf_tokenizer import PROBES, check_same_ids, processor_prompt, processor_tokenizer
from xraygpt.convert.to_hf import export_configuration, export_model, new_folder
from xraygpt.datasets.phantom.render import render_phantom
from xraygpt.models.adapters import AdapterConfig, is_adapter_key
from xraygpt.models.generation import GenerationConfig
from xraygpt.models.mini_gpt4 import MiniGPT4
from xraygpt.processors import Blip2ImageEvalProcessor, IdentityProcessor

Export = Callable[[str], Exported]
OUR_EPS = 1e-5  # of the norm behind the vision encoder; the folder can only say 1e-6, see convert/to_hf.py
KINDS = ("opt", "gpt_neox")


@pytest.fixture(scope="module")
def both(shipped: Exported, exported: Export) -> dict[str, Exported]:
    return {"llama": shipped} | {kind: exported(kind) for kind in KINDS}


def phantom(index: int, size: int = 128) -> Image.Image:
    return Image.fromarray(render_phantom(seed=900, index=index, size=size))


def load(folder: Path) -> tuple[Blip2ForConditionalGeneration, Blip2Processor]:
    model = Blip2ForConditionalGeneration.from_pretrained(str(folder)).eval()
    return model, Blip2Processor.from_pretrained(str(folder), backend="pil")


def inputs_of(model: MiniGPT4, processor: Blip2Processor, index: int) -> tuple[str, Any]:
    prompt = model.prompt_list[0]
    text = processor_prompt(prompt, model.config.num_query_token)
    return prompt, processor(images=phantom(index), text=text, return_tensors="pt")


@torch.no_grad()
def logits_of(model: MiniGPT4, prompt: str, image: Tensor) -> Tensor:
    embeds, mask = model.embed_prompt([prompt], model.encode_img(image)[0])
    return model.llama_model(inputs_embeds=embeds, attention_mask=mask).logits


@pytest.mark.parametrize("kind", ["llama", *KINDS])
@torch.no_grad()
def test_logits_agree(both: dict[str, Exported], kind: str) -> None:
    model, folder, difference = both[kind]
    theirs, processor = load(folder)
    assert max(difference) < 1e-5
    for index in range(3):
        prompt, inputs = inputs_of(model, processor, index)
        own = logits_of(model, prompt, inputs.pixel_values)
        rows = own.shape[-1]
        other = theirs(**inputs).logits
        assert other.shape[:2] == own.shape[:2]
        largest, width = float(own.abs().max()), model.llama_model.config.hidden_size
        assert (own - other[..., :rows]).abs().max() <= rounding(largest, terms=width)
        theirs.vision_model.post_layernorm.eps = OUR_EPS
        assert (own - theirs(**inputs).logits[..., :rows]).abs().max() <= rounding(largest)
        theirs.vision_model.post_layernorm.eps = 1e-6


@pytest.mark.parametrize("kind", ["llama", *KINDS])
def test_greedy_text_is_the_same(both: dict[str, Exported], kind: str) -> None:
    model, folder, _ = both[kind]
    theirs, processor = load(folder)
    texts = set()
    for index in range(3):
        prompt, inputs = inputs_of(model, processor, index)
        ids = theirs.generate(
            **inputs, max_new_tokens=60, stop_strings=[model.end_sym], tokenizer=processor.tokenizer
        )
        written = processor.decode(ids[0, inputs.input_ids.shape[1] :], skip_special_tokens=True)
        samples = {"image": inputs.pixel_values, "prompt": prompt}
        own = model.generate(samples, GenerationConfig(max_new_tokens=60))[0]
        assert written.split(model.end_sym)[0].strip() == own
        texts.add(own)
    assert kind != "llama" or len(texts) == 3  # the trained one reads the images


@torch.no_grad()
def test_the_image_token_is_never_the_best(shipped: Exported) -> None:
    model, folder, _ = shipped
    theirs, processor = load(folder)
    _, inputs = inputs_of(model, processor, 0)
    logits = theirs(**inputs).logits
    image = theirs.config.image_token_id
    assert image == logits.shape[-1] - 1 == processor.tokenizer.convert_tokens_to_ids("<image>")
    assert (logits[..., image] < logits[..., :image].amax(-1)).all()


def test_a_spare_row_serves_the_image_token(both: dict[str, Exported]) -> None:
    model, folder, _ = both["gpt_neox"]
    assert load(folder)[0].config.text_config.vocab_size == model.llama_model.config.vocab_size


def test_pixels_are_the_same(shipped: Exported) -> None:
    own = Blip2ImageEvalProcessor(image_size=64)
    processor = load(shipped.folder)[1].image_processor
    for image in (phantom(1), phantom(2, size=200).convert("RGB"), phantom(3).crop((0, 0, 90, 128))):
        torch.testing.assert_close(processor(image, return_tensors="pt").pixel_values[0], own(image))


@torch.no_grad()
@pytest.mark.parametrize("kind", ["llama", *KINDS])
def test_features_are_those_of_their_model(both: dict[str, Exported], kind: str) -> None:
    model, folder, _ = both[kind]
    theirs = Blip2Model.from_pretrained(str(folder)).eval()
    theirs.vision_model.post_layernorm.eps = OUR_EPS
    side = model.config.vision.img_size
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    own, other = model.get_image_features(images), theirs.get_image_features(pixel_values=images)
    torch.testing.assert_close(own.last_hidden_state, other.last_hidden_state, rtol=0, atol=1e-5)
    torch.testing.assert_close(own.pooler_output, other.pooler_output, rtol=0, atol=1e-5)
    torch.testing.assert_close(
        model.get_qformer_features(images), theirs.get_qformer_features(images), rtol=0, atol=1e-5
    )
    ids = torch.tensor([[1, 5, 6, 7], [1, 9, 8, 0]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
    own_text, their_text = (m.get_text_features(ids, attention_mask=mask) for m in (model, theirs))
    torch.testing.assert_close(own_text.last_hidden_state, their_text.last_hidden_state, rtol=0, atol=1e-5)


# ---- what is written


def test_weights_are_in_shards(shipped: Exported) -> None:
    files = sorted(shipped.folder.glob("*.safetensors"))
    assert len(files) > 2
    assert max(file.stat().st_size for file in files) < 600_000


def test_the_card_says_what_is_synthetic_and_its_code_runs(
    shipped: Exported, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    card = (shipped.folder / "README.md").read_text()
    assert card.count("**synthetic radiographs and reports only**") == 4
    code = card.split("```python\n")[1].split("```")[0]
    phantom(0).save(tmp_path / "radiograph.png")
    monkeypatch.chdir(tmp_path)
    exec(code.replace('folder = "."', f"folder = {str(shipped.folder)!r}"), {})
    image = Blip2ImageEvalProcessor(image_size=64)(phantom(0).convert("RGB"))
    own = shipped.model.generate({"image": image[None]}, GenerationConfig(max_new_tokens=120))[0]
    assert own in capsys.readouterr().out


def test_the_card_repeats_what_the_checkpoint_says(shipped: Exported, tmp_path: Path) -> None:
    model = shipped.model
    config = {
        "datasets": {"phantom": {"splits": {}}, "openi": {"build_info": {"storage": "somewhere/openi"}}},
        "run": {"max_epoch": 3},
    }
    payload = {"model": {"a": torch.ones(1)}, "config": config, "epoch": 2, "manifest": {"git": "abc"}}
    save_checkpoint(tmp_path / "c.pth", payload)
    original = model.config.ckpt
    try:
        model.config.ckpt = str(tmp_path / "c.pth")
        card = model_card(model, Blip2(), 0.0, 0.0)
    finally:
        model.config.ckpt = original
    for part in ("phantom: **synthetic", "openi: `openi`", "epochs: 3", "commit abc", json.dumps(3)):
        assert part in card


# ---- tokenizers


def test_ids_are_the_same_for_texts_of_all_kinds(shipped: Exported) -> None:
    ours, theirs = shipped.model.llama_tokenizer, load(shipped.folder)[1].tokenizer
    check_same_ids(ours, theirs, ["</s> in <ImageHere> text", "é<ImageHere>☃ unknown"], slots=4)
    for probe in PROBES:
        ids = ours(probe).input_ids
        assert ours.decode(ids, skip_special_tokens=True) == theirs.decode(ids, skip_special_tokens=True)


def test_tokens_that_were_added_keep_their_ids(shipped: Exported, tmp_path: Path) -> None:
    ours = copy.deepcopy(shipped.model.llama_tokenizer)
    ours.add_tokens(["[PAD]", "[B]"])
    processor_tokenizer(ours).save_pretrained(str(tmp_path))
    theirs = AutoTokenizer.from_pretrained(str(tmp_path))
    check_same_ids(ours, theirs, ["a[B]b <ImageHere>[PAD] c"], slots=2)
    assert theirs.convert_tokens_to_ids(["[PAD]", "[B]", "<image>"]) == [768, 769, 770]


def test_a_tokenizer_without_bos_gets_none(tmp_path: Path) -> None:
    ours = byte_level_tokenizer()
    ours.bos_token, ours.pad_token = None, ours.eos_token
    processor_tokenizer(ours).save_pretrained(str(tmp_path))
    check_same_ids(ours, AutoTokenizer.from_pretrained(str(tmp_path)), ["The heart <ImageHere>"], slots=2)


def test_a_tokenizer_that_cuts_in_another_way_is_refused(shipped: Exported) -> None:
    ours = shipped.model.llama_tokenizer
    theirs = processor_tokenizer(ours)
    theirs.add_tokens(["The heart"])
    with pytest.raises(ConfigError, match="cannot be exported"):
        check_same_ids(ours, theirs, [], slots=4)


# ---- refusals


def test_a_folder_in_use_is_left_alone(shipped: Exported, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="not overwritten"):
        export_model(shipped.model, Blip2ImageEvalProcessor(image_size=64), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("below", ["hf", "deep/hf"])
def test_a_folder_that_cannot_be_made_is_refused_before_anything_is_read(below: str, tmp_path: Path) -> None:
    (tmp_path / "a_file").write_text("mine")
    args = SimpleNamespace(cfg_path=str(tmp_path / "not_looked_at.yaml"), options=None)
    with pytest.raises(ConfigError, match="a_file is no folder"):
        export_configuration(args, tmp_path / "a_file" / below)


def test_what_their_network_has_not_is_named(shipped: Exported, tmp_path: Path) -> None:
    model = random_model(tmp_path / "llm", "opt")
    model.config = tiny_config()
    model.config.vision.init_values = 0.1
    model.config.qformer.position_embedding_type = "relative_key"
    with pytest.raises(ConfigError) as caught:
        export_model(model, Blip2ImageEvalProcessor(image_size=16), tmp_path / "hf")
    assert "vision.init_values" in str(caught.value)
    assert "qformer.position_embedding_type" in str(caught.value)
    with pytest.raises(ConfigError, match="blip2_image_eval"):
        export_model(shipped.model, IdentityProcessor(), tmp_path / "hf")
    assert not (tmp_path / "hf").exists()


def test_a_difference_that_matters_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = random_model(tmp_path / "llm", "opt")
    for parameter in model.visual_encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.01)  # the norm's input hardly varies then
    with caplog.at_level(logging.WARNING):
        export_model(model, Blip2ImageEvalProcessor(image_size=16), tmp_path / "hf")
    assert "post_layernorm.eps = 1e-5" in caplog.text


def test_an_export_that_computes_something_else_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = random_model(tmp_path / "llm", "opt")
    monkeypatch.setattr(Blip2, "align", lambda *arguments: None)
    model.ln_vision.eps = 0.1
    with pytest.raises(ConfigError, match=r"hf was not written: .*logits.*differ by \d\.\de-\d\d.*1e-05"):
        export_model(model, Blip2ImageEvalProcessor(image_size=16), tmp_path / "hf")
    assert not (tmp_path / "hf").exists()


def test_another_encoder_with_a_q_former_is_refused(tmp_path: Path) -> None:
    model = random_model(tmp_path / "llm", "opt")
    model.config.vit_model = "hf:somewhere"
    with pytest.raises(ConfigError, match=r"model\.vit_model: hf:somewhere, which BLIP-2 .* has not"):
        export_model(model, Blip2ImageEvalProcessor(image_size=16), tmp_path / "hf")


def test_a_failed_export_leaves_nothing_in_the_way_of_the_next(tmp_path: Path) -> None:
    folder = tmp_path / "hf"

    def fail() -> None:
        with new_folder(folder):
            (folder / "config.json").write_text("{}")
            raise RuntimeError("I/O error: No space left on device (os error 28)")

    with pytest.raises(OSError, match=r"No space left on device: '.*hf'"):
        fail()
    assert not folder.exists()


def demo(*options: str) -> SimpleNamespace:
    return SimpleNamespace(cfg_path="eval_configs/demo_tiny.yaml", options=list(options))


def test_adapters_are_merged_into_what_is_written(tmp_path: Path) -> None:
    settings = {"adapter": AdapterConfig(r=2), "vit_adapter": AdapterConfig(r=2)}
    model = MiniGPT4.from_config(replace(MiniGPT4.type_config("tiny"), **settings)).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if is_adapter_key(name):
                parameter.normal_(std=0.1)
    model.export(tmp_path)
    prompt, image = model.prompt_list[0], torch.randn(1, 3, 64, 64)
    expected = logits_of(model, prompt, image)
    folder = tmp_path / "hf"
    with pytest.raises(ConfigError, match="the model has an adapter"):
        export_model(model, Blip2ImageEvalProcessor(image_size=64), folder)
    options = [f"model.{name}.path={tmp_path / name}" for name in settings]
    export_configuration(demo(*options, f"model.ckpt={tmp_path / 'projection.pth'}"), folder)
    theirs, processor = load(folder)
    text = processor_prompt(prompt, model.config.num_query_token)
    ids = processor.tokenizer(text, return_tensors="pt")
    with torch.no_grad():
        found = theirs(pixel_values=image, **ids).logits[..., : expected.shape[-1]]
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()


def test_quantised_weights_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    with pytest.raises(ConfigError, match="weights are quantised"):
        export_configuration(demo("model.llm_precision=int8"), tmp_path / "hf")
    assert not (tmp_path / "hf").exists()
