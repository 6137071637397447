"""COCO's tokens. The expected ones are what PTBTokenizer and COCO's list of punctuation give."""

from __future__ import annotations

import pytest

from xraygpt.evaluation.metrics.tokens import coco_tokens, r2gen_text, r2gen_tokens, rexrank_tokens

EXPECTED = {
    "The heart is normal.": "the heart is normal",
    "Well-expanded, clear lungs; T12-L1 (5-10 mm).": "well-expanded clear lungs t12-l1 -lrb- 5-10 mm -rrb-",
    "A 2.5 x 3 cm nodule, 8mm, .5 cm, 10,000.": "a 2.5 x 3 cm nodule 8mm .5 cm 10,000",
    "and/or AP/PA s/p XXXX/XXXX": "and/or ap/pa s/p xxxx/xxxx",
    "1/2 on 10/12/2004, 1-1/2 w/ a / b": "1/2 on 10/12/2004 1-1/2 w / a / b",
    "Patient's lungs don't, cannot and can't; XXXX's.": "patient 's lungs do n't can not and ca n't xxxx 's",
    "Dr. Smith at 7 a.m. by CT. Mass. No mass.": "dr. smith at 7 a.m. by ct. mass. no mass",
    "No. 5 and fig. 2. No effusion": "no. 5 and fig. 2 no effusion",
    "Segment A. The lobe A. is": "segment a the lobe a. is",
    "1. Normal. 2) Clear. 3., Stable": "1 normal 2 -rrb- clear 3. stable",
    "___-year-old with ___'s, ____.": "___ year-old with ___ 's ____",
    "effusion.The heart": "effusion.the heart",
    "naïve “quoted” – µm 5° ±2 cm² ½": "naïve quoted µm 5 ° ± 2 cm ² 1/2",
    "+/- >5 % <br> &lt;5 [x]": "+ / > 5 % <br> < 5 -lsb- x -rsb-",
    "wait... what?! ?? ok?": "wait what ?! ?? ok",
    "a --- b - c": "a b c",
    "line\none\ttwo\u00a0three": "line one two three",
    "😀 中文": "中文",
    "Gonna, wanna, 'tis; gonnas": "gon na wan na 't is gonnas",
    "see http://a.b/c?d=e, www.nih.gov or dr.who@hosp.example.com": (
        "see http://a.b/c?d=e www.nih.gov or dr.who@hosp.example.com"
    ),
    "#3 and @home #tag": "# 3 and @home #tag",
    "": "",
}


@pytest.mark.parametrize(("text", "tokens"), EXPECTED.items())
def test_tokens(text: str, tokens: str) -> None:
    assert list(coco_tokens(text)) == tokens.split()


def test_protocols_space_out_the_full_stop_and_nothing_else() -> None:
    text = " Heart, lungs: normal.\nNo 3.5 cm nodule. "
    assert r2gen_text(text) == "heart, lungs: normal . no 3 .5 cm nodule ."
    assert rexrank_tokens("Normal.\nNo  nodule.") == ["normal", ".¶no", "nodule", "."]


def test_reports_that_r2gen_writes_stay_as_they_are() -> None:
    cleaned = "the heart is normal . no effusion or <unk> seen ."
    assert r2gen_text(cleaned) == cleaned
    assert r2gen_tokens(cleaned) == cleaned.split()
