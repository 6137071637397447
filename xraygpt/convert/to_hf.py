"""A trained `MiniGPT4` as a folder that Hugging Face's `Blip2ForConditionalGeneration` loads.

The two are one network, with one difference that a folder cannot express: the norm behind the vision encoder
(ln_vision) has eps 1e-5 here, as in the reference, while `Blip2VisionConfig` has one eps for all norms of the
encoder, and the others have 1e-6 in both. The sum of variance and eps differs by 9e-6 then, which changes the
output by 4.5e-6 divided by the variance (10 to 100 in the tiny model): a few units in the last place of
float32. Every export measures what is left of it in the embeddings that the language model gets.

The folder's README.md, the model card, says how it is used, and what it was trained on.
"""

import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    Blip2ForConditionalGeneration,
    Blip2Processor,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from xraygpt.common.checkpoint import load_checkpoint
from xraygpt.common.config import CommandLine, Config
from xraygpt.common.errors import CheckpointError, ConfigError
from xraygpt.common.paths import PACKAGE_PREFIX, cached_file
from xraygpt.common.run_record import write_json, writing
from xraygpt.conversation.messages import IMAGE_PLACEHOLDER, TEMPLATE_SLOT
from xraygpt.convert.hf_config import blip2_config
from xraygpt.convert.hf_tokenizer import IMAGE_TOKEN, check_same_ids, image_token_id, processor_tokenizer
from xraygpt.models.key_translation import to_hf_blip2
from xraygpt.models.llm import embedding_table
from xraygpt.models.mini_gpt4 import MiniGPT4
from xraygpt.processors import BlipImageBaseProcessor, load_processor

logger = logging.getLogger(__name__)

ORIGIN_FILE = "xraygpt.json"
"""What the way back needs and the folder cannot say otherwise: see `_origin`."""
TOKENIZER_FOLDER = "llm_tokenizer"
"""The language model's own tokenizer, unchanged."""
CLOSE = 1e-5


PARTS = {
    "vit_ckpt": "vision encoder",
    "q_former_model": "Q-Former",
    "llama_model": "language model",
    "ckpt": "trained parts",
}
TINY_PARTS = f"{PACKAGE_PREFIX}weights/tiny"
TINY = "comes with xraygpt; trained on **synthetic radiographs and reports only**"

CARD = """---
library_name: transformers
pipeline_tag: image-text-to-text
tags: [blip-2, radiology]
---
# A radiograph report model

Written by `python -m xraygpt.convert to-hf`. **A research prototype: nothing it writes may be used for the
care of a patient.**

```python
from transformers import Blip2ForConditionalGeneration, Blip2Processor
from transformers.image_utils import load_image

folder = "."  # this folder
model = Blip2ForConditionalGeneration.from_pretrained(folder).eval()
processor = Blip2Processor.from_pretrained(folder, backend="pil")

prompt = {prompt}
image = load_image("radiograph.png")
inputs = processor(images=image, text=prompt, return_tensors="pt")
ids = model.generate(**inputs, max_new_tokens=120{stop_arguments})
print(processor.decode(ids[0, inputs.input_ids.shape[1]:], skip_special_tokens=True){cut}.strip())
```

The text holds `{token}` {slots} times in a row, where the image goes; the processor does not add them by
itself. The model was made for images of {side} x {side} pixels, stretched to a square. With `backend="pil"`
the pixels are those of the training; the other backend resizes a little differently (one grey level of 255).

## Trained on

{parts}
{training}
## Difference from the original

What the language model gets of a random image differs from the original implementation by {difference:.1e}
at most. The norm behind the vision encoder was trained with eps 1e-5, which this format cannot say;
`model.vision_model.post_layernorm.eps = 1e-5` after loading restores it.
"""


