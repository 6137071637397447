"""A trained `MiniGPT4` as a folder that Hugging Face's BLIP-2 (bridge qformer) or LLaVA (bridge mlp) loads.

An export ends by loading what it wrote, and fails if that does not compute what the model does. The folder's
README.md, the model card, says how it is used, and what it was trained on.
"""

import copy
import logging
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

from xraygpt.common.config import CommandLine, Config
from xraygpt.common.errors import ConfigError
from xraygpt.common.hf_folder import from_folder
from xraygpt.common.run_record import write_json, writing
from xraygpt.conversation.messages import CHAT, IMAGE_PLACEHOLDER, TEMPLATE_SLOT
from xraygpt.convert.blip2 import Blip2
from xraygpt.convert.card import model_card
from xraygpt.convert.hf_tokenizer import check_same_ids, image_token_id, processor_prompt, processor_tokenizer
from xraygpt.convert.llava import Llava
from xraygpt.models.adapters import has_adapter, merge_adapter
from xraygpt.models.bridges import QFormerBridge
from xraygpt.models.llm import embedding_table, end_token_ids
from xraygpt.models.mini_gpt4 import MiniGPT4
from xraygpt.processors import Blip2ImageEvalProcessor, load_processor

logger = logging.getLogger(__name__)

ORIGIN_FILE = "xraygpt.json"
"""What the way back needs and the folder cannot say otherwise: see `_origin`."""
TOKENIZER_FOLDER = "llm_tokenizer"
"""The language model's own tokenizer, unchanged."""
CLOSE = 1e-5
"""How far the two may lie apart: a normalised pixel; a logit, as a part of the largest. Both compute in
float32, in which weights of 16 bits are exact, so that it holds for these too."""


class Differences(NamedTuple):
    """The largest differences between a model and its folder, for a random image with a prompt."""

    embeddings: float  # of what the language model gets of the image
    logits: float  # as a part of the largest one


def export_configuration(args: CommandLine, folder: Path, max_shard_size: str = "5GB") -> Differences:
    """Build the model of a configuration and `export_model` it.

    Raises:
        XrayGPTError: anything that the user can fix.
    """
    require_new(folder)
    cfg = Config(args)
    if cfg.arch != "mini_gpt4":
        raise ConfigError(
            f"{args.cfg_path}: model.arch is {cfg.arch}; only mini_gpt4 has a counterpart there"
        )
    node = cfg.preprocess_cfg.get("vis_processor", {}).get("eval")
    if node is None:
        raise ConfigError(f"{args.cfg_path}: no image processor; set preprocess.vis_processor.eval")
    model = MiniGPT4.from_config(cfg.model_cfg).eval()
    check_weights(model)
    for part in (model.llama_model, model.visual_encoder):
        if has_adapter(part):
            merge_adapter(part)
    vis_processor = load_processor(node["name"], node, cfg.model_cfg.preprocessing())
    return export_model(model, vis_processor, folder, max_shard_size)


def export_model(
    model: MiniGPT4, vis_processor: Any, folder: Path, max_shard_size: str = "5GB"
) -> Differences:
    """Write model, processor, model card and what the way back needs into a new folder, and load it again.

    Weights keep their number formats.

    Raises:
        ConfigError: the folder is not empty; the model has something that its counterpart there has not, such
            as an adapter (see `merge_adapter`) or quantised weights; or what was written computes something
            else, and was taken away again.
    """
    require_new(folder)
    check_weights(model)
    if has_adapter(model):
        raise ConfigError("the model has an adapter, which that format has no place for: merge it first")
    family = Blip2() if isinstance(model.bridge, QFormerBridge) else Llava()
    tokenizer = processor_tokenizer(model.llama_tokenizer)
    check_same_ids(model.llama_tokenizer, tokenizer, model.prompt_list, model.tokens_per_image)
    theirs, processor = counterpart(model, family, tokenizer, _image_settings(vis_processor))
    with new_folder(folder):
        theirs.save_pretrained(str(folder), max_shard_size=max_shard_size)
        processor.save_pretrained(str(folder))
        model.llama_tokenizer.save_pretrained(str(folder / TOKENIZER_FOLDER))
        write_json(folder / ORIGIN_FILE, _origin(model))
        differences = compare(model, vis_processor, family, folder)
        (folder / "README.md").write_text(model_card(model, family, *differences), encoding="utf-8")
    return differences


def check_weights(model: MiniGPT4) -> None:
    """Raise ConfigError if the language model's weights are quantised, which is not exported."""
    if getattr(model.llama_model, "is_quantized", False):
        raise ConfigError(
            "the language model's weights are quantised, and are exported whole only: set "
            "model.llm_precision to fp16 or fp32, with a folder in model.llama_model that is not quantised"
        )


@contextmanager
def new_folder(folder: Path) -> Iterator[None]:
    """Make a folder and write into it; nothing of it stays if that fails, so that it can be tried again.

    Raises:
        OSError: the disk is full, or the folder may not be written to.
    """
    with writing(folder):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            yield
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise


def require_new(path: Path) -> None:
    """Check a target before work goes into it.

    Raises:
        ConfigError: a folder or file is there already (an empty folder may be), or none can be made there.
    """
    if path.is_file() or (path.is_dir() and any(path.iterdir())):
        raise ConfigError(
            f"{path} is there already and is not overwritten; name a new one, or remove it first"
        )
    above = next(place for place in (path, *path.absolute().parents) if os.path.exists(place))
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise ConfigError(f"{path} cannot be written: {above} is no folder, or not one that you may write to")


