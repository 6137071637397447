"""The models that are compared: ours and transformers' BLIP-2 of the same weights, random and of four sizes.

Nothing is read or downloaded: weights are drawn on the device, and the tokenizer is made in memory.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import (
    Blip2ForConditionalGeneration,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from xraygpt.common.config import build_typed
from xraygpt.common.precision import DTYPES, Precision, frozen_dtype, vision_precision
from xraygpt.convert.blip2 import Blip2
from xraygpt.convert.hf_tokenizer import image_token_id, processor_tokenizer
from xraygpt.convert.to_hf import counterpart
from xraygpt.models.llm import compute_alike
from xraygpt.models.mini_gpt4 import MiniGPT4, MiniGPT4Config

END = "###"
SPECIAL = ("<unk>", "<s>", "</s>", END)
REFERENCE_BATCH = 3
"""Images of a training batch of the reference, see train_configs/xraygpt_mimic_pretrain.yaml."""
TOLERANCE = {torch.float32: 1e-4}
"""Relative difference of losses and scores that is rounding."""
ROUGH = 2e-2
"""The same for 16 bits."""


@dataclass(frozen=True)
class Size:
    """Sizes of a model, and of the batch that it is measured with."""

    vision: Mapping[str, Any]
    image_size: int
    qformer: Mapping[str, Any]
    num_query_token: int
    llama: Mapping[str, Any]
    batch: int
    """Images of a batch on the CPU."""
    cuda_batch: int
    """Images of a batch on a GPU."""
    target_tokens: int = 64
    """Tokens of each report."""


BERT_BASE = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
}
SIZES = {
    # The model of the quickstart.
    "tiny": Size(
        vision={"patch_size": 8, "embed_dim": 128, "depth": 4, "num_heads": 4, "mlp_ratio": 4.0},
        image_size=64,
        qformer={
            "hidden_size": 128,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "intermediate_size": 512,
        },
        num_query_token=16,
        llama={
            "hidden_size": 128,
            "intermediate_size": 352,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "vocab_size": 512,
        },
        batch=32,
        cuda_batch=256,
    ),
    # 176 million parameters.
    "small": Size(
        vision={"patch_size": 16, "embed_dim": 384, "depth": 12, "num_heads": 6, "mlp_ratio": 4.0},
        image_size=224,
        qformer=BERT_BASE,
        num_query_token=32,
        llama={
            "hidden_size": 512,
            "intermediate_size": 1376,
            "num_hidden_layers": 8,
            "num_attention_heads": 8,
            "vocab_size": 32000,
        },
        batch=4,
        cuda_batch=128,
    ),
    # ViT-L/14, BERT-base and ten layers as in TinyLlama.
    "1b": Size(
        vision={"patch_size": 14, "embed_dim": 1024, "depth": 24, "num_heads": 16, "mlp_ratio": 4.0},
        image_size=224,
        qformer=BERT_BASE,
        num_query_token=32,
        llama={
            "hidden_size": 2048,
            "intermediate_size": 5632,
            "num_hidden_layers": 10,
            "num_attention_heads": 32,
            "vocab_size": 32000,
        },
        batch=4,
        cuda_batch=64,
    ),
    # The released model: EVA-CLIP ViT-g without its last block, BERT-base, LLaMA-7B.
    "7b": Size(
        vision={"patch_size": 14, "embed_dim": 1408, "depth": 39, "num_heads": 16, "mlp_ratio": 4.3637},
        image_size=224,
        qformer=BERT_BASE,
        num_query_token=32,
        llama={
            "hidden_size": 4096,
            "intermediate_size": 11008,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "vocab_size": 32000,
        },
        batch=1,
        cuda_batch=32,
    ),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the size of the model and of its batch."""
    parser.add_argument("--size", choices=SIZES, default="small", help="of the model (default: small)")
    parser.add_argument("--batch", type=int, help="images of a batch (default: by size and device)")


@cache
def make_tokenizer(tokens: int) -> PreTrainedTokenizerFast:
    """Return a tokenizer of so many words, separated by blanks: `SPECIAL`, then w4, w5, …"""
    words = [*SPECIAL, *(f"w{number}" for number in range(len(SPECIAL), tokens))]
    backend = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )


