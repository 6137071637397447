"""Scores through RadEval: with a stand-in for the package, and with the package itself where it is installed.

The package is left as it is but for the weights, which have random numbers here.
"""

from __future__ import annotations

import inspect
import sys
import types
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.evaluation.runs import run
from xraygpt.common.errors import UnavailableMetricError, UnknownNameError
from xraygpt.evaluation.labeller import CLASSES
from xraygpt.evaluation.metrics.catalogue import choose_metrics, metric_named
from xraygpt.evaluation.metrics.metric import make_tables
from xraygpt.evaluation.metrics.radeval import MODELS, radeval_metrics, require_radeval
from xraygpt.evaluation.scoring import score_predictions

REFERENCES = ["Edema. No effusion.", "Left effusion.", "Edema and effusion.", "Clear lungs."]
HYPOTHESES = ["Edema.", "Left effusion. Edema.", "Effusion is seen.", "Clear lungs."]
VALUES: dict[str, dict[str, list[Any]]] = {
    "radgraph": {
        "radgraph_simple": [0.5, 1.0, 0.0, 1.0],
        "radgraph_partial": [0.25, 0.5, 0.0, 1.0],
        "radgraph_complete": [0.0, 0.0, 0.0, 1.0],
    },
    "crimson": {"crimson": [np.float32(0.5), float("nan"), -0.5, 1]},
    "radcliq": {"radcliq_v1": [1.0, -0.5, 2.0, 0.5]},
}
"""RadEval's name -> its keys -> values of the reports."""


class StandIn:
    """The interface of ``radeval.RadEval`` as far as it is used."""

    def __init__(
        self, metrics: dict[str, dict[str, str]], per_sample: bool = False, show_progress: bool = True
    ) -> None:
        assert not show_progress
        warnings.filterwarnings("ignore")
        ((self.metric, options),) = metrics.items()
        self.per_sample = per_sample
        assert options == ({"provider": "hf"} if self.metric == "crimson" else {})
        if self.metric == "green":
            raise OSError("We couldn't connect to the Hub\nto load the files")
        if self.metric == "bertscore":
            raise RuntimeError("out of memory")
        if self.metric == "temporal":
            raise ModuleNotFoundError("No module named 'stanza'", name="stanza")
        self.srrbert_scorer = lambda sentences: (
            np.array([["edema" in s.lower(), "effusion" in s.lower()] for s in sentences]).astype(int),
            None,
        )

    def __call__(self, refs: list[str], hyps: list[str]) -> dict[str, list[float]]:
        assert isinstance(refs, list)
        assert isinstance(hyps, list)
        assert self.per_sample
        return VALUES[self.metric]


class Labeller:
    """The interface of ``F1CheXbert``, the classes in its own order."""

    TARGET_NAMES = (*sorted(CLASSES, reverse=True),)

    def __init__(self, *, device: str) -> None:
        assert device in ("cpu", "cuda")

    def get_labels(self, reports: Sequence[str]) -> list[list[int]]:
        words = {"Edema": "edema", "Pleural Effusion": "effusion", "No Finding": "clear"}
        return [[int(words.get(n, "-") in text.lower()) for n in self.TARGET_NAMES] for text in reports]


@pytest.fixture
def _stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    parts: dict[str, dict[str, Any]] = {
        "radeval": {"RadEval": StandIn},
        "radeval.metrics": {},
        "radeval.metrics.f1chexbert": {"F1CheXbert": Labeller},
        "radeval.metrics.SRRBert": {},
        "radeval.metrics.SRRBert.srr_bert": {"srr_bert_parse_sentences": lambda text: text.split(".")},
    }
    for name, content in parts.items():
        module = types.ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setitem(sys.modules, "RadEval", sys.modules["radeval"])


def scores(*names: str) -> dict[str, float]:
    return {metric.name: metric(REFERENCES, HYPOTHESES) for metric in radeval_metrics(names)}


@pytest.mark.usefixtures("_stand_in")
def test_scores_are_means_over_reports() -> None:
    filters = list(warnings.filters)
    assert scores("radgraph", "crimson", "radcliq") == {
        "radeval_radgraph_simple": 0.625,
        "radeval_radgraph_partial": 0.4375,
        "radeval_radgraph_complete": 0.25,
        "radeval_crimson": pytest.approx(1 / 3),  # of the three reports with a value
        "radeval_radcliq_v1": 0.75,
    }
    assert warnings.filters == filters
    (distance,) = radeval_metrics(["radcliq"])
    assert not distance.higher_is_better
    assert "prints 1 / this mean" in distance.equals


