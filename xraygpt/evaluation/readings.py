"""What the labeller reads in reports, each different text read once for all metrics.

Labelling is nearly all the cost of the clinical metrics, and they all ask for the same texts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from xraygpt.evaluation.labeller import Mention, Status, find_mentions, labels_of, sides_of

CACHED_TEXTS = 16384
"""References and generated reports of a test split of 8,000 images; about 2 KiB each."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What a report says of the 14 classes. It is shared: do not change it."""

    mentions: tuple[Mention, ...]
    labels: Mapping[str, Status]
    """See `label_report`."""
    sides: Mapping[str, frozenset[str]]
    """See `finding_sides`: has the asserted classes, "No Finding" excepted."""


@lru_cache(maxsize=CACHED_TEXTS)
def read_report(text: str) -> Reading:
    """Return what a report says."""
    mentions = tuple(find_mentions(text))
    return Reading(mentions, labels_of(mentions) if text.strip() else {}, sides_of(mentions))
