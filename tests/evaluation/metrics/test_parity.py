"""Every text metric equals its published implementation, on synthetic reports of every kind.

``benchmarks.text_metrics`` does the same on OpenI. COCO's package and Java are extras.
"""

from __future__ import annotations

import gzip
import importlib.util
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from benchmarks.text_metrics import (
    PUBLISHED,
    Published,
    compare,
    hypotheses_for,
    ptb_tokens,
    spaced_full_stops,
)
from tests.evaluation.metrics.test_tokens import EXPECTED
from xraygpt.common.errors import UnavailableMetricError
from xraygpt.datasets.phantom.report import write_report
from xraygpt.datasets.phantom.truth import draw_truth
from xraygpt.evaluation.metrics import meteor
from xraygpt.evaluation.metrics.meteor import R2GEN_METEOR
from xraygpt.evaluation.metrics.tokens import coco_tokens

HAS_COCO = importlib.util.find_spec("pycocoevalcap") is not None


def _has_java() -> bool:
    try:
        meteor._java()
    except UnavailableMetricError:
        return False
    return True


@pytest.fixture(scope="module")
def reports() -> list[str]:
    rng = random.Random(0)
    phantoms = [write_report(draw_truth(rng), rng) for _ in range(25)]
    return [*phantoms, *(text for text in EXPECTED if "." in text), phantoms[0]]


def _names(published: Published) -> str:
    return published.metrics[-1].name


def _tokens(texts: list[str]) -> list[str]:
    return [" ".join(coco_tokens(text)) for text in texts]


@pytest.mark.parametrize("published", PUBLISHED[:-2], ids=_names)
def test_metric_equals_the_published_one(published: Published, reports: list[str]) -> None:
    if published.package == "pycocoevalcap" and not HAS_COCO:
        pytest.skip("needs pycocoevalcap")
    for name, agreement in compare(reports, [published], _tokens).items():
        assert agreement.pairs == 8 * len(reports), name
        assert agreement.report < 1e-6, name
        assert agreement.corpus < 1e-6, name


@pytest.mark.skipif(not HAS_COCO or not _has_java(), reason="needs pycocoevalcap and Java")
def test_tokens_equal_those_of_ptb_tokenizer(reports: list[str]) -> None:
    texts = [t for kind in hypotheses_for(reports, random.Random(1)).values() for t in kind] + list(EXPECTED)
    assert [list(coco_tokens(text)) for text in texts] == [tokens.split() for tokens in ptb_tokens(texts)]


@pytest.mark.skipif(not HAS_COCO or not _has_java(), reason="needs pycocoevalcap and Java")
def test_meteor_of_prepared_texts_equals_the_published_one(
    reports: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One start of Java serves both, with a few paraphrases in the place of the 60 MB that take it long."""
    shutil.copy(meteor._program_folder() / meteor.JAR, tmp_path)
    (tmp_path / "data").mkdir()
    with gzip.open(tmp_path / "data/paraphrase-en.gz", "wt") as table:
        table.write("0.5\nnormal\nunremarkable\n0.25\nthere is no\nno evidence of\n0.25\nis\nseen\n")
    monkeypatch.setattr(meteor, "_program_folder", lambda: tmp_path)
    few, others = [*reports[:6], "The lungs expand."], [*reports[3:9], "The lung expanded."]
    programs = []

    def keep_running(command: list[str], *, cwd: Path, input: bytes, **_: object) -> object:
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        programs.append(subprocess.Popen(command, cwd=cwd, bufsize=0, **pipes))
        programs[0].stdin.write(input)
        printed = b"".join(programs[0].stdout.readline() for _ in few)
        return subprocess.CompletedProcess(command, 0, printed)

    monkeypatch.setattr(subprocess, "run", keep_running)
    statistics = R2GEN_METEOR.statistics(few, others)
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: programs[0])
    ((each, corpus),) = PUBLISHED[-1].score(spaced_full_stops(few), spaced_full_stops(others))
    assert R2GEN_METEOR.score(statistics) == pytest.approx(list(each), abs=1e-6)
    assert R2GEN_METEOR.score(statistics.sum(axis=0)) == pytest.approx(corpus, abs=1e-6)
    of_kinds = statistics[:, 4:20].reshape(-1, 4, 4).sum(axis=(0, 2))
    assert (of_kinds > 0).all()  # exact, stem, synonym, paraphrase
