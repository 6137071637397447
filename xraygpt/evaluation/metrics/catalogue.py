"""All metrics by name.

Those of this list need no weights and no network. METEOR needs Java; where it is not there, METEOR says so
when it is asked.
"""

from __future__ import annotations

from collections.abc import Sequence

from xraygpt.common.errors import DataError, did_you_mean
from xraygpt.evaluation.metrics.clinical import LATERALITY_F1, RULE_F1
from xraygpt.evaluation.metrics.contradictions import CONTRADICTIONS
from xraygpt.evaluation.metrics.meteor import METEOR
from xraygpt.evaluation.metrics.metric import Metric
from xraygpt.evaluation.metrics.overlap import BLEU, CIDER_D, ROUGE, SACREBLEU
from xraygpt.evaluation.metrics.phantom import PHANTOM
from xraygpt.evaluation.metrics.surface import EXACT_MATCH, PRIOR_STATEMENTS, SURFACE

CLINICAL = (*RULE_F1, LATERALITY_F1)
TEXT = (*ROUGE, *BLEU, SACREBLEU, METEOR, CIDER_D)
OFFLINE: tuple[Metric, ...] = (*CLINICAL, *TEXT, *PRIOR_STATEMENTS, CONTRADICTIONS, *SURFACE)
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
    return {metric.name: metric for metric in (*PHANTOM, *OFFLINE, EXACT_MATCH, *_OWN)}


def metric_named(name: str) -> Metric:
    """Return a metric: one of `OFFLINE`, of those for the reports of phantoms (`PHANTOM`), or of one's own.

    Raises:
        DataError: there is none of that name; says which is nearest.
    """
    known = _known()
    if name not in known:
        raise DataError(
            f"no metric is called '{name}'{did_you_mean(name, known)} There are: {', '.join(known)}"
        )
    return known[name]


def choose_metrics(names: Sequence[str], *, synthetic: bool = False) -> tuple[Metric, ...]:
    """Return the metrics of these names, each once; all if none is named.

    Args:
        synthetic: the reports are of phantoms, whose metrics then belong to all.

    Raises:
        DataError: there is no such metric.
    """
    if names:
        return tuple(metric_named(name) for name in dict.fromkeys(names))
    return (*(PHANTOM if synthetic else ()), *OFFLINE, *_OWN)
