"""Folders in Hugging Face's format."""

from typing import Any

from xraygpt.common.hf_folder import misfit


def test_what_does_not_fit_is_told_apart_from_what_is_of_no_use() -> None:
    report: dict[str, Any] = {
        "missing_keys": {"b.weight", "a.weight"},
        "unexpected_keys": {"rotary.inv_freq"},
        "mismatched_keys": set(),
    }
    found = "missing ['a.weight', 'b.weight'], unexpected ['rotary.inv_freq'], of another size []"
    assert misfit(report) == found
    assert misfit(report, r"^b\.|inv_freq$") == "missing ['a.weight'], unexpected [], of another size []"
    assert misfit(report, r"weight$|inv_freq$") == ""
