from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from xraygpt.common.errors import DataError
from xraygpt.evaluation.metrics.catalogue import (
    OFFLINE,
    PROTOCOLS,
    REXRANK_MODELS,
    choose_metrics,
    metric_named,
)
from xraygpt.evaluation.metrics.metric import make_tables
from xraygpt.evaluation.metrics.phantom import PHANTOM
from xraygpt.evaluation.metrics.surface import EXACT_MATCH

ALL = dict.fromkeys([*PHANTOM, *OFFLINE, *(m for each in PROTOCOLS.values() for m in each), EXACT_MATCH])


def test_names_are_unique_and_say_what_they_are() -> None:
    names = [metric.name for metric in ALL]
    assert len(set(names)) == len(names)
    assert len({metric.title for metric in ALL}) == len(names)
    assert all(metric.equals and name == name.lower() for metric, name in zip(ALL, names, strict=True))
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


def test_the_table_of_the_documentation_lists_every_metric() -> None:
    text = (Path(__file__).parents[3] / "docs/metrics.md").read_text(encoding="utf-8")
    table = text.partition("\n## All metrics\n")[2].partition("\n## ")[0]
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    listed = [name for cell in cells for name in re.findall(r"`(\w+)`", cell)]
    assert len(set(listed)) == len(listed)
    by_models = {metric.name for metric in ALL if metric.name.startswith("radeval_")}
    assert set(listed) - {"radeval_"} == {metric.name for metric in ALL} - by_models
    models = text.partition("\n## Scores by neural models (RadEval)\n")[2].partition("\n## ")[0]
    assert all(f"`{name.removeprefix('radeval_')}`" in models for name in by_models)


@pytest.mark.parametrize("protocol", ["r2gen", "rexrank"])
def test_protocols_score_the_wording_under_names_of_their_own(protocol: str) -> None:
    names = [metric.name for metric in choose_metrics([], protocol=protocol)]
    wording = {metric.name for metric in PROTOCOLS[protocol]}
    assert all(name.startswith((f"{protocol}_", "radeval_")) for name in wording)
    assert set(names) - wording == {m.name for m in OFFLINE} - {m.name for m in PROTOCOLS["ours"]}
    assert choose_metrics([], protocol="ours") == OFFLINE


def test_what_rexrank_takes_from_models_is_named_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "radeval", None)
    (table,) = make_tables(choose_metrics([], protocol="rexrank"), ["Clear."], [["Clear."]])
    assert set(table.not_computed) == {metric.name for metric in REXRANK_MODELS}
    assert all("pip install" in reason for reason in table.not_computed.values())
    assert table.scores()["rexrank_bleu_2"] == 1


def test_protocols_are_not_mixed_with_names() -> None:
    with pytest.raises(DataError, match="no protocol is called 'r2gn'; did you mean 'r2gen'"):
        choose_metrics([], protocol="r2gn")
    with pytest.raises(DataError, match="metrics are named, and the protocol r2gen too"):
        choose_metrics(["bleu_4"], protocol="r2gen")
    assert [m.name for m in choose_metrics(["r2gen_bleu_4", "bleu_4"])] == ["r2gen_bleu_4", "bleu_4"]
