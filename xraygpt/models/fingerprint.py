"""Which weights a model has: whether two runs used the same ones, and whether a projection was trained for
the language model at hand; it is of use with that one only.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from xraygpt.common.errors import CheckpointError
from xraygpt.models.llm import embedding_table

VALUES = 1024
"""Values taken of each tensor; a training step changes nearly all of them."""


def weights_fingerprint(model: nn.Module) -> str:
    """SHA-256 of names, shapes, number formats and evenly spread values of all tensors of a model.

    Reading all of a language model would take as long as many reports.
    """
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        flat = tensor.detach().flatten()
        picked = flat[:: max(len(flat) // VALUES, 1)][:VALUES]
        digest.update(picked.contiguous().cpu().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


EMBEDDING_PROBES = 8
MATRICES, MATRIX_PROBES = 8, 4
"""In LLaMA the last eight matrices are those of the last layer and the output layer."""
TOLERANCE = 0.005
"""Relative; rounding changes a weight by 0.4 % at most (bfloat16), or by 0.05 % (float16)."""
WEIGHTS = ("llm_weights", "llm_layer_weights")
"""Keys of a manifest; files of earlier versions have the first one only, or none."""


def llm_facts(llm: PreTrainedModel, folder: str) -> dict[str, Any]:
    """What a manifest says of the language model: name of its folder, sizes, some weights.

    A fine-tuned model often has the embeddings of its base; weights are therefore taken from several matrices
    of its last layers too, as LoRA changes some of them only.
    """
    table = embedding_table(llm).weight
    matrices = [weight for weight in llm.parameters() if weight.dim() == 2 and weight is not table]
    return {
        "llama_model": Path(folder).name,
        "llm_hidden_size": int(llm.config.hidden_size),
        "vocab_size": int(llm.config.vocab_size),
        "llm_weights": _probes(table, EMBEDDING_PROBES),
        "llm_layer_weights": [
            value for weight in matrices[-MATRICES:] for value in _probes(weight, MATRIX_PROBES)
        ],
    }


def check_same_llm(
    state: Mapping[str, Tensor], manifest: Mapping[str, Any], own: Mapping[str, Any], where: str
) -> None:
    """Refuse a projection that was trained for another language model.

    A folder may be renamed: the weights decide where the manifest holds some, else the name.

    Args:
        state: of the checkpoint.
        manifest: of the checkpoint; may be empty, as in files of the reference.
        own: `llm_facts` of the model that the checkpoint is loaded into.

    Raises:
        CheckpointError: naming both language models.
    """
    width = len(state["llama_proj.bias"]) if "llama_proj.bias" in state else None
    fits = width in (None, own["llm_hidden_size"])
    if fits and _same(manifest, own):
        return
    raise CheckpointError(
        f"{where} was trained for another language model.\n"
        f"  trained for:       {_named(manifest, width)}\n"
        f"  model.llama_model: {_named(own, own['llm_hidden_size'])}\n"
        "  Set model.llama_model to the one it was trained for, or name another checkpoint in model.ckpt."
    )


def _same(manifest: Mapping[str, Any], own: Mapping[str, Any]) -> bool:
    if any(manifest.get(key, own[key]) != own[key] for key in ("llm_hidden_size", "vocab_size")):
        return False
    if any(key in manifest for key in WEIGHTS):
        return all(_close(manifest[key], own[key]) for key in WEIGHTS if key in manifest)
    return bool(manifest.get("llama_model", own["llama_model"]) == own["llama_model"])


def _probes(weight: Tensor, number: int) -> list[float]:
    """`number` values, evenly spread over a weight."""
    flat = weight.detach().flatten()
    step = max(len(flat) // number, 1)
    return flat[step // 2 :: step][:number].float().tolist()


def _close(values: Sequence[float], others: Sequence[float]) -> bool:
    return len(values) == len(others) and all(
        abs(a - b) <= TOLERANCE * max(abs(a), abs(b)) + 1e-6 for a, b in zip(values, others, strict=True)
    )


def _named(facts: Mapping[str, Any], width: int | None) -> str:
    name = facts.get("llama_model", "one that the file does not name")
    sizes = [f"width {facts.get('llm_hidden_size', width)}"]
    if "vocab_size" in facts:
        sizes.append(f"{facts['vocab_size']} tokens")
    return f"{name} ({', '.join(sizes)})"
