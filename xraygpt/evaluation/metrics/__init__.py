"""Metrics of generated reports, each a pure function on strings."""
