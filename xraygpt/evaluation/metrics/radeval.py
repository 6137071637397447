"""Scores by neural models through the package RadEval: CheXbert, RadGraph, RaTEScore, GREEN, BERTScore.

Source: Xu et al., RadEval: A framework for radiology text evaluation, 2025. The package is an extra
(``pip install radeval``) and fetches each model's weights from the Hugging Face Hub on first use; so nothing
here is computed unless it is asked for by name.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

import numpy as np

from xraygpt.common.errors import DataError, UnavailableMetricError, UnknownNameError

NAMES: Mapping[str, str] = {
    "chexbert": "f1chexbert",
    "radgraph": "radgraph",
    "ratescore": "ratescore",
    "green": "green",
    "bertscore": "bertscore",
}
"""Our name -> RadEval's name."""


def radeval_scores(
    references: Sequence[str], hypotheses: Sequence[str], which: Sequence[str] = ("chexbert", "radgraph")
) -> dict[str, float]:
    """Return RadEval's scores of all reports under RadEval's names, such as ``radgraph_partial``.

    Args:
        references: N reports.
        hypotheses: N generated reports.
        which: keys of `NAMES`.

    Raises:
        UnknownNameError: a name in `which` is not in `NAMES`.
        DataError: no reports, or not as many references as hypotheses.
        UnavailableMetricError: the package is not installed, or a model's weights are not there; the message
            says which.
    """
    for name in which:
        if name not in NAMES:
            raise UnknownNameError("RadEval metric", name, NAMES)
    if not references or len(references) != len(hypotheses):
        raise DataError(
            f"RadEval needs as many references as hypotheses, at least one; there are {len(references)} and "
            f"{len(hypotheses)}."
        )
    try:
        package: Any = importlib.import_module("radeval")
    except ImportError as error:
        raise UnavailableMetricError(
            f"{', '.join(which)} not computed: needs the package RadEval (pip install radeval); {error}."
        ) from error
    found: dict[str, Any] = {}
    for name in which:  # one at a time, so that an error is told of the metric it belongs to
        try:
            with warnings.catch_warnings():  # RadEval turns all warnings of the process off
                evaluator = package.RadEval(metrics=[NAMES[name]], detailed=True, show_progress=False)
                found |= evaluator(refs=list(references), hyps=list(hypotheses))
        except Exception as error:  # whatever its libraries raise for missing weights, memory or network
            message = next(iter(str(error).strip().splitlines()), "no message")
            raise UnavailableMetricError(
                f"{name} not computed: RadEval could not load its weights or did not finish "
                f"({type(error).__name__}: {message}). The weights come from the Hugging Face Hub on first "
                "use; fetch them once where there is a network."
            ) from error
    return {key: float(value) for key, value in found.items() if isinstance(value, int | float | np.floating)}


def radeval_implementations(which: Sequence[str]) -> dict[str, str]:
    """Return for each of `NAMES` what computes it, for the protocol; keys such as ``radeval radgraph``."""
    try:
        version = metadata.version("radeval")
    except metadata.PackageNotFoundError:
        version = "of unknown version"
    return {
        f"radeval {name}": f"the package RadEval {version}, metric {NAMES[name]}; no interval"
        for name in which
    }
