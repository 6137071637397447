"""The README.md of an exported folder: how it is used, and what it was trained on."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xraygpt.common.checkpoint import load_checkpoint
from xraygpt.common.errors import CheckpointError
from xraygpt.common.paths import PACKAGE_PREFIX, cached_file
from xraygpt.conversation.messages import IMAGE_PLACEHOLDER
from xraygpt.convert.hf_tokenizer import IMAGE_TOKEN
from xraygpt.models.mini_gpt4 import MiniGPT4

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


def model_card(model: MiniGPT4, difference: float) -> str:
    """The text of the model card.

    Args:
        difference: as `to_hf.export_blip2` measures it.
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
        parts="\n".join(f"- {name}: {_origin(model, key)}" for key, name in PARTS.items()),
        training=_training(model.config.ckpt),
        difference=difference,
    )


def _prompt(model: MiniGPT4, slots: int) -> str:
    """The model's first prompt as an expression of Python."""
    prompt = model.prompt_list[0] if model.prompt_list else IMAGE_PLACEHOLDER
    before, after = prompt.split(IMAGE_PLACEHOLDER)
    return f"{before!r} + {IMAGE_TOKEN!r} * {slots} + {after!r}"


def _origin(model: MiniGPT4, key: str) -> str:
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
