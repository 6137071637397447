"""Texts as the language model is to learn them."""

from __future__ import annotations

from pathlib import Path

from xraygpt.models.llm import load_tokenizer
from xraygpt.models.prompts import caption_rows

CASES = Path(__file__).resolve().parents[1] / "parity" / "cases"


def test_a_caption_that_is_cut_has_no_end() -> None:
    tokenizer = load_tokenizer(CASES)
    (whole,) = caption_rows(tokenizer, ["The heart is normal."], "###", 100)
    assert tokenizer.decode(whole).endswith("normal.###")
    (cut,) = caption_rows(tokenizer, ["The heart is normal."], "###", len(whole) - 2)
    assert cut == whole[:-2]
    assert "#" not in tokenizer.decode(cut)
