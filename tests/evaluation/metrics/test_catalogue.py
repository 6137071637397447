from __future__ import annotations

import pytest

from xraygpt.common.errors import DataError
from xraygpt.evaluation.metrics.catalogue import OFFLINE, choose_metrics, metric_named
from xraygpt.evaluation.metrics.phantom import PHANTOM


def test_names_are_unique_and_say_what_they_are() -> None:
    metrics = (*OFFLINE, *PHANTOM)
    names = [metric.name for metric in metrics]
    assert len(set(names)) == len(names)
    assert len({metric.title for metric in metrics}) == len(names)
    assert all(metric.equals and name == name.lower() for metric, name in zip(metrics, names, strict=True))
    wanted = {"rouge_l", "bleu_1", "bleu_4", "sacrebleu", "meteor", "cider_d", "rule_f1_micro_14"}
    assert wanted | {"laterality_f1", "prior_reports", "contradictions", "distinct"} <= set(names)


def test_choice() -> None:
    assert choose_metrics([]) == OFFLINE
    assert choose_metrics([], synthetic=True) == (*PHANTOM, *OFFLINE)
    names = ["rouge_l", "phantom_f1", "rouge_l"]
    assert [metric.name for metric in choose_metrics(names)] == ["rouge_l", "phantom_f1"]
    assert metric_named("bleu_4").title == "BLEU-4"


def test_unknown_names_give_the_nearest() -> None:
    with pytest.raises(DataError, match="no metric is called 'rouge-l'; did you mean 'rouge_l'"):
        choose_metrics(["bleu_4", "rouge-l"])
