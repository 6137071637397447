"""BLIP's report writer: a vision encoder and a BERT decoder that looks at the image in every layer.

Small enough to be trained from nothing, without a language model (Li et al., 2022; LAVIS' `blip_caption`).

Shapes: B images, N image tokens, V their width, L text tokens.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from xraygpt.common.registry import registry
from xraygpt.models.base_model import BaseModel, images_of
from xraygpt.models.bert_pretrained import count_cut, tokenize
from xraygpt.models.blip_base import BlipBase, BlipConfig
from xraygpt.models.med import BertLMHeadModel
from xraygpt.models.pair_training import PAIR_PARTS


@dataclass
class BlipCaptionConfig(BlipConfig):
    """Settings of `BlipCaption`."""

    prompt: str = ""
    """Words that every report begins with; they count in max_txt_len, and not in the loss."""


@registry.register_model("blip_caption")
class BlipCaption(BlipBase):
    """Image -> report; keys are ``visual_encoder.*``, ``ln_vision.*`` and ``text_decoder.*``."""

    config_class: ClassVar[type] = BlipCaptionConfig
    PRETRAINED_MODEL_CONFIG_DICT: ClassVar[dict[str, str]] = {
        "base": "configs/models/blip_caption_base.yaml",
        "tiny": "configs/models/blip_caption_tiny.yaml",
    }

    IGNORED_KEYS = (
        *BaseModel.IGNORED_KEYS,
        # what `blip_pretrain` has beside the report writer
        *(rf"{part}(\.|$)" for part in ("text_encoder", *PAIR_PARTS)),
    )

    def __init__(self, cfg: BlipCaptionConfig) -> None:
        super().__init__(cfg, cfg.prompt)
        self.prompt = cfg.prompt
        self.text_decoder = BertLMHeadModel(self.med_config(cfg))

    def forward(self, samples: Mapping[str, Any]) -> dict[str, Tensor]:
        """Loss of writing the reports: "image" (B, 3, height, width), "caption" B texts."""
        tokens = tokenize(self.tokenizer, self._texts(samples["caption"]), self.max_txt_len).to(self.device)
        total, num_targets = self.writing_loss(self.embed_image(images_of(samples)), tokens)
        return {"loss": total / num_targets, "num_targets": num_targets}

    def cut_captions(self, captions: Sequence[str]) -> int:
        return count_cut(self.tokenizer, self._texts(captions), self.max_txt_len)

    def _texts(self, reports: Sequence[str]) -> list[str]:
        return [f"{self.prompt} {report}" for report in reports]
