"""The model card of an exported folder: how it is used, and what it was trained on."""

import json
from pathlib import Path

from xraygpt.common.checkpoint import load_checkpoint
from xraygpt.common.errors import CheckpointError
from xraygpt.common.paths import PACKAGE_PREFIX, cached_file
from xraygpt.convert.blip2 import Blip2
from xraygpt.convert.hf_tokenizer import IMAGE_TOKEN, processor_prompt
from xraygpt.convert.llava import Llava
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
tags: [{tag}, radiology]
---
# A radiograph report model

Written by `python -m xraygpt.convert to-hf`. **A research prototype: nothing it writes may be used for the
care of a patient.**

```python
from transformers import {model_class}, {processor_class}
from transformers.image_utils import load_image

folder = "."  # this folder
model = {model_class}.from_pretrained(folder).eval()
processor = {processor_class}.from_pretrained(folder, backend="pil")

prompt = {prompt}
image = load_image("radiograph.png")
inputs = processor(images=image, text=prompt, return_tensors="pt")
ids = model.generate(**inputs, max_new_tokens=120{stop_arguments})
print(processor.decode(ids[0, inputs.input_ids.shape[1]:], skip_special_tokens=True){cut}.strip())
```

The text holds `{token}` {slots} where the image goes. The model was made for
images of {side} x {side} pixels, stretched to a square. With `backend="pil"` the pixels are those of the
training; the other backend resizes a little differently (one grey level of 255).

## Trained on

{parts}
{training}
## Difference from the original

{note}
Loaded again from this folder, the logits of a random image with a prompt differ from those of the original by
{logits:.1e} of the largest (float32).
"""


def model_card(model: MiniGPT4, family: Blip2 | Llava, embeddings: float, logits: float) -> str:
    """The text of the model card; the two numbers as in `to_hf.Differences`."""
    stops, slots = model.stop_strings, 1 if family.expands else model.tokens_per_image
    # As an expression of Python; a long row of image tokens is multiplied.
    prompt = repr(processor_prompt(model.prompt_list[0] if model.prompt_list else "", 1))
    if slots > 1:
        prompt = prompt.replace(IMAGE_TOKEN, f"{prompt[0]} + {IMAGE_TOKEN!r} * {slots} + {prompt[0]}")
    parts = [
        f"- {name}: {_part_source(model, key)}"
        for key, name in PARTS.items()
        if key != "q_former_model" or model.bridge.pretrained
    ]
    return CARD.format(
        tag=family.model_class.config_class.model_type,
        model_class=family.model_class.__name__,
        processor_class=family.processor_class.__name__,
        prompt=prompt,
        stop_arguments=f", stop_strings={stops!r}, tokenizer=processor.tokenizer" if stops else "",
        cut=f".split({stops[0]!r})[0]" if stops else "",
        token=IMAGE_TOKEN,
        slots="once" if slots == 1 else f"{slots} times in a row, which the processor does not do by itself,",
        side=model.visual_encoder.preprocessing.image_size,
        parts="\n".join(parts),
        training=_training(model.config.ckpt),
        note=family.card_note.format(embeddings=embeddings),
        logits=logits,
    )


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
    lines = []
    for name, section in config["datasets"].items():
        storage = (section.get("build_info") or {}).get("storage")
        source = f"`{Path(str(storage)).name}`" if storage else "no folder recorded"
        if name == "phantom":
            source = "**synthetic radiographs** (phantoms), drawn by xraygpt"
        lines.append(f"- data set {name}: {source}")
    lines.append(
        f"- epochs: {payload.get('epoch', 0) + 1}, steps: {payload.get('global_step', 'not recorded')}"
    )
    if manifest.get("git"):
        lines.append(f"- code: commit {manifest['git']}")
    settings = json.dumps(config, indent=1, ensure_ascii=False, default=str)
    return "\n".join(["", *lines, "", "Its whole configuration:", "", "```json", settings, "```", ""])