def export_configuration(args: CommandLine, folder: Path, max_shard_size: str = "5GB") -> float:
    """Build the model of a configuration and `export_blip2` it.

    Raises:
        XrayGPTError: anything that the user can fix.
    """
    require_new(folder)
    cfg = Config(args)
    arch = cfg.arch
    if arch != "mini_gpt4":
        raise ConfigError(f"{args.cfg_path}: model.arch is {arch}; only mini_gpt4 has a counterpart there")
    node = cfg.preprocess_cfg.get("vis_processor", {}).get("eval")
    if node is None:
        raise ConfigError(f"{args.cfg_path}: no image processor; set preprocess.vis_processor.eval")
    model = MiniGPT4.from_config(cfg.model_cfg).eval()
    return export_blip2(
        model, load_processor(node["name"], node, cfg.model_cfg.preprocessing()), folder, max_shard_size
    )


def export_blip2(model: MiniGPT4, vis_processor: Any, folder: Path, max_shard_size: str = "5GB") -> float:
    """Write model, processor, model card and what the way back needs into a new folder.

    Weights keep their number formats. Returns by how much the embeddings of a random image differ at most
    between the two implementations (float32).

    Raises:
        ConfigError: the folder is not empty, or the model has something that BLIP-2 there has not.
    """
    require_new(folder)
    processor = blip2_processor(model, vis_processor)
    theirs = blip2_model(model, processor.tokenizer)
    difference = embedding_difference(model, theirs)
    if difference > CLOSE:
        logger.warning(
            "the embeddings of an image differ by %.1e: the norm behind the vision encoder has eps 1e-5 here "
            "and 1e-6 there, and its input has little variance; after loading, set "
            "model.vision_model.post_layernorm.eps = 1e-5",
            difference,
        )
    with new_folder(folder):
        theirs.save_pretrained(str(folder), max_shard_size=max_shard_size)
        processor.save_pretrained(str(folder))
        model.llama_tokenizer.save_pretrained(str(folder / TOKENIZER_FOLDER))
        write_json(folder / ORIGIN_FILE, _origin(model))
        (folder / "README.md").write_text(model_card(model, difference), encoding="utf-8")
    return difference


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


def blip2_processor(model: MiniGPT4, vis_processor: Any) -> Blip2Processor:
    """Image processor and tokenizer as one.

    Its `num_query_tokens` stays unset: with it, `Blip2Processor` would put the image before BOS and all
    text, whereas here the prompt says where it goes.
    """
    if not isinstance(vis_processor, BlipImageBaseProcessor):
        raise ConfigError(f"{type(vis_processor).__name__} has no counterpart there; use blip2_image_eval")
    tokenizer = processor_tokenizer(model.llama_tokenizer)
    check_same_ids(model.llama_tokenizer, tokenizer, model.prompt_list, model.config.num_query_token)
    side = model.config.vision_config().img_size
    images = BlipImageProcessorPil(
        size={"height": side, "width": side},
        image_mean=list(vis_processor.normalize.mean),
        image_std=list(vis_processor.normalize.std),
    )
    return Blip2Processor(images, tokenizer)


def blip2_model(model: MiniGPT4, tokenizer: PreTrainedTokenizerBase) -> Blip2ForConditionalGeneration:
    """The same network there; it shares the memory of `model` where no tensor has to change."""
    image = image_token_id(tokenizer)
    rows = max(embedding_table(model.llama_model).num_embeddings, image + 1)
    config = blip2_config(model, image, rows, tokenizer)
    names = [f"llama_model.{name}" for name in vocabulary_tensors(model.llama_model)]
    state: dict[str, Tensor] = to_hf_blip2(with_rows(model.state_dict(), names, rows))
    with torch.device("meta"):
        theirs = Blip2ForConditionalGeneration(config)
    theirs.load_state_dict(state, assign=True)
    theirs.tie_weights()
    return theirs.eval()


def vocabulary_tensors(llm: PreTrainedModel) -> list[str]:
    """Names of the tensors with a row for each token: embeddings and output layer."""
    head = llm.get_output_embeddings()
    tables = [embedding_table(llm).weight, *(() if head is None else head.parameters())]
    named = llm.named_parameters(remove_duplicate=False)
    return [name for name, parameter in named if any(parameter is table for table in tables)]