def build_ours(
    size: Size,
    device: torch.device,
    precision: Precision,
    seed: int = 0,
    tokenizer: PreTrainedTokenizerBase | None = None,
    **settings: Any,
) -> MiniGPT4:
    """Return our model with random weights on the device, in the number formats of a training there.

    Args:
        tokenizer: by default that of `make_tokenizer`.
        settings: further keys of the section ``model``, e.g. ``adapter={"r": 16}``.
    """
    torch.manual_seed(seed)
    section = {
        "vision": dict(size.vision),
        "image_size": size.image_size,
        "vit_ckpt": None,
        "vit_precision": vision_precision("fp16", device),
        # Without dropout, as the two draw it in different places.
        "qformer": {**size.qformer, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
        "q_former_model": None,
        "num_query_token": size.num_query_token,
        "max_txt_len": 1024,
        "end_sym": END,
        **settings,
    }
    config = build_typed(MiniGPT4Config, section, where="model")
    trained = config.weights_are_trained()
    llm_dtype = torch.float32 if trained else frozen_dtype("auto", device)
    if precision.dtype is not torch.float32 and not trained:
        llm_dtype = precision.dtype
    # One row is left for the image token of the other model.
    tokenizer = tokenizer or make_tokenizer(size.llama["vocab_size"] - 1)
    ids = {"unk": 0, "bos": 1, "eos": 2, "pad": 2}
    llama = LlamaConfig(
        **size.llama, **{f"{name}_token_id": number for name, number in ids.items() if name != "unk"}
    )
    with torch.device(device):
        llm = LlamaForCausalLM._from_config(llama, dtype=llm_dtype)
        if config.llm_precision == "nf4":
            in_4_bits(llm)
        model = MiniGPT4.build(config, llm=llm, tokenizer=tokenizer)
        model.add_adapters(config)
    return model.eval()


def in_4_bits(llm: LlamaForCausalLM) -> None:
    """Hold the linear layers of a language model, all but the last, in 4 bits, as `load_llm` does."""
    import bitsandbytes

    for name, layer in list(llm.model.named_modules(prefix="model")):
        if isinstance(layer, torch.nn.Linear):
            weight = bitsandbytes.nn.Params4bit(
                layer.weight.detach().cpu(), requires_grad=False, quant_type="nf4", compress_statistics=True
            )
            packed = bitsandbytes.nn.Linear4bit(
                *(layer.in_features, layer.out_features, False),
                layer.weight.dtype,
                True,
                "nf4",
                device="meta",
            )
            packed.weight = weight.to(layer.weight.device)  # which quantises it
            llm.set_submodule(name, packed)
    compute_alike(llm)


def build_theirs(
    model: MiniGPT4, attention: Literal["sdpa", "eager"], dtype: torch.dtype | None = None
) -> Blip2ForConditionalGeneration:
    """Return transformers' model with the weights of ours, whose memory it shares but for the projection.

    Args:
        attention: how attention is computed.
        dtype: number format of the vision encoder and the language model, if it is another one.
    """
    theirs, _ = counterpart(model, Blip2(), their_tokenizer(model), {})
    # Tables that follow from the sizes are no weights, so that they are not there yet.
    theirs.language_model.model.rotary_emb = model.llama_model.model.rotary_emb
    empty = [name for name, buffer in theirs.named_buffers() if buffer.is_meta]
    assert not empty, f"without content: {', '.join(empty)}"
    theirs.set_attn_implementation(attention)
    theirs.requires_grad_(False)
    theirs.language_projection = copy.deepcopy(theirs.language_projection).requires_grad_(True)
    if dtype is not None:
        theirs.vision_model.to(dtype)
        theirs.language_model.to(dtype)
    assert isinstance(theirs, Blip2ForConditionalGeneration)
    return theirs


def their_tokenizer(model: MiniGPT4) -> PreTrainedTokenizerBase:
    """Return the tokenizer with the image token."""
    return processor_tokenizer(model.llama_tokenizer)


@dataclass(frozen=True)
class Data:
    """Random images with random reports of one length, for both models."""

    images: Tensor
    """(B, 3, H, W), on the device."""
    ids: Tensor
    """int64 (B, n): the reports, their end symbol included."""

    @classmethod
    def draw(cls, size: Size, batch: int, device: torch.device, target_tokens: int | None = None) -> Data:
        """Draw a batch."""
        generator = torch.Generator().manual_seed(1)
        shape = (batch, 3, size.image_size, size.image_size)
        length = target_tokens or size.target_tokens
        tokens = size.llama["vocab_size"] - 1
        ids = torch.randint(len(SPECIAL), tokens, (batch, length), generator=generator)
        ids[:, -1] = SPECIAL.index(END)
        return cls(torch.randn(shape, generator=generator).to(device), ids)

    def __len__(self) -> int:
        return len(self.ids)

    def part(self, first: int, number: int) -> Data:
        """Return some of the samples."""
        return Data(self.images[first : first + number], self.ids[first : first + number])

    def samples(self) -> dict[str, Any]:
        """Return the batch that our model takes."""
        captions = ["".join(f"w{number} " for number in row[:-1]) for row in self.ids.tolist()]
        names = [str(number) for number in range(len(self))]
        return {"image": self.images, "caption": captions, "image_id": names, "prompt": ""}

    def inputs(self, model: MiniGPT4, *, labels: bool) -> dict[str, Tensor]:
        """Return what transformers' model takes: BOS, the image, and the report if there are to be labels."""
        image = image_token_id(their_tokenizer(model))
        before = torch.full((len(self), 1 + model.tokens_per_image), image)
        before[:, 0] = SPECIAL.index("<s>")
        whole = torch.cat([before, self.ids], dim=1) if labels else before
        inputs = {"pixel_values": self.images, "input_ids": whole, "attention_mask": torch.ones_like(whole)}
        if labels:
            inputs["labels"] = torch.cat([torch.full_like(before, -100), self.ids], dim=1)
        return {name: value.to(self.images.device) for name, value in inputs.items()}


def reference_dtype(device: torch.device) -> torch.dtype | None:
    """Return the number format in which the reference holds its frozen weights; None for that at hand."""
    return DTYPES["fp16"] if device.type == "cuda" else None


def lowest(*precisions: Precision) -> torch.dtype:
    """Return the number format of fewest bits."""
    return min((precision.dtype for precision in precisions), key=lambda dtype: dtype.itemsize)
