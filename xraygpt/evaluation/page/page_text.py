"""How the page about an evaluation writes numbers and settings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from xraygpt.evaluation.protocol import ProtocolCard

UNKNOWN = "–"


def figure(value: float, highest: float = 1.0) -> str:
    """Write a score on a scale that ends at `highest`."""
    if not math.isfinite(value):
        return UNKNOWN
    if highest <= 10:
        return f"{value:.3f}"
    return f"{value:.1f}" if math.isfinite(highest) or abs(value) >= 10 else f"{value:.2f}"


def percent_of(value: float, highest: float) -> str:
    """Write where a value lies on a bar, in per cent of its length."""
    share = value / highest if math.isfinite(value) and math.isfinite(highest) else 0.0
    return f"{100 * min(max(share, 0.0), 1.0):.2f}"


def sort_key(value: float) -> str:
    """Write a number for the sorting of a table; "" if it is not known."""
    return f"{value:.9g}" if math.isfinite(value) else ""


def duration(seconds: float) -> str:
    """Write a wall time: ``3 min 20 s``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def thousands(count: int) -> str:
    """Write a count: ``3,000``."""
    return f"{count:,}"


FILTERS = {
    "figure": figure,
    "percent_of": percent_of,
    "sort_key": sort_key,
    "duration": duration,
    "thousands": thousands,
}


def plain_protocol(protocol: ProtocolCard) -> dict[str, str]:
    """Return the conditions of a protocol by their names for people; settings one per line.

    The metrics and what was not computed have their own places on the page.
    """
    content = protocol.to_dict()
    generation = content.pop("generation")
    own = {key: value for key, value in content.items() if key not in ("metrics", "not_computed")}
    return {_name(key): _words(value) for key, value in (generation | own).items()}


def _name(key: str) -> str:
    words = key.replace("_", " ").replace("sha256", "SHA-256")
    return words[0].upper() + words[1:]


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return "\n".join(f"{key}: {_words(each)}" for key, each in value.items())
    if isinstance(value, list):
        return ", ".join(map(_words, value))
    return thousands(value) if isinstance(value, int) and not isinstance(value, bool) else str(value)