def with_rows(state: dict[str, Tensor], names: list[str], rows: int) -> dict[str, Tensor]:
    """`state` with the tensors `names` filled up to `rows` rows.

    A new row is the mean of the others. In the output layer this makes the token's score the mean of all
    scores, so that it is never the best one: greedy decoding stays what it was.
    """
    changed = dict(state)
    for name in names:
        table = state[name]
        if len(table) < rows:
            new = table.float().mean(0, keepdim=True).to(table.dtype)
            changed[name] = torch.cat([table, *[new] * (rows - len(table))])
    return changed


def _origin(model: MiniGPT4) -> dict[str, Any]:
    """Rows of the language model's tables, the manifest, and what the section ``model`` says of texts."""
    before, _, after = model.prompt_template.partition(TEMPLATE_SLOT)
    first = model.prompt_list[0] if model.prompt_list else ""
    texts = {
        "prompt_template": model.prompt_template,
        "prompt": first.removeprefix(before).removesuffix(after),
        "end_sym": model.end_sym,
        "max_txt_len": model.max_txt_len,
    }
    rows = embedding_table(model.llama_model).num_embeddings
    return {"llm_rows": rows, "manifest": model.manifest(), "model": texts}


@torch.no_grad()
def embedding_difference(model: MiniGPT4, theirs: Blip2ForConditionalGeneration) -> float:
    """Largest difference between the embeddings of a random image in the two implementations."""
    side = model.config.vision_config().img_size
    image = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0)).to(model.device)
    own = model.encode_img(image)[0].float()
    other = theirs.get_image_features(pixel_values=image).pooler_output.float()
    return float((own - other).abs().max())


def model_card(model: MiniGPT4, difference: float) -> str:
    """The text of the model card.

    Args:
        difference: as `export_blip2` measures it.
    """
    slots = model.config.num_query_token
    stops = model.stop_strings
    return CARD.format(
        prompt=_prompt(model, slots),
        stop_arguments=f", stop_strings={stops!r}, tokenizer=processor.tokenizer" if stops else "",
        cut=f".split({stops[0]!r})[0]" if stops else "",
        token=IMAGE_TOKEN,
        slots=slots,
        side=model.config.vision_config().img_size,
        parts="\n".join(f"- {name}: {_part_source(model, key)}" for key, name in PARTS.items()),
        training=_training(model.config.ckpt),
        difference=difference,
    )


def _prompt(model: MiniGPT4, slots: int) -> str:
    """The model's first prompt as an expression of Python."""
    prompt = model.prompt_list[0] if model.prompt_list else IMAGE_PLACEHOLDER
    before, after = prompt.split(IMAGE_PLACEHOLDER)
    return f"{before!r} + {IMAGE_TOKEN!r} * {slots} + {after!r}"


def _part_source(model: MiniGPT4, key: str) -> str:
    value = getattr(model.config, key)
    if value is None:
        return "**random weights**" if key != "ckpt" else "none: **the projection is random**"
    return f"`{value}`, {TINY}" if value.startswith(TINY_PARTS) else f"`{value}`"


def _training(ckpt: str | None) -> str:
    """What the checkpoint with the trained parts says about its training."""
    if ckpt is None or ckpt.startswith(TINY_PARTS):
        return ""
    try:
        payload = load_checkpoint(cached_file(ckpt))
    except CheckpointError:  # a file of tensors alone, such as .safetensors
        payload = {}
    config, manifest = payload.get("config") or {}, payload.get("manifest") or {}
    if not config:
        return "\nThe file with the trained parts does not say what they were trained on.\n"
    lines = [f"- data set {name}: {_data_set(name, section)}" for name, section in config["datasets"].items()]
    lines.append(
        f"- epochs: {payload.get('epoch', 0) + 1}, steps: {payload.get('global_step', 'not recorded')}"
    )
    if manifest.get("git"):
        lines.append(f"- code: commit {manifest['git']}")
    settings = json.dumps(config, indent=1, ensure_ascii=False, default=str)
    return "\n".join(["", *lines, "", "Its whole configuration:", "", "```json", settings, "```", ""])


def _data_set(name: str, section: Mapping[str, Any]) -> str:
    if name == "phantom":
        return "**synthetic radiographs** (phantoms), drawn by xraygpt"
    storage = (section.get("build_info") or {}).get("storage")
    return f"`{Path(str(storage)).name}`" if storage else "no folder recorded"
