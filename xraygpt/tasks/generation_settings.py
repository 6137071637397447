"""What generated reports are a function of, as plain values."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from xraygpt.common.files import file_sha256
from xraygpt.common.paths import resolve_path
from xraygpt.common.precision import DTYPES
from xraygpt.datasets.stream import EvalStream, SizedDataset
from xraygpt.evaluation.protocol import OTHER_REFERENCES, GenerationFacts, facts_from_settings
from xraygpt.models.base_model import BaseModel
from xraygpt.models.fingerprint import weights_fingerprint
from xraygpt.tasks.base_task import EvalContext

PREPARATION_FILE = "preparation.json"
"""What prepare.py leaves in a folder that it has written."""


def generation_settings(
    cfg: Any, model: BaseModel, stream: EvalStream, context: EvalContext
) -> dict[str, Any]:
    """Return all that decides about the reports of a data set, but for the content of its images.

    The size of the batches is part of it: the rounding of a sum, and so the last digit of a probability,
    depends on what is computed together. The number of processes is not, since batches are the same with any.
    """
    config = cfg.to_dict()
    settings = {
        "split": context.split,
        "data": data_fingerprint(stream.dataset),
        "images": len(stream.dataset),
        "reference_sections": reference_sections(config["datasets"]),
        "prompt": stream.prompt,
        "generation": asdict(cfg.run_cfg.generate),
        "batch_size": stream.batch_size,
        "seed": context.seed,
        "precision": next(name for name, dtype in DTYPES.items() if dtype is context.precision.dtype),
        "device": _device_name(context.device),
        "weights": weights_fingerprint(model),
        "checkpoint": checkpoint_of(cfg),
        "torch": str(torch.__version__),
        "transformers": importlib.metadata.version("transformers"),
        "config": {"model": config["model"], "datasets": config["datasets"]},
    }
    plain: dict[str, Any] = json.loads(json.dumps(settings, default=str))
    return plain


def generation_facts(settings: Sequence[Mapping[str, Any]], command: str) -> GenerationFacts:
    """Return how the reports of a split were made, for the protocol.

    Args:
        settings: of each data set of the split, see `generation_settings`; all but the data is the same.
        command: of this run.
    """
    file = Path(resolve_path(settings[0]["checkpoint"]))
    sha256 = file_sha256(file) if file.is_file() else None
    return facts_from_settings(settings, command=command, checkpoint_sha256=sha256)


def reference_sections(datasets: Mapping[str, Mapping[str, Any]]) -> Sequence[str] | str:
    """Return what the reports of data sets are made of, see `GenerationFacts.reference_sections`.

    Args:
        datasets: the section of that name of a configuration.
    """
    if set(datasets) == {"phantom"}:
        return ("findings", "impression")
    prepared = [_is_cleaned((each.get("build_info") or {}).get("storage")) for each in datasets.values()]
    return "made of findings and impression after cleaning" if all(prepared) else OTHER_REFERENCES


def checkpoint_of(cfg: Any) -> str:
    """Return the file that the weights come from, or what there is to say in words."""
    if not cfg.run_cfg.evaluate:
        return "trained in the same run"
    file = cfg.run_cfg.resume_ckpt_path or getattr(cfg.model_cfg, "ckpt", None)
    if file == "auto":
        return "the latest in the output folder"
    return str(file) if file else "none: the weights of the model type"


def _is_cleaned(storage: Any) -> bool:
    """Tell whether a folder holds reports as prepare.py cleans them, not rewritten by a language model."""
    file = Path(resolve_path(storage)) / PREPARATION_FILE if isinstance(storage, str) and storage else None
    if file is None or not file.is_file():
        return False
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))["settings"]
        return bool(settings["cleaning"]) and not settings["rewriting"]
    except (ValueError, KeyError, TypeError):  # not prepare.py's file of that name
        return False


def data_fingerprint(dataset: SizedDataset) -> str:
    """Return the SHA-256 of a split's image ids, studies and reports, in their order.

    A data set without annotations, such as phantoms, is known by its length and the `identity` that it gives.
    """
    digest = hashlib.sha256(f"{len(dataset)}{getattr(dataset, 'identity', '')}".encode())
    for row in getattr(dataset, "annotation", ()):
        digest.update(json.dumps([row.image_id, row.study_id, row.caption]).encode())
    return digest.hexdigest()


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
