"""All metrics by name, and the protocols that choose among them.

Those of this list need no weights and no network. METEOR needs Java; where it is not there, METEOR says so
when it is asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from xraygpt.common.errors import DataError, UnavailableMetricError, did_you_mean
from xraygpt.evaluation.metrics.clinical import LATERALITY_F1, RULE_F1
from xraygpt.evaluation.metrics.contradictions import CONTRADICTIONS
from xraygpt.evaluation.metrics.meteor import METEOR, R2GEN_METEOR
from xraygpt.evaluation.metrics.metric import Array, Metric
from xraygpt.evaluation.metrics.overlap import (
    BLEU,
    CIDER_D,
    R2GEN_BLEU,
    R2GEN_CIDER_D,
    R2GEN_ROUGE_L,
    REXRANK_BLEU_2,
    ROUGE,
    SACREBLEU,
)
from xraygpt.evaluation.metrics.phantom import PHANTOM
from xraygpt.evaluation.metrics.surface import EXACT_MATCH, PRIOR_STATEMENTS, SURFACE

REXRANK_RADEVAL = ("bertscore", "radgraph", "radcliq", "ratescore", "green")
"""What ReXrank takes from models, as RadEval's metrics are called here."""


def _needs_radeval(references: Sequence[str], hypotheses: Sequence[str]) -> Array:
    raise UnavailableMetricError(
        f"computed by models: evaluate.py score --radeval {' '.join(REXRANK_RADEVAL)}, where the package "
        "RadEval is installed (SembScore is a part of its radcliq)"
    )


REXRANK_MODELS = tuple(
    Metric(f"rexrank_{name}", f"{name} (ReXrank)", f"ReXrank's {name}, by a model", _needs_radeval)
    for name in (*REXRANK_RADEVAL, "sembscore")
)
"""Never computed here, but named where ReXrank's scores are asked for."""
CLINICAL = (*RULE_F1, LATERALITY_F1)
TEXT = (*ROUGE, *BLEU, SACREBLEU, METEOR, CIDER_D)
OTHERS = (*PRIOR_STATEMENTS, CONTRADICTIONS, *SURFACE)
OURS = "ours"
PROTOCOLS: Mapping[str, tuple[Metric, ...]] = {
    OURS: TEXT,
    "r2gen": (*R2GEN_BLEU, R2GEN_METEOR, R2GEN_ROUGE_L, R2GEN_CIDER_D),
    "rexrank": (REXRANK_BLEU_2, *REXRANK_MODELS),
}
"""The metrics of wording by protocol; those of findings, errors and length are the same in all."""
OFFLINE: tuple[Metric, ...] = (*CLINICAL, *TEXT, *OTHERS)
"""The metrics for reports of any kind, in the order in which tables show them; `EXACT_MATCH`, for short
answers, is computed where it is named."""
_OWN: list[Metric] = []


def register_metric(metric: Metric) -> Metric:
    """Make a metric of one's own known by its name; without names, it is computed along with all others.

    Raises:
        ValueError: the name is taken.
    """
    if metric.name in _known():
        raise ValueError(f"the metric name '{metric.name}' is taken")
    _OWN.append(metric)
    return metric


def _known() -> dict[str, Metric]:
    of_protocols = (metric for metrics in PROTOCOLS.values() for metric in metrics)
    return {m.name: m for m in (*PHANTOM, *CLINICAL, *of_protocols, *OTHERS, EXACT_MATCH, *_OWN)}


def metric_named(name: str) -> Metric:
    """Return a metric of any protocol, of those for the reports of phantoms (`PHANTOM`), or of one's own.

    Raises:
        DataError: there is none of that name; says which is nearest.
    """
    known = _known()
    if name not in known:
        raise DataError(
            f"no metric is called '{name}'{did_you_mean(name, known)} There are: {', '.join(known)}"
        )
    return known[name]


def choose_metrics(
    names: Sequence[str], *, protocol: str = OURS, synthetic: bool = False
) -> tuple[Metric, ...]:
    """Return the metrics of these names, each once; all of a protocol if none is named.

    Args:
        protocol: one of `PROTOCOLS`.
        synthetic: the reports are of phantoms, whose metrics then belong to all.

    Raises:
        DataError: there is no such metric or protocol, or both are chosen.
    """
    if protocol not in PROTOCOLS:
        raise DataError(
            f"no protocol is called '{protocol}'{did_you_mean(protocol, PROTOCOLS)} There are: "
            f"{', '.join(PROTOCOLS)}"
        )
    if names and protocol != OURS:
        raise DataError(
            f"metrics are named, and the protocol {protocol} too, which names its own; leave out one of both "
            f"(a metric of the protocol by name: {PROTOCOLS[protocol][0].name})"
        )
    if names:
        return tuple(metric_named(name) for name in dict.fromkeys(names))
    return (*(PHANTOM if synthetic else ()), *CLINICAL, *PROTOCOLS[protocol], *OTHERS, *_OWN)
