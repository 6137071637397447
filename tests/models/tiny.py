"""Sizes and texts of the random models in these tests."""

from typing import Any

from xraygpt.models.eva_vit import VisionConfig
from xraygpt.models.mini_gpt4 import MiniGPT4Config
from xraygpt.models.Qformer import QformerConfig

SENTENCES = [
    "The heart is normal in size. The lungs are clear.",
    "There is a small left pleural effusion. No pneumothorax.",
    "Findings: right lower zone consolidation. Impression: pneumonia.",
    "###Patient: <Img><ImageHere></Img> Describe this chest x-ray in detail. ###Doctor: ",
    "Cardiomegaly with mild pulmonary oedema, unchanged.",
]
TEMPLATE = "###Patient: {} ###Doctor: "
PROMPT = TEMPLATE.format("<Img><ImageHere></Img> Describe this chest x-ray.")


def tiny_config(**changes: Any) -> MiniGPT4Config:
    settings: dict[str, Any] = {
        "vision": VisionConfig(patch_size=8, embed_dim=24, depth=2, num_heads=2, mlp_ratio=2.0),
        "qformer": QformerConfig(
            hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
        ),
        "vit_ckpt": None,
        "q_former_model": None,
        "vit_precision": "fp32",
        "image_size": 16,
        "num_query_token": 3,
        "max_txt_len": 40,
        "end_sym": "###",
        "prompt_template": TEMPLATE,
        "prompt": "<Img><ImageHere></Img> Describe this chest x-ray.",
    }
    return MiniGPT4Config(**settings | changes)
