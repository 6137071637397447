"""The texts that a small model's tokenizers are trained on."""

from __future__ import annotations

from itertools import islice
from typing import Any

from xraygpt.common.errors import DataError
from xraygpt.common.registry import registry
from xraygpt.conversation.messages import IMAGE_PLACEHOLDER
from xraygpt.models.prompts import read_prompts


def training_texts(cfg: Any, reports: int) -> list[str]:
    """Reports of the training splits, what stands in for their images, and the prompts around them.

    Args:
        cfg: `Config` of a text-only training.
        reports: most reports taken from each data set.

    Raises:
        DataError: a data set has no split "train".
    """
    template = cfg.model_cfg.prompt_template
    pieces = [
        piece
        for prompt in read_prompts(cfg.model_cfg.prompt_path, template)
        for piece in prompt.split(IMAGE_PLACEHOLDER)
    ]
    texts: list[str] = []
    for name, dataset_cfg in cfg.datasets_cfg.items():
        splits = registry.get_builder_class(name)(dataset_cfg).build_datasets()
        if "train" not in splits:
            raise DataError(
                f"datasets.{name}: no split train to learn from, only {', '.join(splits) or 'none at all'}"
            )
        dataset = splits["train"]
        for number, sample in enumerate(islice((dataset[i] for i in range(len(dataset))), reports)):
            texts += [sample["caption"], sample.get("image_text", ""), pieces[number % len(pieces)]]
    return [text for text in texts if text]
