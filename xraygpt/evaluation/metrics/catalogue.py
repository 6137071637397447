"""All metrics by name, and the protocols that choose among them.

Those of this list need no weights and no network. METEOR needs Java; where it is not there, METEOR says so
when it is asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from xraygpt.common.errors import DataError, did_you_mean
from xraygpt.evaluation.metrics import meteor, overlap
from xraygpt.evaluation.metrics.clinical import LATERALITY_F1, RULE_F1
from xraygpt.evaluation.metrics.contradictions import CONTRADICTIONS
from xraygpt.evaluation.metrics.metric import Metric
from xraygpt.evaluation.metrics.phantom import PHANTOM
from xraygpt.evaluation.metrics.radeval import radeval_metrics, require_radeval
from xraygpt.evaluation.metrics.surface import EXACT_MATCH, PRIOR_STATEMENTS, SURFACE

T = TypeVar("T")
REXRANK_MODELS = radeval_metrics(("bertscore", "radgraph", "radcliq", "ratescore", "green"))
"""What ReXrank takes from models; SembScore is a part of RadEval's radcliq."""
CLINICAL = (*RULE_F1, LATERALITY_F1)
TEXT = (*overlap.ROUGE, *overlap.BLEU, overlap.SACREBLEU, meteor.METEOR, overlap.CIDER_D)
OTHERS = (*PRIOR_STATEMENTS, CONTRADICTIONS, *SURFACE)
OURS = "ours"
PROTOCOLS: Mapping[str, tuple[Metric, ...]] = {
    OURS: TEXT,
    "r2gen": (*overlap.R2GEN_BLEU, meteor.R2GEN_METEOR, overlap.R2GEN_ROUGE_L, overlap.R2GEN_CIDER_D),
    "rexrank": (overlap.REXRANK_BLEU_2, *REXRANK_MODELS),
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
    return _look_up("metric", name, _known())


def _look_up(noun: str, name: str, known: Mapping[str, T]) -> T:
    if name not in known:
        raise DataError(
            f"no {noun} is called '{name}'{did_you_mean(name, known)} There are: {', '.join(known)}"
        )
    return known[name]


def choose_metrics(
    names: Sequence[str], *, protocol: str = OURS, synthetic: bool = False, radeval: Sequence[str] = ()
) -> tuple[Metric, ...]:
    """Return the metrics of these names, each once; all of a protocol if none is named.

    Args:
        protocol: one of `PROTOCOLS`.
        synthetic: the reports are of phantoms, whose metrics then belong to all.
        radeval: names of models whose scores by the package RadEval are added.

    Raises:
        DataError: there is no such metric or protocol, or both are chosen.
        UnknownNameError, UnavailableMetricError: no such model; the package is not installed.
    """
    of_protocol = _look_up("protocol", protocol, PROTOCOLS)
    if names and protocol != OURS:
        raise DataError(
            f"metrics are named, and the protocol {protocol} too, which names its own; leave out one of both "
            f"(a metric of the protocol by name: {of_protocol[0].name})"
        )
    by_models = radeval_metrics(radeval)
    if radeval:
        require_radeval(f"--radeval {' '.join(radeval)}")
    chosen = [metric_named(name) for name in names]
    if not names:
        chosen = [*(PHANTOM if synthetic else ()), *CLINICAL, *of_protocol, *OTHERS, *_OWN]
    return tuple({metric.name: metric for metric in (*chosen, *by_models)}.values())
