"""How reports were made, from the settings that a generation leaves in ``generation_<split>.json``."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from xraygpt.common.config import MODEL_SELECTORS
from xraygpt.common.errors import DataError
from xraygpt.common.run_record import read_json
from xraygpt.evaluation.protocol import GenerationFacts

PREDICTIONS_PREFIX, SETTINGS_PREFIX = "predictions_", "generation_"
OTHER_REFERENCES = "as the data set gives them"


def facts_from_settings(
    settings: Sequence[Mapping[str, Any]], *, command: str | None = None, checkpoint_sha256: str | None = None
) -> GenerationFacts:
    """Return how the reports of a split were made.

    Args:
        settings: of each data set of the split; all but the data is the same.
        command: that generated the reports.
    """
    first = settings[0]
    model = first["config"]["model"]
    names = ("batch_size", "precision", "device", "seed")
    return GenerationFacts(
        split=first["split"],
        split_sha256=hashlib.sha256("".join(each["data"] for each in settings).encode()).hexdigest(),
        reference_sections=first.get("reference_sections"),
        model=" ".join(str(model[key]) for key in MODEL_SELECTORS if model.get(key)),
        checkpoint=first.get("checkpoint"),
        checkpoint_sha256=checkpoint_sha256,
        weights_fingerprint=first["weights"],
        prompt=first["prompt"],
        decoding={**first["generation"], **{name: first[name] for name in names}},
        generation_command=command,
        generation_versions={name: first[name] for name in ("torch", "transformers")},
    )


def read_generation_facts(predictions: Path) -> GenerationFacts | None:
    """Return how predictions of this project were made; None if no generation's file lies beside them.

    Args:
        predictions: the file ``predictions_<split>.jsonl`` of a run.

    Raises:
        DataError: the generation's file is damaged.
    """
    split = predictions.name.removeprefix(PREDICTIONS_PREFIX).removesuffix(".jsonl")
    path = predictions.with_name(f"{SETTINGS_PREFIX}{split}.json")
    if predictions.name != f"{PREDICTIONS_PREFIX}{split}.jsonl" or not path.is_file():
        return None
    content = read_json(path)
    try:
        settings = [part["settings"] for part in content["datasets"]]
        return facts_from_settings(settings, command=content.get("command"))
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path}: does not say how {predictions.name} was made; move it away to score without it"
        ) from error