@pytest.mark.usefixtures("_stand_in")
def test_f1_from_the_labels_of_each_report() -> None:
    found = scores("chexbert")
    # hits, invented, missed: edema 1, 1, 1; effusion 2, 0, 1; no finding 1, 0, 0
    assert found["radeval_f1chexbert_edema"] == 0.5
    assert found["radeval_f1chexbert_pleural_effusion"] == 0.8
    assert found["radeval_f1chexbert_all_micro_f1"] == pytest.approx(8 / 11)
    assert found["radeval_f1chexbert_5_micro_f1"] == pytest.approx(6 / 9)
    assert found["radeval_f1chexbert_all_macro_f1"] == pytest.approx((0.5 + 0.8 + 1) / 14)
    assert found["radeval_f1chexbert_all_weighted_f1"] == pytest.approx((2 * 0.5 + 3 * 0.8 + 1) / 6)
    assert np.isnan(found["radeval_f1chexbert_fracture"])
    assert len(found) == 6 + 14
    assert scores("srr_bert") == {"radeval_srrbert_weighted_f1": pytest.approx((2 * 0.5 + 3 * 0.8) / 5)}


@pytest.mark.usefixtures("_stand_in")
def test_intervals_subgroups_and_no_controls() -> None:
    rows = run(12, 3, columns=[{"view": "PA"}, {"view": "AP"}])
    metrics = radeval_metrics(["chexbert"])
    result = score_predictions(rows, metrics, seed=0, rounds=20, subgroups=["view"])
    name = "radeval_f1chexbert_all_micro_f1"
    assert result.scores[name].known
    assert set(result.subgroups["view"][0].scores) == {metric.name for metric in metrics}
    assert all(np.isnan(result.controls[control][name]) for control in ("shuffled", "blind"))


@pytest.mark.usefixtures("_stand_in")
@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "green",
            "could not fetch or read its weights, StanfordAIMI/GREEN-radllama2-7b (OSError: We couldn't",
        ),
        ("bertscore", "RadEval's bertscore did not finish (RuntimeError: out of memory)"),
        ("temporal", "radeval]\" (ModuleNotFoundError: No module named 'stanza')"),
        ("temporal", "RadEval needs a module that is not installed; "),  # the same words for all that need it
    ],
)
def test_what_is_missing_is_told(name: str, words: str) -> None:
    (table,) = make_tables(radeval_metrics([name]), REFERENCES, [HYPOTHESES])
    (reason,) = table.not_computed.values()
    assert words in reason
    assert "\n" not in reason


def test_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "radeval", None)
    assert choose_metrics(["rouge_l"]) == (metric_named("rouge_l"),)
    with pytest.raises(UnavailableMetricError, match=r"--radeval radgraph needs .*pip install .*radeval"):
        choose_metrics(["rouge_l"], radeval=["radgraph"])


def test_unknown_name() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'radgraph'"):
        radeval_metrics(["radgraf"])


@pytest.fixture
def package() -> Any:
    return pytest.importorskip("radeval", reason="needs the extra radeval")


def real_scores(package: Any, metric: str, monkeypatch: pytest.MonkeyPatch, **output: bool) -> dict[str, Any]:
    """Return what the package itself says of the reports."""
    if metric == "f1chexbert":  # asks for CUDA where there is none
        module = sys.modules["radeval.metrics.f1chexbert"]
        monkeypatch.setattr(module, "F1CheXbert", partial(module.F1CheXbert, device="cpu"))
        monkeypatch.setattr(module.f1chexbert, "F1CheXbert", module.F1CheXbert)
    evaluator = package.RadEval([metric], show_progress=False, **output)
    result: dict[str, Any] = evaluator(refs=REFERENCES, hyps=HYPOTHESES)
    return result


def test_the_stand_in_is_like_the_package(package: Any) -> None:
    from radeval.metrics._registry import METRIC_REGISTRY, get_metric_class
    from radeval.metrics.f1chexbert import F1CheXbert

    own, real = (inspect.signature(each).parameters for each in (StandIn, package.RadEval))
    for name in ("metrics", "per_sample", "show_progress"):
        assert own[name].default in (inspect.Parameter.empty, real[name].default)
    assert own.keys() <= real.keys()
    assert inspect.signature(get_metric_class("crimson")).parameters["provider"].default == "hf"
    assert {*F1CheXbert.CONDITION_NAMES, F1CheXbert.NO_FINDING} == set(CLASSES)
    for name in MODELS:
        metric = {"chexbert": "f1chexbert", "srr_bert": "srrbert"}.get(name, name)
        assert metric in METRIC_REGISTRY
        if name in ("ratescore", "temporal"):  # needs NumPy 1; asks the network when it is imported
            continue
        known = get_metric_class(metric).metric_keys(None, detailed=False)
        used = {each.name.removeprefix("radeval_") for each in radeval_metrics([name])}
        assert set(known) - used <= {"srrbert_weighted_precision", "srrbert_weighted_recall"}
        assert name == "chexbert" or used <= set(known)


