"""Optional stage of a preparation: a chat model rewrites captions, and the labeller checks its answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tqdm import tqdm

from xraygpt.evaluation.labeller import label_report
from xraygpt.preparation.pipeline.progress import Progress
from xraygpt.preparation.reports.chat_rewriting import ChatRewriter, RefusedAnswerError
from xraygpt.preparation.reports.cleaning import LABEL_PRESERVATION, lost_findings

REWRITING = "rewriting"
"""The rule by which captions change here, and are rejected where there is no usable answer."""


def plan_rewriting(progress: Progress, rewriter: ChatRewriter) -> str:
    """Say what `rewrite_captions` would send, without sending it."""
    return rewriter.plan([row["caption"] for _, row in _waiting(progress)])


def rewrite_captions(progress: Progress, rewriter: ChatRewriter) -> None:
    """Rewrite the captions of all kept studies; reject those that lose or gain a positive finding.

    Raises:
        RewritingError: the server cannot be used; what it has answered so far is kept.
    """
    for number, row in tqdm(_waiting(progress), desc="rewriting", unit=" reports", mininterval=1):
        progress.replace_study(number, _rewritten(row, rewriter))


def _waiting(progress: Progress) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, row in progress.studies():
        if row.get("outcome") == "kept" and all(change["rule"] != REWRITING for change in row["changes"]):
            yield number, row


def _rewritten(row: dict[str, Any], rewriter: ChatRewriter) -> dict[str, Any]:
    before = row["caption"]
    try:
        after = rewriter.rewrite(before)
    except RefusedAnswerError as error:
        return row | {"outcome": "rejected", "rule": REWRITING, "detail": str(error), "caption": ""}
    row["changes"].append({"rule": REWRITING, "before": before, "after": after})
    row["labels_after"] = {label: int(status) for label, status in label_report(after).items()}
    if difference := lost_findings(before, after):
        return row | {
            "outcome": "rejected",
            "rule": LABEL_PRESERVATION,
            "detail": difference,
            "caption": "",
        }
    return row | {"caption": after}
