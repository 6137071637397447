"""Compare the text metrics with their published implementations on the reports of OpenI.

    python -m benchmarks.text_metrics --reports NLMCXR_reports.tgz [--pairs 500]

prints a Markdown table. It needs what `make install` installs. Each of the drawn reports is the
reference of eight hypotheses; each kind of hypothesis is a corpus. On the published side, COCO's metrics get
the tokens of COCO's own PTBTokenizer (Java), and those of the protocols r2gen and rexrank texts with spaced
full stops. fast-bleu, which ReXrank calls, is NLTK's BLEU in C++; NLTK stands for it here.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import random
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import sacrebleu
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
from rouge_score.rouge_scorer import RougeScorer

from xraygpt.evaluation.metrics.meteor import METEOR, R2GEN_METEOR
from xraygpt.evaluation.metrics.metric import Metric
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
from xraygpt.evaluation.metrics.tokens import coco_tokens
from xraygpt.evaluation.sentences import split_sentences
from xraygpt.preparation.sources.openi import OpenISource
from xraygpt.preparation.study import Study

SEED = 0
JAVA_OPTIONS = "-Dfile.encoding=UTF-8 -Dstdout.encoding=UTF-8"
"""COCO's programs take the encoding of the machine, which may not know every letter."""

Texts = Sequence[str]
Scores = tuple[Sequence[float], float]
"""Score of each report, score of the corpus."""


@dataclass(frozen=True)
class Published:
    """An implementation from elsewhere."""

    package: str
    metrics: tuple[Metric, ...]
    """Ours that equal it."""
    score: Callable[[Texts, Texts], tuple[Scores, ...]]
    """(references, hypotheses) -> scores for each of `metrics`."""
    prepare: Callable[[Texts], list[str]] | None = None
    """What it is given of the texts; None: COCO's tokens, joined by spaces."""


def _rouge(references: Texts, hypotheses: Texts) -> tuple[Scores, ...]:
    names = ("rouge1", "rouge2", "rougeL")
    scorer = RougeScorer(names, use_stemmer=False)
    found = [scorer.score(r, h) for r, h in zip(references, hypotheses, strict=True)]
    values = [[scores[name].fmeasure for scores in found] for name in names]
    return tuple((reports, float(np.mean(reports))) for reports in values)


def _sacrebleu(references: Texts, hypotheses: Texts) -> tuple[Scores, ...]:
    reports = [sacrebleu.corpus_bleu([h], [[r]]).score for r, h in zip(references, hypotheses, strict=True)]
    return ((reports, sacrebleu.corpus_bleu(list(hypotheses), [list(references)]).score),)


def _coco_bleu(references: Texts, hypotheses: Texts) -> tuple[Scores, ...]:
    from pycocoevalcap.bleu.bleu_scorer import BleuScorer

    scorer = BleuScorer(n=4)
    for reference, hypothesis in zip(references, hypotheses, strict=True):
        scorer += (hypothesis, [reference])
    corpus, reports = scorer.compute_score(option="closest")
    return tuple(zip(reports, corpus, strict=True))


def _coco_cider(references: Texts, hypotheses: Texts) -> tuple[Scores, ...]:
    from pycocoevalcap.cider.cider_scorer import CiderScorer

    scorer = CiderScorer(n=4, sigma=6.0)
    for reference, hypothesis in zip(references, hypotheses, strict=True):
        scorer += (hypothesis, [reference])
    corpus, reports = scorer.compute_score()
    return ((list(reports), float(corpus)),)


def _coco_meteor(references: Texts, hypotheses: Texts) -> tuple[Scores, ...]:
    from pycocoevalcap.meteor.meteor import Meteor

    corpus, reports = Meteor().compute_score(
        {index: [text] for index, text in enumerate(references)},
        {index: [text] for index, text in enumerate(hypotheses)},
    )
    return ((reports, corpus),)


def _coco_rouge(references: Texts, hypotheses: Texts) -> tuple[Scores, ...]:
    from pycocoevalcap.rouge.rouge import Rouge

    corpus, reports = Rouge().compute_score(
        {index: [text] for index, text in enumerate(references)},
        {index: [text] for index, text in enumerate(hypotheses)},
    )
    return ((list(reports), float(corpus)),)


def _nltk_bleu_2(references: Texts, hypotheses: Texts) -> tuple[Scores, ...]:
    smooth = SmoothingFunction().method1
    reports = [
        float(sentence_bleu([r.split()], h.split(), (0.5, 0.5), smooth))
        for r, h in zip(references, hypotheses, strict=True)
    ]
    return ((reports, float(np.mean(reports))),)


def spaced_full_stops(texts: Texts) -> list[str]:
    """Return texts as the code of MLRG and SEI prepares them before it scores them with pycocoevalcap."""
    return [re.sub(" +", " ", text.strip().lower().replace(".", " .")) for text in texts]


