"""Under which conditions scores were reached: a card that goes with every result.

What is not known of the predictions of another system is said to be unknown, never guessed. The card has no
date: the same predictions scored by the same code give the same card.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import xraygpt
from xraygpt.common.config import MODEL_SELECTORS
from xraygpt.common.errors import DataError
from xraygpt.common.files import file_sha256
from xraygpt.common.run_record import git_hash, read_json
from xraygpt.evaluation.metrics.catalogue import OURS
from xraygpt.evaluation.predictions import Prediction, counted
from xraygpt.evaluation.scoring import Scores, names_by_value

UNKNOWN = "unknown"
PACKAGES = ("numpy", "pycocoevalcap", "radeval", "sacrebleu")
"""Packages that compute scores or a part of them; those installed are named."""
CHECKED_AGAINST = "rouge_score, nltk, scikit-learn and pycocoevalcap"
"""Packages whose numbers the metrics are held against in this project's tests; they compute nothing here."""
SHOWN_OF_HASH = 12
TEXT_NOTE = "texts are scored as they stand in the file; casing and tokenisation are each metric's own"


@dataclass(frozen=True, kw_only=True)
class GenerationFacts:
    """How the reports were made; None is not known."""

    split: str | None = None
    """Of the data set: ``test``."""
    split_sha256: str | None = None
    """Hash of what defines the split: its images, studies and reports, or the seed they are drawn from."""
    reference_sections: Sequence[str] | str | None = None
    """Sections of the original reports that make up the references: ``findings``, ``impression``; or what
    there is to say of the references in words."""
    model: str | None = None
    checkpoint: str | None = None
    checkpoint_sha256: str | None = None
    weights_fingerprint: str | None = None
    """Of the weights that generated (`xraygpt.tasks.predictions`), whatever they were read from."""
    prompt: str | None = None
    decoding: Mapping[str, Any] | None = None
    """Settings of the generation: search, beams, temperature, longest length, precision, ..."""
    generation_command: str | None = None
    generation_versions: Mapping[str, str] | None = None
    """Of PyTorch and transformers."""


def make_protocol(
    predictions: Sequence[Prediction],
    scores: Scores,
    *,
    file: Path,
    command: str,
    protocol: str = OURS,
    generation: GenerationFacts | None = None,
) -> dict[str, Any]:
    """Return the card of a result, plain values for JSON; what is not known is ``"unknown"``.

    Args:
        file: that the predictions were read from or written to.
        command: as it was typed.
        protocol: by which the metrics of wording were chosen (`PROTOCOLS`).
        generation: how the reports were made; None to know only the prompt, if the predictions name one.
    """
    prompts = {row.columns.get("prompt") for row in predictions}
    generation = generation or GenerationFacts(prompt=prompts.pop() if len(prompts) == 1 else None)
    facts = {key: UNKNOWN if value is None else value for key, value in asdict(generation).items()}
    card = {
        "predictions": file.name,
        "predictions_sha256": file_sha256(file),
        **task_hashes(predictions),
        "images": scores.reports,
        "studies": scores.studies,
        "empty_reports": scores.empty,
        "protocol": protocol,
        "metrics": {name: metric.equals for name, metric in scores.metrics.items()},
        # Those that the paragraph describes: of findings and wording, and by models.
        "described": [n for n, m in scores.metrics.items() if m.heading in ("Findings", "Wording")],
        "not_computed": dict(scores.not_computed),
        "seed": scores.seed,
        "rounds": scores.rounds,
        "unit": scores.unit,
        "units": scores.units,
        "versions": software_versions(),
        "command": command,
        "text": "; ".join(filter(None, [TEXT_NOTE, scores.language.note])),
        "generation": facts,
    }
    plain: dict[str, Any] = json.loads(json.dumps(card, default=str))
    return plain


