"""Which language model a projection was trained for: a projection is of use with that one only."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from xraygpt.common.errors import CheckpointError
from xraygpt.models.llm import embedding_table

PROBES = 8
TOLERANCE = 0.01
"""Relative; more than rounding to float16 or bfloat16 changes, far less than another training does."""


def llm_facts(llm: PreTrainedModel, folder: str) -> dict[str, Any]:
    """What a manifest says of the language model: name of its folder, sizes, some weights."""
    table = embedding_table(llm).weight.detach().flatten()
    step = max(len(table) // PROBES, 1)
    return {
        "llama_model": Path(folder).name,
        "llm_hidden_size": int(llm.config.hidden_size),
        "vocab_size": int(llm.config.vocab_size),
        "llm_weights": table[step // 2 :: step][:PROBES].float().tolist(),
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
    if "llm_weights" in manifest:
        pairs = zip(manifest["llm_weights"], own["llm_weights"], strict=False)
        return all(abs(a - b) <= TOLERANCE * max(abs(a), abs(b)) + 1e-6 for a, b in pairs)
    return bool(manifest.get("llama_model", own["llama_model"]) == own["llama_model"])


def _named(facts: Mapping[str, Any], width: int | None) -> str:
    name = facts.get("llama_model", "one that the file does not name")
    sizes = [f"width {facts.get('llm_hidden_size', width)}"]
    if "vocab_size" in facts:
        sizes.append(f"{facts['vocab_size']} tokens")
    return f"{name} ({', '.join(sizes)})"