def _image_settings(vis_processor: Any) -> dict[str, Any]:
    """The settings of an image processor there that does what `vis_processor` does."""
    if not isinstance(vis_processor, Blip2ImageEvalProcessor) or vis_processor.transform is None:
        raise ConfigError(f"{type(vis_processor).__name__} has no counterpart there; use blip2_image_eval")
    resize = vis_processor.transform.transforms[0]
    return {
        "size": dict(zip(("height", "width"), resize.size, strict=True)),
        "resample": Image.Resampling[resize.interpolation.name],
        "image_mean": list(vis_processor.normalize.mean),
        "image_std": list(vis_processor.normalize.std),
    }


def counterpart(
    model: MiniGPT4, family: Blip2 | Llava, tokenizer: PreTrainedTokenizerBase, images: dict[str, Any]
) -> tuple[PreTrainedModel, ProcessorMixin]:
    """The same network there, with a row for the image token, and its processor.

    The network shares the memory of other tensors. A new row is the mean of the others. In the output layer
    this makes the token's score the mean of all scores, so that it is never the best one: greedy decoding
    stays what it was.
    """
    llm = model.llama_model
    special = {f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id") for kind in ("bos", "eos", "pad")}
    text = llm.config.to_dict() | special | {"tie_word_embeddings": bool(llm.config.tie_word_embeddings)}
    config, state, processor = family.write(model, text, images, tokenizer)
    with torch.device("meta"):
        theirs: PreTrainedModel = family.model_class(config)
    family.align(theirs)
    theirs.load_state_dict(state, assign=True)
    theirs.tie_weights()
    rows, image = embedding_table(llm).num_embeddings, image_token_id(tokenizer)
    if image >= rows:
        theirs.resize_token_embeddings(image + 1, mean_resizing=False)
        for layer in (theirs.get_input_embeddings(), theirs.get_output_embeddings()):
            for table in layer.parameters():
                table.data[rows:] = table.data[:rows].float().mean(0)
    stops = end_token_ids(llm, model.llama_tokenizer, model.stop_strings)
    theirs.generation_config = GenerationConfig(**special | {"eos_token_id": stops})
    return theirs.eval(), processor


def _origin(model: MiniGPT4) -> dict[str, Any]:
    """What the language model's tables were, the manifest, and what the section ``model`` says of texts."""
    before, _, after = model.prompt_template.partition(TEMPLATE_SLOT)
    texts = {
        "prompt_template": model.prompt_template if model.new_conversation().render is None else CHAT,
        "prompt": "".join(model.prompt_list[:1]).removeprefix(before).removesuffix(after),
        "end_sym": model.end_sym,
        "max_txt_len": model.max_txt_len,
    }
    llm = model.llama_model
    rows, tied = embedding_table(llm).num_embeddings, bool(llm.config.tie_word_embeddings)
    return {"llm_rows": rows, "llm_tied": tied, "manifest": model.manifest(), "model": texts}


@torch.no_grad()
def compare(model: MiniGPT4, vis_processor: Any, family: Blip2 | Llava, folder: Path) -> Differences:
    """Load an exported folder and compare it with `model`, in float32.

    Raises:
        ConfigError: pixels or logits differ by more than `CLOSE`.
    """
    theirs = from_folder(family.model_class, folder, "the exported model").float().to(model.device).eval()
    processor = from_folder(family.processor_class, folder, "the exported processor", backend="pil")
    side = model.visual_encoder.preprocessing.image_size
    noise = torch.randint(256, (2 * side, side + 7), generator=torch.Generator().manual_seed(0))
    image = Image.fromarray(noise.byte().numpy())
    prompt = model.prompt_list[0] if model.prompt_list else IMAGE_PLACEHOLDER
    text = processor_prompt(prompt, 1 if family.expands else model.tokens_per_image)
    inputs = processor(images=image, text=text, return_tensors="pt").to(model.device)

    all_float32 = all(parameter.dtype == torch.float32 for parameter in model.parameters())
    own = model if all_float32 else copy.deepcopy(model).float()
    features = own.encode_img(inputs.pixel_values)[0]
    embeds, mask = own.embed_prompt([prompt], features)
    logits = own.llama_model(inputs_embeds=embeds, attention_mask=mask).logits
    their_features = torch.stack(list(theirs.get_image_features(inputs.pixel_values).pooler_output))
    family.align(theirs)
    their_logits = theirs(**inputs).logits[..., : logits.shape[-1]]

    pixels = _largest(vis_processor(image), inputs.pixel_values[0].cpu())
    relative = _largest(logits, their_logits) / float(logits.abs().max())
    for what, size in (("pixels", pixels), ("logits, as a part of the largest,", relative)):
        if not size <= CLOSE:
            raise ConfigError(
                f"{folder} was not written: loaded again, its {what} differ by {size:.1e} from those of this "
                f"model, and {CLOSE:.0e} is allowed"
            )
    found = Differences(_largest(features, their_features), relative)
    if found.embeddings > CLOSE and family.card_note:
        logger.warning(family.card_note.format(embeddings=found.embeddings))
    return found


def _largest(own: Tensor, theirs: Tensor) -> float:
    """The largest difference; infinite between tensors of different shapes, NaN if one holds NaN."""
    return float((own - theirs).abs().max()) if own.shape == theirs.shape else math.inf
