"""Put reports into groups by a column: by its values, or by bands of its numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from xraygpt.common.errors import DataError

NOT_KNOWN = "not known"
MOST_VALUES = 8
"""Numbers that take more values than this are put into bands."""
MOST_BANDS = 8
MOST_GROUPS = 50
NUMBER = re.compile(r"(-?\d+(?:\.\d+)?)(?:Y| years?)?")
"""A number, or an age as DICOM (``058Y``) or a person writes it."""


def group_rows(column: str, values: Sequence[str]) -> dict[str, list[int]]:
    """Return the name of each group -> indices of its rows; groups in the order of their values.

    Raises:
        DataError: the column has so many different values that groups say nothing.
    """
    present = sorted({value for value in values if value})
    numbers = {value: _number(value) for value in present}
    if present and all(number is not None for number in numbers.values()):
        known = {value: number for value, number in numbers.items() if number is not None}
        names = (
            _bands(known)
            if len(known) > MOST_VALUES
            else {v: v for v in sorted(known, key=known.__getitem__)}
        )
    else:
        names = {value: value for value in present}
    groups: dict[str, list[int]] = {name: [] for name in names.values()}
    if len(groups) > MOST_GROUPS:
        raise DataError(
            f"subgroups by '{column}': there are {len(groups)} different values; {MOST_GROUPS} are the most"
        )
    for place, value in enumerate(values):
        groups.setdefault(names.get(value, NOT_KNOWN), []).append(place)
    return groups


def _number(text: str) -> float | None:
    match = NUMBER.fullmatch(text)
    return float(match.group(1)) if match else None


def _bands(numbers: dict[str, float]) -> dict[str, str]:
    """Return the band of each value; the bands' width is 1, 2 or 5 times a power of ten."""
    low, high = min(numbers.values()), max(numbers.values())
    exponent = math.floor(math.log10((high - low) / MOST_BANDS))
    widths = (step * 10.0**power for power in (exponent, exponent + 1) for step in (1, 2, 5))
    width = next(w for w in widths if math.floor(high / w) - math.floor(low / w) < MOST_BANDS)
    whole = all(number.is_integer() for number in numbers.values()) and width >= 1
    ordered = sorted(numbers, key=numbers.__getitem__)
    # Rounded because 0.3 / 0.1 is a little less than 3.
    return {value: _band(math.floor(round(numbers[value] / width, 9)), width, whole) for value in ordered}


def _band(number: int, width: float, whole: bool) -> str:
    begin, end = number * width, (number + 1) * width
    return f"{begin:g} to {end - 1:g}" if whole else f"{begin:g} to below {end:g}"
