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

from xraygpt.common.config import MODEL_SELECTORS
from xraygpt.common.paths import resolve_path
from xraygpt.common.precision import DTYPES
from xraygpt.datasets.stream import EvalStream, SizedDataset
from xraygpt.evaluation.protocol import GenerationFacts, file_sha256
from xraygpt.models.base_model import BaseModel
from xraygpt.models.fingerprint import weights_fingerprint
from xraygpt.tasks.context import EvalContext


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
        "prompt": stream.prompt,
        "generation": asdict(cfg.run_cfg.generate),
        "batch_size": stream.batch_size,
        "seed": context.seed,
        "precision": next(name for name, dtype in DTYPES.items() if dtype is context.precision.dtype),
        "device": _device_name(context.device),
        "weights": weights_fingerprint(model),
        "torch": str(torch.__version__),
        "transformers": importlib.metadata.version("transformers"),
        "config": {"model": config["model"], "datasets": config["datasets"]},
    }
    plain: dict[str, Any] = json.loads(json.dumps(settings, default=str))
    return plain


def generation_facts(cfg: Any, settings: Sequence[Mapping[str, Any]]) -> GenerationFacts:
    """Return how the reports of a split were made, for the protocol.

    Args:
        settings: of each data set of the split, see `generation_settings`; all but the data is the same.
    """
    first = settings[0]
    model = first["config"]["model"]
    ckpt = getattr(cfg.model_cfg, "ckpt", None)
    file = Path(resolve_path(ckpt)) if ckpt else None
    names = ("batch_size", "precision", "device", "seed")
    return GenerationFacts(
        split=first["split"],
        split_sha256=hashlib.sha256("".join(each["data"] for each in settings).encode()).hexdigest(),
        reference_sections=("findings", "impression") if set(cfg.datasets_cfg) == {"phantom"} else None,
        model=" ".join(str(model[key]) for key in MODEL_SELECTORS if model.get(key)),
        checkpoint=None if file is None else str(ckpt),
        checkpoint_sha256=file_sha256(file) if file is not None and file.is_file() else None,
        prompt=first["prompt"],
        decoding={**first["generation"], **{name: first[name] for name in names}},
    )


def data_fingerprint(dataset: SizedDataset) -> str:
    """Return the SHA-256 of a split's image ids, studies and reports, in their order.

    A data set without annotations, such as phantoms, is known by its configuration and its length.
    """
    digest = hashlib.sha256(str(len(dataset)).encode())
    for row in getattr(dataset, "annotation", ()):
        digest.update(json.dumps([row.image_id, row.study_id, row.caption]).encode())
    return digest.hexdigest()


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
