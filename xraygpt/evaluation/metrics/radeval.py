"""Scores by neural models, computed by the package RadEval: CheXbert, RadGraph, RadCliQ, GREEN and others.

Source: Xu et al., RadEval: A framework for radiology text evaluation, EMNLP 2025; models as in the source of
RadEval 2.2.1. The package is an extra and fetches weights on first use, so nothing is computed unless named.
Shapes: N reports, C classes.
"""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np

from xraygpt.common.errors import UnavailableMetricError, UnknownNameError
from xraygpt.common.paths import install_hint
from xraygpt.evaluation.labeller import CLASSES
from xraygpt.evaluation.metrics.clinical import FIVE_CLASSES, class_f1
from xraygpt.evaluation.metrics.metric import Array, Metric, Score, count_class_matches, mean_of_values


def _means(keys: str) -> dict[str, Score]:
    """Return the means of RadEval's values of each report, by their keys."""
    return {key: partial(_mean, place) for place, key in enumerate(keys.split())}


def _mean(place: int, sums: Array) -> Array:
    return mean_of_values(sums[..., 2 * place : 2 * place + 2])


CHEXBERT_F1: Mapping[str, Score] = {
    f"f1chexbert_{key}_{average}_f1": partial(class_f1, average, classes)
    for key, classes in {"5": FIVE_CLASSES, "all": CLASSES}.items()
    for average in ("micro", "macro", "weighted")
} | {f"f1chexbert_{c.lower().replace(' ', '_')}": partial(class_f1, "micro", (c,)) for c in CLASSES}
"""RadEval nests the F1 of each class, which has no key of its own there."""
_HUB = "StanfordAIMI/RRG_scorers"
MODELS: Mapping[str, tuple[str, Mapping[str, Score]]] = {
    "chexbert": (f"{_HUB} chexbert.pth with bert-base-uncased, uncertain as positive", CHEXBERT_F1),
    "radgraph": (f"{_HUB} radgraph-xl.tar.gz", _means("radgraph_simple radgraph_partial radgraph_complete")),
    "radcliq": (
        f"{_HUB} radgraph.tar.gz and chexbert.pth with bert-base-uncased, distilroberta-base (layer 5, idf)",
        _means("radcliq_v1"),
    ),
    "ratescore": ("Angelakeke/RaTE-NER-Deberta and FremyCompany/BioLORD-2023-C", _means("ratescore")),
    "green": ("StanfordAIMI/GREEN-radllama2-7b", _means("green")),
    "crimson": ("rajpurkarlab/medgemma-4b-it-crimson", _means("crimson")),
    "srr_bert": (
        "StanfordAIMI/SRR-BERT-Leaves-with-Statuses, microsoft/BiomedVLP-CXR-BERT-general",
        {"srrbert_weighted_f1": partial(class_f1, "weighted", ())},
    ),
    "temporal": ("stanza's English NER 'radiology', and a list of words of change", _means("temporal_f1")),
    "bertscore": ("distilbert-base-uncased (layer 5, rescaled)", _means("bertscore")),
    "bleu": ("BLEU-4 of each report by itself, no weights", _means("bleu")),
    "rouge": ("rouge_score with its stemmer, no weights", _means("rouge1 rouge2 rougeL")),
}
"""Name -> what RadEval reads for it, and its scores by RadEval's keys."""


def radeval_metrics(names: Sequence[str]) -> tuple[Metric, ...]:
    """Return the metrics of some of `MODELS`; a missing package or weights show when they count.

    Raises:
        UnknownNameError: there is no such name.
    """
    for name in names:
        if name not in MODELS:
            raise UnknownNameError("RadEval metric", name, MODELS)
    return tuple(metric for name in dict.fromkeys(names) for metric in _metrics(name, *MODELS[name]))


def require_radeval(asked: str) -> None:
    """Raise UnavailableMetricError, naming what was `asked`, unless the package is installed."""
    with _explained(asked):
        _package()


def _package() -> Any:
    package = import_module("radeval")
    sys.modules.setdefault("RadEval", package)  # in 2.2.1 RadGraph imports from the package's former name
    return package


def _metrics(name: str, model: str, scores: Mapping[str, Score]) -> Iterator[Metric]:
    labels = {"chexbert": _chexbert_labels, "srr_bert": _srr_labels}.get(name)
    distance = name == "radcliq"

    def statistics(references: Sequence[str], hypotheses: Sequence[str]) -> Array:
        with _explained(f"RadEval's {name}", model):
            if not labels:
                return _report_values(name, [*scores], [*references], [*hypotheses])
            truth, found = np.split(labels([*references, *hypotheses]).astype(bool), 2)
            return count_class_matches(truth, found).reshape(len(references), -1)  # (N, 3 C)

    for key, score in scores.items():
        yield Metric(
            name=f"radeval_{key}",
            title=f"RadEval {key}",
            equals=f"RadEval's {name} ({model})" + "; RadEval prints 1 / this mean" * distance,
            statistics=statistics,
            score=score,
            heading="Wording" if name in ("bleu", "rouge", "bertscore") else "Findings",
            higher_is_better=not distance,
            highest=math.inf if distance else 1.0,
            english_only=True,
            slow=True,
        )


@contextmanager
def _explained(what: str, model: str = "") -> Iterator[None]:
    """Say in a line what RadEval or its libraries raise for missing modules, weights, memory or network."""
    try:
        with warnings.catch_warnings():  # RadEval turns all warnings of the process off
            yield
    except Exception as error:
        message = next(iter(str(error).strip().splitlines()), "no message")
        problem = "did not finish"
        if isinstance(error, ModuleNotFoundError):
            what = "RadEval" if model else what  # metrics with the same reason are told together
            problem = f"needs a module that is not installed; {install_hint('radeval')}"
        elif isinstance(error, OSError) or "download" in message:
            problem = f"could not fetch or read its weights, {model}"
        raise UnavailableMetricError(f"{what} {problem} ({type(error).__name__}: {message})") from error


def _report_values(name: str, keys: Sequence[str], references: list[str], hypotheses: list[str]) -> Array:
    """Return (value, 1) of each report by each of K keys, (N, 2 K); (0, 0) where RadEval has no value."""
    options = {"provider": "hf"} if name == "crimson" else {}  # no report is sent to a server
    evaluator = _package().RadEval({name: options}, per_sample=True, show_progress=False)
    found = evaluator(refs=references, hyps=hypotheses)
    values = np.array([found[key] for key in keys], dtype=np.float64).T
    known = np.isfinite(values)
    return np.stack([np.where(known, values, 0), known], axis=-1).reshape(len(references), 2 * len(keys))


def _chexbert_labels(texts: list[str]) -> Array:
    # RadEval's own F1 asks for CUDA where there is none, and fails with scikit-learn 1.9.
    _package()
    device = "cuda" if import_module("torch").cuda.is_available() else "cpu"
    labeller = import_module("radeval.metrics.f1chexbert").F1CheXbert(device=device)
    return np.array(labeller.get_labels(texts))[:, [labeller.TARGET_NAMES.index(name) for name in CLASSES]]


def _srr_labels(texts: list[str]) -> Array:
    """Return the labels that some sentence of each text has."""
    labeller = _package().RadEval({"srrbert": {}}, show_progress=False).srrbert_scorer
    sentences = import_module("radeval.metrics.SRRBert.srr_bert").srr_bert_parse_sentences
    return np.array([labeller(sentences(text))[0].any(axis=0) for text in texts])