PUBLISHED = (
    Published("rouge-score", ROUGE, _rouge, list),
    Published("sacrebleu", (SACREBLEU,), _sacrebleu, list),
    Published("pycocoevalcap", BLEU, _coco_bleu),
    Published("pycocoevalcap", (CIDER_D,), _coco_cider),
    Published("pycocoevalcap", R2GEN_BLEU, _coco_bleu, spaced_full_stops),
    Published("pycocoevalcap", (R2GEN_ROUGE_L,), _coco_rouge, spaced_full_stops),
    Published("pycocoevalcap", (R2GEN_CIDER_D,), _coco_cider, spaced_full_stops),
    Published("nltk", (REXRANK_BLEU_2,), _nltk_bleu_2, spaced_full_stops),
    Published("pycocoevalcap", (METEOR,), _coco_meteor),
    Published("pycocoevalcap", (R2GEN_METEOR,), _coco_meteor, spaced_full_stops),
)


@dataclass
class Agreement:
    """How far our metric is from the published one."""

    pairs: int = 0
    report: float = 0.0
    """Largest difference on a report."""
    corpus: float = 0.0
    """Largest difference on a corpus."""

    def add(self, metric: Metric, statistics: np.ndarray, scores: Scores) -> None:
        """Take in a corpus, scored by both."""
        reports, corpus = scores
        self.pairs += len(reports)
        self.report = max(self.report, float(np.abs(metric.score(statistics) - np.asarray(reports)).max()))
        self.corpus = max(self.corpus, abs(float(metric.score(statistics.sum(axis=0))) - corpus))


def ptb_tokens(texts: Texts) -> list[str]:
    """Return COCO's tokens of each text, joined by spaces, from its PTBTokenizer in Java."""
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    os.environ["JAVA_TOOL_OPTIONS"] = JAVA_OPTIONS
    found = PTBTokenizer().tokenize({index: [{"caption": text}] for index, text in enumerate(texts)})
    return [found[index][0] for index in range(len(texts))]


def hypotheses_for(reports: Texts, rng: random.Random) -> Mapping[str, list[str]]:
    """Return generated reports of every kind that a metric may meet, one for each report."""
    permuted = rng.sample(list(reports), len(reports))
    following = [*reports[1:], *reports, *reports]
    neighbours = [*reports[1:], reports[0]]
    return {
        "permuted": permuted,
        "neighbouring": neighbours,
        "itself": list(reports),
        "one sentence changed": list(map(_changed, reports, permuted)),
        "empty": ["" for _ in reports],
        "one word": [report.split()[-1] for report in reports],
        "non-ASCII": [f"Œdème à 5–7 mm² – {report} “naïve” – µ, β; 中文。" for report in reports],
        "very long": [" ".join([report, *following[i : i + 9]]) for i, report in enumerate(reports)],
    }


def _changed(report: str, other: str) -> str:
    sentences = split_sentences(report)
    return " ".join([*sentences[:-1], split_sentences(other)[0]])


def compare(
    reports: Texts,
    published: Sequence[Published] = PUBLISHED,
    tokenize: Callable[[Texts], list[str]] = ptb_tokens,
) -> dict[str, Agreement]:
    """Return the agreement of each metric, by its name; `tokenize` gives COCO's tokens, joined by spaces."""
    agreements = {metric.name: Agreement() for each in published for metric in each.metrics}
    for hypotheses in hypotheses_for(reports, random.Random(SEED)).values():
        for each in published:
            prepare = each.prepare or tokenize
            all_scores = each.score(prepare(reports), prepare(hypotheses))
            for metric, scores in zip(each.metrics, all_scores, strict=True):
                agreements[metric.name].add(metric, metric.statistics(reports, hypotheses), scores)
    return agreements


def seconds(metric: Metric, reports: Texts) -> float:
    """Return the time that `metric` takes for the reports against others."""
    started = time.perf_counter()
    metric(reports, random.Random(SEED).sample(list(reports), len(reports)))
    return time.perf_counter() - started


def read_reports(archive: Path) -> list[str]:
    """Return findings and impression of every report that has some."""
    texts = [
        " ".join(study.sections.get(name, "") for name in ("findings", "impression")).strip()
        for study in OpenISource(reports=archive).studies()
        if isinstance(study, Study)
    ]
    return [text for text in texts if text]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description="Compare the text metrics with the published ones.")
    parser.add_argument("--reports", type=Path, required=True, help="NLMCXR_reports.tgz of OpenI")
    parser.add_argument("--pairs", type=int, default=500, help="reports drawn for each kind of hypothesis")
    given = parser.parse_args(arguments)
    reports = read_reports(given.reports)
    differing = sum(
        list(coco_tokens(text)) != tokens.split()
        for text, tokens in zip(reports, ptb_tokens(reports), strict=True)
    )
    print(f"`coco_tokens` differs from PTBTokenizer on {differing} of {len(reports)} reports.\n")
    drawn = random.Random(SEED).sample(reports, min(given.pairs, len(reports)))
    agreements = compare(drawn)
    many = (reports * (3000 // len(reports) + 1))[:3000]
    print("| Metric | Published | Pairs | Largest difference, report | Corpus | 3,000 reports |")
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    for each in PUBLISHED:
        for metric in each.metrics:
            agreement = agreements[metric.name]
            print(
                f"| {metric.title} | {each.package} {importlib.metadata.version(each.package)} | "
                f"{agreement.pairs:,} | {agreement.report:.1e} | {agreement.corpus:.1e} | "
                f"{seconds(metric, many):.1f} s |"
            )


if __name__ == "__main__":
    main()
