"""Settings of a search for text, from the name of the output that recorded it and from the calls."""

import re

from tests.parity.golden import Case
from xraygpt.models.bert_lm import SearchSettings


def search_settings(case: Case, name: str, start_length: int) -> SearchSettings:
    """``beam4_min8``, for example, is four beams and no end before the eighth token.

    Recorded lengths include the `start_length` given tokens.
    """
    beams = re.match(r"beam(\d+)", name)
    shortest = re.search(r"_min(\d+)", name)
    repetition = re.search(r"_rep(\d+)p(\d+)", name)
    number = int(beams.group(1)) if beams else 1
    everything = name.endswith("_all")
    penalty = r"num_return_sequences=\d+, length_penalty=([\d.]+)"
    return SearchSettings(
        max_new_tokens=int(case.call_number(r"max_length=(\d+)")) - start_length,
        eos_token_id=None if name.endswith("_no_eos") else case.values["eos_token_id"],
        min_length=int(shortest.group(1)) - start_length if shortest else 0,
        num_beams=number,
        num_return_sequences=number if everything else 1,
        length_penalty=case.call_number(penalty) if everything else 1.0,
        repetition_penalty=float(".".join(repetition.groups())) if repetition else 1.0,
    )