def test_bleu_and_rouge_of_the_package(package: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = real_scores(package, "rouge", monkeypatch)
    of_reports = real_scores(package, "bleu", monkeypatch, per_sample=True)["bleu"]
    found = scores("bleu", "rouge")
    assert found.pop("radeval_bleu") == pytest.approx(np.mean(of_reports), abs=1e-12)
    assert found == {f"radeval_{key}": pytest.approx(value, abs=1e-4) for key, value in expected.items()}


@pytest.fixture
def bert(package: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the configuration of a tiny BERT, whose tokenizer is every BertTokenizer."""
    import transformers

    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *["edema", "no", "effusion", "left", "and", "clear", "lungs", "."],
    ]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    tokenizer = transformers.BertTokenizer.from_pretrained(tmp_path)
    monkeypatch.setattr(transformers.BertTokenizer, "from_pretrained", lambda *_, **__: tokenizer)
    return transformers.BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        initializer_range=2.0,
    )


def test_chexbert_f1_equals_that_of_the_package(
    package: Any, bert: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import transformers
    from radeval.metrics import _chexbert_base
    from radeval.metrics.f1chexbert import f1chexbert
    from scipy.sparse import csr_matrix

    def targets(truth: Any, found: Any) -> tuple[str, Any, Any]:
        """Answer as RadEval 2.2.1 expects of a private function of scikit-learn, which 1.9 has changed."""
        return "multilabel-indicator", csr_matrix(truth), csr_matrix(found)

    monkeypatch.setattr(_chexbert_base, "_check_targets", targets)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    weights = torch.nn.Module()
    weights.bert = transformers.BertModel(bert)
    weights.linear_heads = torch.nn.ModuleList(torch.nn.Linear(16, n) for n in [4] * 13 + [2])
    torch.manual_seed(2)
    for values in weights.parameters():
        torch.nn.init.normal_(values)
    torch.save({"model_state_dict": weights.state_dict()}, tmp_path / "chexbert.pth")
    monkeypatch.setattr(f1chexbert.AutoConfig, "from_pretrained", lambda *_: bert)
    monkeypatch.setattr(f1chexbert, "hf_hub_download", lambda **_: str(tmp_path / "chexbert.pth"))
    found = {name.removeprefix("radeval_"): value for name, value in scores("chexbert").items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = real_scores(package, "f1chexbert", monkeypatch, detailed=True)
    nested = expected.pop("f1chexbert_label_scores_f1")
    assert 0 < expected["f1chexbert_all_micro_f1"] < 1
    assert {key: found[key] for key in expected} == pytest.approx(expected, abs=1e-12)
    for name, value in nested["f1chexbert_all"].items():
        one = found[f"f1chexbert_{name.lower().replace(' ', '_')}"]
        assert np.nan_to_num(one) == pytest.approx(value, abs=1e-12)
    assert len(found) == len(expected) + len(nested["f1chexbert_all"])


def test_srr_bert_f1_equals_that_of_the_package(
    package: Any, bert: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import nltk
    import transformers

    def random_weights(_: str, num_labels: int) -> Any:
        torch.manual_seed(0)
        bert.num_labels = num_labels
        return transformers.BertForSequenceClassification(bert)

    monkeypatch.setattr(nltk, "download", lambda *_, **__: True)
    monkeypatch.setattr(nltk, "sent_tokenize", lambda text: text.split(". "))
    monkeypatch.setattr(transformers.BertForSequenceClassification, "from_pretrained", random_weights)
    (found,) = scores("srr_bert").values()
    expected = real_scores(package, "srrbert", monkeypatch)["srrbert_weighted_f1"]
    assert 0 < expected < 1
    assert found == pytest.approx(expected, abs=1e-4)


def test_weights_that_the_package_cannot_fetch(
    package: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (metric, *_) = radeval_metrics(["radgraph"])
    require_radeval("radgraph")  # makes the package's copy of RadGraph importable
    from radeval.metrics.radgraph._vendor import core

    monkeypatch.setattr(core, "CACHE_DIR", str(tmp_path))
    with pytest.raises(
        UnavailableMetricError, match=r"weights, StanfordAIMI/RRG_scorers radgraph-xl\.tar\.gz"
    ):
        metric(REFERENCES, HYPOTHESES)
