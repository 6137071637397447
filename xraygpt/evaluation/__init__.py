"""Evaluation of reports: labels, metrics, statistics, protocol and pages; no weights, no network."""
