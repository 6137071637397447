"""Metrics: pure functions on strings."""

from xraygpt.evaluation.findings import extract_detailed_findings, extract_findings
from xraygpt.evaluation.scores import micro_f1, score_reports

__all__ = ["extract_detailed_findings", "extract_findings", "micro_f1", "score_reports"]
