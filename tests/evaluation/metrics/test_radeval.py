"""Scores through RadEval, with a stand-in for the package: it and its weights are large."""

from __future__ import annotations

import sys
import types
import warnings

import numpy as np
import pytest

from xraygpt.common.errors import DataError, UnavailableMetricError, UnknownNameError
from xraygpt.evaluation.metrics.radeval import NAMES, radeval_scores

RESULTS = {
    "f1chexbert": {
        "f1chexbert_5_micro_f1": 0.5,
        "f1chexbert_label_scores_f1": {"f1chexbert_5": {"Edema": 1.0}},
    },
    "radgraph": {"radgraph_simple": np.float32(0.75), "radgraph_partial": 0.5},
}


class StandIn:
    """The documented interface of ``radeval.RadEval``."""

    def __init__(self, metrics: list[str], detailed: bool, show_progress: bool) -> None:
        assert detailed
        assert not show_progress
        warnings.filterwarnings("ignore")
        if metrics == ["green"]:
            raise OSError("We couldn't connect to the Hub\nto load the files")
        (self.metric,) = metrics

    def __call__(self, refs: list[str], hyps: list[str]) -> dict[str, object]:
        assert isinstance(refs, list)
        assert isinstance(hyps, list)
        return RESULTS[self.metric]


@pytest.fixture
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    package = types.ModuleType("radeval")
    package.RadEval = StandIn  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "radeval", package)


@pytest.mark.usefixtures("_installed")
def test_scores_under_radevals_names() -> None:
    filters = list(warnings.filters)
    assert radeval_scores(("a", "b"), ("a", "c"), ("chexbert", "radgraph")) == {
        "f1chexbert_5_micro_f1": 0.5,
        "radgraph_simple": 0.75,
        "radgraph_partial": 0.5,
    }
    assert warnings.filters == filters


@pytest.mark.usefixtures("_installed")
def test_missing_weights_are_told_of_their_metric() -> None:
    with pytest.raises(UnavailableMetricError, match=r"green not computed: .*couldn't connect to the Hub\)"):
        radeval_scores(["a"], ["a"], ["radgraph", "green"])


def test_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "radeval", None)
    with pytest.raises(UnavailableMetricError, match="radgraph not computed: needs the package RadEval"):
        radeval_scores(["a"], ["a"], ["radgraph"])


def test_wrong_requests() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'radgraph'"):
        radeval_scores(["a"], ["a"], ["radgraf"])
    with pytest.raises(DataError, match="there are 1 and 0"):
        radeval_scores(["a"], [], [*NAMES])