def paragraph(card: Mapping[str, Any]) -> str:
    """Return a card (`make_protocol`) as a paragraph for a paper."""
    facts = {key: None if value == UNKNOWN else value for key, value in card["generation"].items()}
    split = f"the {facts['split']} split" if facts["split"] else "a split whose name is unknown"
    if facts["split_sha256"]:
        split += f" (SHA-256 {_short(facts['split_sha256'])})"
    references = facts["reference_sections"] or "whose sections are unknown"
    if not isinstance(references, str):
        references = f"made of the sections {_listed(references)}"
    model = f"were generated by {facts['model']}" if facts["model"] else "come from an unknown model"
    weights = [_short(facts["checkpoint_sha256"]) if facts["checkpoint_sha256"] else facts["checkpoint"]]
    if facts["weights_fingerprint"]:
        weights.append(f"fingerprint of the weights {_short(facts['weights_fingerprint'])}")
    checkpoint = ", ".join(filter(None, weights)) or UNKNOWN
    prompt = "an unknown prompt" if facts["prompt"] is None else f'the prompt "{facts["prompt"]}"'
    decoding = "unknown decoding settings"
    if facts["decoding"] is not None:
        decoding = "the decoding settings " + _pairs(facts["decoding"])
    same = names_by_value({name: card["metrics"][name] for name in card["described"]})
    scores = "; ".join(f"{_listed(names)}: {how}" for how, names in same.items())
    patients = f" of {counted(card['units'], 'patient')}" if card["unit"] == "patient" else ""
    sentences = [
        f"Reports of {counted(card['images'], 'image')} from {counted(card['studies'], 'study')}{patients} "
        f"of {split} were scored (SHA-256 of the image ids {_short(card['images_sha256'])}) against "
        f"references {references} (SHA-256 {_short(card['references_sha256'])}); {card['empty_reports']:,} "
        "of the generated reports had no text.",
        f"The reports (file {card['predictions']}, SHA-256 {_short(card['predictions_sha256'])}) {model} "
        f"(checkpoint {checkpoint}), with {prompt} and {decoding}.",
        f"{card['text'][0].upper()}{card['text'][1:]}. Intervals are 95 % percentile bootstrap intervals of "
        f"{card['rounds']:,} rounds that draw {'patients' if card['unit'] == 'patient' else 'studies'} with "
        f"replacement (seed {card['seed']}).",
        f'The protocol of the scores is "{card["protocol"]}". They equal or are: {scores}.',
        f"Not computed: {_listed([*card['not_computed']])}." if card["not_computed"] else "",
        f"Software of the scoring: {_versions(card['versions'])}; its metrics are checked against "
        f"{CHECKED_AGAINST}.",
    ]
    if facts["generation_versions"]:
        sentences.append(f"Software of the generation: {_versions(facts['generation_versions'])}.")
    return " ".join(filter(None, [*sentences, f"Command: {card['command']}"]))


def comparison_protocol(
    predictions: Sequence[Prediction], files: Mapping[str, Path], *, command: str, protocol: str
) -> dict[str, Any]:
    """Return under which conditions runs were compared.

    Args:
        predictions: of any one of them.
        files: of each run, by its name.
    """
    return {
        "runs": {
            name: {"predictions": file.name, "predictions_sha256": file_sha256(file)}
            for name, file in files.items()
        },
        **task_hashes(predictions),
        "protocol": protocol,
        "versions": software_versions(),
        "command": command,
    }


def task_hashes(predictions: Sequence[Prediction]) -> dict[str, str]:
    """Return the hashes that are the same for the same images, and for the same task, in any order."""
    return {
        "images_sha256": _hash_of(row.image_id for row in predictions),
        "references_sha256": _hash_of(json.dumps([row.image_id, row.reference]) for row in predictions),
    }


def software_versions() -> dict[str, str]:
    """Return the versions of what computes the scores."""
    versions = {"xraygpt": xraygpt.__version__, "commit": git_hash() or UNKNOWN}
    versions["Python"] = platform.python_version()
    for package in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return versions


def _hash_of(lines: Iterable[str]) -> str:
    text = "".join(f"{line}\n" for line in sorted(lines))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _short(sha256: str) -> str:
    return sha256[:SHOWN_OF_HASH]


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _versions(versions: Mapping[str, str]) -> str:
    return _pairs({name: version[:SHOWN_OF_HASH] for name, version in versions.items()})


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def facts_from_settings(
    settings: Sequence[Mapping[str, Any]], *, command: str | None = None, checkpoint_sha256: str | None = None
) -> GenerationFacts:
    """Return how the reports of a split were made, from the settings of each of its data sets.

    All but the data is the same in these.
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
    """Return how a run's ``predictions_<split>.jsonl`` was made; None without a generation's file beside it.

    Raises:
        DataError: the generation's file is damaged.
    """
    split = re.fullmatch(r"predictions_(.*)\.jsonl", predictions.name)
    path = predictions.with_name(f"generation_{split[1]}.json") if split else predictions
    if not split or not path.is_file():
        return None
    content = read_json(path)
    try:
        settings = [part["settings"] for part in content["datasets"]]
        return facts_from_settings(settings, command=content.get("command"))
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path}: does not say how {predictions.name} was made; move it away to score without it"
        ) from error
