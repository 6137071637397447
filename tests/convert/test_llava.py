"""Models with an MLP bridge as folders of Hugging Face's LLaVA: the same logits, the same text, and back."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoProcessor,
    CLIPImageProcessor,
    CLIPVisionConfig,
    CLIPVisionModel,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    SiglipVisionConfig,
    SiglipVisionModel,
    ViTConfig,
    ViTModel,
)

from tests.convert.conftest import byte_level_tokenizer, decoder_config
from tests.convert.test_from_hf import assert_same_bytes, read_back
from tests.convert.test_to_hf import phantom
from tests.models.tiny import TEMPLATE
from tests.models.tiny import VISION_SIZES as SIZES
from xraygpt.common import generation
from xraygpt.common.config import build_typed
from xraygpt.common.errors import CheckpointError, ConfigError
from xraygpt.conversation.messages import IMAGE_MARK, trained_conversation
from xraygpt.convert import to_hf
from xraygpt.convert.cli import main
from xraygpt.convert.from_hf import import_folder
from xraygpt.convert.to_hf import export_model
from xraygpt.models.mini_gpt4 import MiniGPT4, MiniGPT4Config
from xraygpt.processors import Blip2ImageEvalProcessor

TOWERS: dict[str, Callable[[], Any]] = {
    "clip": lambda: CLIPVisionModel(CLIPVisionConfig(**SIZES)),
    "siglip": lambda: SiglipVisionModel(SiglipVisionConfig(**SIZES)),
    "vit": lambda: ViTModel(ViTConfig(**SIZES)),
    "registers": lambda: Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**SIZES)),
}
MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llava": ("clip", "llama", {"vision": {"layer": -2, "class_tokens": False}}),
    "class token": ("clip", "gpt_neox", {"vision": {"layer": 0}}),
    "no class token": ("siglip", "opt", {"vision": {"layer": -1}}),
    "other size": ("vit", "llama", {"vision": {"layer": -2, "class_tokens": False}, "image_size": 48}),
    "registers": ("registers", "opt", {"vision": {"layer": -2}, "image_size": 24}),
}
"""Vision tower, decoder, settings."""


def decoder(kind: str, tokens: int) -> Any:
    sizes = {key: SIZES[key] for key in ("num_attention_heads", "intermediate_size")}
    if kind == "llama":
        config: Any = LlamaConfig(vocab_size=tokens, hidden_size=32, num_hidden_layers=2, **sizes)
    else:
        config = decoder_config(kind, tokens + 5 * (kind == "opt"))  # a spare row, while its head is tied
    return AutoModelForCausalLM.from_config(config)


def random_llava(folder: Path, tower: str, llm: str, **changes: Any) -> MiniGPT4:
    """A model on random parts, which are written below `folder`."""
    torch.manual_seed(5)
    tokenizer = byte_level_tokenizer()
    tokenizer.chat_template = changes.pop("chat_template", None)
    tokenizer.save_pretrained(str(folder / "llm"))
    for name, part in (("tower", TOWERS[tower]()), ("llm", decoder(llm, len(tokenizer)))):
        for parameter in part.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        part.save_pretrained(str(folder / name))
    section: dict[str, Any] = {"vit_model": f"hf:{folder / 'tower'}", "llama_model": str(folder / "llm")}
    section |= {"bridge": "mlp", "prompt": "<Img><ImageHere></Img> Describe this chest x-ray."}
    section |= {"prompt_template": TEMPLATE, "end_sym": "###", "max_txt_len": 40, "llm_precision": "fp32"}
    config = build_typed(MiniGPT4Config, section | changes, where="model")
    model = MiniGPT4.from_config(config).eval()
    for parameter in (*model.llama_proj.parameters(), *model.bridge.parameters()):
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def export(model: MiniGPT4, folder: Path, **changes: Any) -> to_hf.Differences:
    side = model.visual_encoder.preprocessing.image_size
    return export_model(model, Blip2ImageEvalProcessor(image_size=side, **changes), folder)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[MiniGPT4, Path]]:
    models = {}
    for name, (tower, llm, changes) in MODELS.items():
        folder = tmp_path_factory.mktemp("llava")
        models[name] = random_llava(folder, tower, llm, **changes), folder / "hf"
        assert max(export(*models[name])) < 1e-5
    return models


@torch.no_grad()
def logits_of(model: MiniGPT4, prompt: str, image: Tensor) -> Tensor:
    embeds, mask = model.embed_prompt([prompt], model.encode_img(image)[0])
    return model.llama_model(inputs_embeds=embeds, attention_mask=mask).logits


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_logits_and_greedy_text_are_the_same(exported: dict[str, Any], name: str) -> None:
    model, folder = exported[name]
    theirs = LlavaForConditionalGeneration.from_pretrained(str(folder)).eval()
    processor = AutoProcessor.from_pretrained(str(folder), backend="pil")
    prompt = model.prompt_list[0]
    text = prompt.replace("<ImageHere>", "<image>")
    for index in range(2):
        inputs = processor(images=phantom(index), text=text, return_tensors="pt")
        own = logits_of(model, prompt, inputs.pixel_values)
        other = theirs(**inputs).logits
        assert other.shape[1] == own.shape[1]
        torch.testing.assert_close(own, other[..., : own.shape[-1]], rtol=0, atol=1e-5)
        side = model.visual_encoder.preprocessing.image_size
        pixels = Blip2ImageEvalProcessor(image_size=side)(phantom(index))
        torch.testing.assert_close(inputs.pixel_values[0], pixels)
        ids = theirs.generate(
            **inputs, max_new_tokens=20, do_sample=False, stop_strings=["###"], tokenizer=processor.tokenizer
        )
        written = processor.decode(ids[0, inputs.input_ids.shape[1] :], skip_special_tokens=True)
        samples = {"image": inputs.pixel_values, "prompt": prompt}
        text_here = model.generate(samples, generation.GenerationConfig(max_new_tokens=20))[0]
        assert written.split("###")[0].strip() == text_here


def test_what_the_folder_says_of_itself(exported: dict[str, Any]) -> None:
    folder = exported["llava"][1]
    config, processor = (
        json.loads((folder / name).read_text()) for name in ("config.json", "processor_config.json")
    )
    assert config["image_token_index"] == 330
    assert (config["vision_feature_layer"], config["vision_feature_select_strategy"]) == (-2, "default")
    assert (config["projector_hidden_act"], config["image_seq_length"]) == ("gelu", 16)
    assert (processor["patch_size"], processor["num_additional_image_tokens"]) == (8, 1)
    assert processor["image_processor"]["size"] == {"height": 32, "width": 32}
    for name, layer, strategy in (("class token", -3, "full"), ("no class token", -1, "full")):
        config = json.loads((exported[name][1] / "config.json").read_text())
        assert (config["vision_feature_layer"], config["vision_feature_select_strategy"]) == (layer, strategy)
    assert (
        json.loads((exported["other size"][1] / "config.json").read_text())["vision_config"]["image_size"]
        == 48
    )
    card = (folder / "README.md").read_text()
    assert "from transformers import LlavaForConditionalGeneration, LlavaProcessor" in card
    assert "Q-Former" not in card
    assert "'###Patient: <Img><image></Img> Describe this chest x-ray. ###Doctor: '" in card


def test_the_chat_template_writes_the_conversations_of_the_training(exported: dict[str, Any]) -> None:
    model, folder = exported["llava"]
    processor = AutoProcessor.from_pretrained(str(folder), backend="pil")
    conversation = trained_conversation(model.prompt_template, model.end_sym)
    conversation.append_message("Patient", f"{IMAGE_MARK} Describe this chest x-ray.")
    image = [{"type": "image"}, {"type": "text", "text": "Describe this chest x-ray."}]
    messages: list[dict[str, Any]] = [{"role": "user", "content": image}]
    first = processor.apply_chat_template(messages)
    assert conversation.get_prompt() == model.prompt_list[0]
    for turn in (
        {"role": "assistant", "content": "Clear {lungs}."},
        {"role": "user", "content": 'Why "so"?'},
    ):
        messages.append(turn)
        conversation.append_message("Doctor" if turn["role"] == "assistant" else "Patient", turn["content"])
    text = processor.apply_chat_template(messages)
    assert text == "<s>" + conversation.get_prompt().replace("<ImageHere>", "<image>")
    # As servers do it: the template writes BOS, the tokenizer must not add another.
    ids = processor.tokenizer(first, add_special_tokens=False).input_ids
    assert ids == processor.tokenizer(first.removeprefix("<s>")).input_ids


CHATML = (
    "{{ '<s>' }}{% for message in messages %}{{ '<|' + message['role'] + '|>\\n' + message['content'] }}"
    "{{ '</s>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
)


def test_the_chat_template_of_a_tokenizer_is_written_with_images(tmp_path: Path) -> None:
    settings = {"prompt_template": "chat", "end_sym": "\n", "vision": {"layer": -2}}
    model = random_llava(tmp_path, "clip", "llama", chat_template=CHATML, **settings)
    export(model, tmp_path / "hf")
    processor = AutoProcessor.from_pretrained(str(tmp_path / "hf"), backend="pil")
    image = [{"type": "image"}, {"type": "text", "text": "Describe this chest x-ray."}]
    messages: list[dict[str, Any]] = [{"role": "user", "content": image}]
    text = processor.apply_chat_template(messages, add_generation_prompt=True)
    assert text == "<s>" + model.prompt_list[0].replace("<ImageHere>", "<image>")
    conversation = model.new_conversation()
    conversation.append_message("Patient", f"{IMAGE_MARK} Describe this chest x-ray.")
    for role, speaker, said in (("assistant", "Doctor", "Clear."), ("user", "Patient", "Sure?")):
        messages.append({"role": role, "content": said})
        conversation.append_message(speaker, said)
    text = processor.apply_chat_template(messages, add_generation_prompt=True)
    assert text == "<s>" + conversation.get_prompt().replace("<ImageHere>", "<image>")
    text = import_folder(tmp_path / "hf", tmp_path / "a.pth", tmp_path / "llm2", tmp_path / "tower2")
    back, _ = read_back(text, tmp_path)
    assert (back.prompt_list, back.end_sym) == (model.prompt_list, model.end_sym)
    assert back.new_conversation().render is not None


def test_a_model_without_template_has_no_chat_template(tmp_path: Path) -> None:
    changes = {"prompt_template": "", "end_sym": "</s>", "vision": {"layer": -1}}
    model = random_llava(tmp_path, "clip", "llama", **changes)
    model.llama_model.generation_config.eos_token_id = [7]
    export(model, tmp_path / "hf", interpolation="bilinear", mean=[0.5, 0.4, 0.3])
    assert not (tmp_path / "hf" / "chat_template.jinja").exists()
    assert GenerationConfig.from_pretrained(str(tmp_path / "hf")).eos_token_id == [1, 7]


# ---- back


@pytest.mark.parametrize("name", MODELS)
def test_there_and_back_gives_every_byte_again(
    exported: dict[str, Any], name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, folder = exported[name]
    command = ["from-hf", str(folder), str(tmp_path / "back.pth"), "--llm-folder", str(tmp_path / "llm")]
    assert main([*command, "--vision-folder", str(tmp_path / "tower")]) == 0
    back, cfg = read_back(capsys.readouterr().out, tmp_path, "model.llm_precision=fp32")
    if name != "other size":  # whose position embeddings were resized
        assert_same_bytes(model, back)
    image = torch.randn(1, 3, *[model.visual_encoder.preprocessing.image_size] * 2)
    torch.testing.assert_close(back.encode_img(image)[0], model.encode_img(image)[0])
    assert (back.prompt_list, back.end_sym) == (model.prompt_list, model.end_sym)
    assert cfg.preprocess_cfg["vis_processor"]["eval"]["image_size"] == image.shape[-1]


@torch.no_grad()
@pytest.mark.parametrize("layer", [-2, 2])
def test_a_public_folder_is_read(layer: int, tmp_path: Path) -> None:
    """Of the layout of llava-1.5: 16 bits, a row for the image token, images cropped to their middle."""
    folder, tokenizer = tmp_path / "hf", byte_level_tokenizer()
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    tower = {key: value for key, value in SIZES.items() if key != "image_size"}
    text = LlamaConfig(vocab_size=340, hidden_size=32, intermediate_size=48, num_attention_heads=2)
    text.num_hidden_layers = 1
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**tower, image_size=32).to_dict(),
        text_config=text.to_dict(),
        image_token_index=330,
        vision_feature_layer=layer,
    )
    torch.manual_seed(6)
    LlavaForConditionalGeneration(config).half().save_pretrained(str(folder))
    theirs: Any = LlavaForConditionalGeneration.from_pretrained(str(folder)).eval()
    tokenizer.save_pretrained(str(folder))
    crop = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    crop.save_pretrained(str(folder))
    text_out = import_folder(folder, tmp_path / "a.pth", tmp_path / "llm", tmp_path / "tower")
    assert text_out.startswith("# Images were cropped")
    options = ["model.llm_precision=fp16", "model.max_txt_len=9"]
    back, _ = read_back(text_out, tmp_path, *options)
    assert back.config.vision.layer == {-2: -2, 2: 1}[layer]
    theirs.model.vision_tower.float(), theirs.model.multi_modal_projector.float()
    image = torch.randn(1, 3, 32, 32)
    features = theirs.get_image_features(pixel_values=image, vision_feature_layer=layer).pooler_output
    torch.testing.assert_close(back.encode_img(image)[0][0], features[0], rtol=0, atol=1e-5)
    ids = torch.tensor([[0, 5, 6, 7]])
    assert torch.equal(back.llama_model(ids).logits, theirs(input_ids=ids).logits)
    stored = torch.load(tmp_path / "a.pth", weights_only=True)["model"]
    assert sorted(stored) == sorted(
        f"{part}.{kind}" for part in ("bridge_mlp.0", "llama_proj") for kind in ("bias", "weight")
    )


def test_without_folders_the_projector_alone_is_written(exported: dict[str, Any], tmp_path: Path) -> None:
    text = import_folder(exported["llava"][1], tmp_path / "projector.pth")
    assert "vit_model: hf:FOLDER" in text
    assert "llama_model: FOLDER" in text
    assert [path.name for path in tmp_path.iterdir()] == ["projector.pth"]


# ---- refusals


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bridge": "linear"}, r"model\.bridge: linear; its projector is the bridge mlp"),
        ({"bridge_config": {"depth": 4}}, r"model\.bridge_config: depth 4 and merge 1"),
        ({"bridge_config": {"merge": 4}, "vision": {"class_tokens": False}}, r"depth 2 and merge 4"),
        ({"vit_model": "timm:vit_tiny_patch16_224", "vit_ckpt": None}, r"model\.vit_model: timm:vit_tiny"),
        ({"vision": {"layer": None}}, r"model\.vision\.layer is None: .*normalises its output once more"),
        (
            {"vision": {"class_tokens": False}},
            r"model\.vision\.class_tokens: false; it leaves out the first of 5 class and reg",
        ),
    ],
)
def test_what_llava_has_not_is_named(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    if "timm" in str(changes):
        changes["vision"] = {"args": {"embed_dim": 24, "depth": 1, "num_heads": 2}, "img_size": 32}
    model = random_llava(tmp_path, "registers", "llama", **changes)
    with pytest.raises(ConfigError, match=message):
        export(model, tmp_path / "hf")
    assert not (tmp_path / "hf").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"projector_hidden_act": "relu"}, "projector_hidden_act is 'relu'"),
        ({"multimodal_projector_bias": False}, "multimodal_projector_bias is False"),
        ({"vision_feature_layer": [-2, -1]}, r"vision_feature_layer is \[-2, -1\]"),
        ({"vision_feature_layer": 0}, "vision_feature_layer is 0"),
    ],
)
def test_what_this_package_has_not_is_named(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    LlavaConfig(**changes).save_pretrained(str(tmp_path / "hf"))
    with pytest.raises(ConfigError, match=message):
        import_folder(tmp_path / "hf", tmp_path / "out.pth")
    assert not (tmp_path / "out.pth").exists()


def test_weights_that_are_missing_are_named(exported: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "hf"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_bytes((exported["llava"][1] / name).read_bytes())
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"]["num_hidden_layers"] = 4
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"do not fit config\.json: missing .*layers\.3"):
        import_folder(folder, tmp_path / "out.pth", vision_folder=tmp_path / "tower")
    assert not (tmp_path / "tower").exists()


# ---- the check at the end of an export


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_an_export_that_computes_something_else_fails(
    precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"vision": {"layer": -2}, "llm_precision": precision}
    model = random_llava(tmp_path, "clip", "llama", **changes)
    assert export(model, tmp_path / "right").logits < 1e-5
    assert {parameter.dtype for parameter in model.llama_model.parameters()} == {
        {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    }
    counterpart = to_hf.counterpart

    def wrong(*arguments: Any) -> Any:
        theirs, processor = counterpart(*arguments)
        bias = theirs.model.multi_modal_projector.linear_2.bias
        theirs.model.multi_modal_projector.linear_2.bias = torch.nn.Parameter(bias + 0.001)
        return theirs, processor

    monkeypatch.setattr(to_hf, "counterpart", wrong)
    with pytest.raises(ConfigError, match=r"wrong was not written: .*logits.*differ by \d\.\de-0\d.*1e-05"):
        export(model, tmp_path / "wrong")
    assert not (tmp_path / "wrong").exists()


def test_pixels_are_compared_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_llava(tmp_path, "clip", "llama", vision={"layer": -2})
    settings = to_hf._image_settings
    monkeypatch.setattr(to_hf, "_image_settings", lambda own: settings(own) | {"image_mean": [0.5, 0.5, 0.5]})
    with pytest.raises(ConfigError, match=r"its pixels differ by"):
        export(model, tmp_path / "hf")
    assert not (tmp_path / "hf").exists()
