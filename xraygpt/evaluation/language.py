"""Tell whether reports are in English, the only language that the labeller and METEOR's tables know.

English is assumed unless a text says otherwise: by its script, by its accents, or by more function words of
other languages than English ones. So ``Normal.`` and telegraphic reports in capitals are English, and so is
the nonsense of an untrained model in Latin letters. References, which people write, are also told by how few
of their words, all together, are English; this finds languages whose function words are not listed here.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from xraygpt.evaluation.metrics.metric import Metric

_ENGLISH = """
    the of and is are there with or to for without has have been not this that which from at be by was were
    may within seen but than these both any other also could can however since although likely consistent
    noted heart lung lungs clear right left chest finding findings size effusion effusions acute disease
    small large mild mildly moderate unchanged opacity opacities lobe lower upper enlarged limits evidence
    bony bones tube line tip shadow cardiomegaly pulmonary abnormality abnormalities change changes view
    views study atelectasis osseous spine rib ribs degenerative airspace borderline prominent process active
    free air base bases zone basilar contours structures mediastinum mediastinal hilar low high old new
    following image worsening hyperinflated hyperinflation increased decreased markings scarring granuloma
    thickening wires place catheter status post cardiac appearance appears grossly visualized demonstrated
    demonstrates
"""
ENGLISH = frozenset(_ENGLISH.split())
"""Words of English reports that the other languages listed here do not have."""
_SHARED = """
    no normal in on an as stable focal edema pneumonia pneumothorax consolidation fracture pleural nodule
    lesion silhouette device devices support opacification congestion impression vascular hernia tortuous
    aorta calcified calcification cardiomediastinal unremarkable emphysema fibrosis portable lateral
"""
SHARED = frozenset(_SHARED.split())
"""Words of English reports that some of them have too."""
_OTHER = """
    el la los las del de en con sin se por para una un es que hay son como sobre derecho derecha izquierdo
    izquierda pulmones corazon neumotorax derrame hallazgos silueta signos
    os um uma da dos das em com sem nao ao direito direita esquerdo esquerda pulmoes
    le les des du est sans avec pas dans une sont au aux sur droite droit gauche epanchement poumons coeur
    der die das und ist nicht kein keine keinen mit ohne von bei auf zu zeigt sich eine einen links rechts
    beidseits erguss herz lunge unauffaellig
    il lo gli della delle nel nella senza di non dei sono destra sinistra polmoni cuore versamento
    het een van met geen zijn rechter linker och ingen inte utan som och ikke og
    nie bez jest oraz ve yok bir ile dan tidak tampak yang pada dengan az nem
"""
OTHER = frozenset(_OTHER.split())
"""Function words of other languages, and their words for what most reports name, without accents."""

MOST_OTHERS = 0.1
"""Share of the reports up to which scores that read English are still given, with a note."""
FEWEST_WORDS, FEWEST_DIFFERENT = 20, 10
LEAST_ENGLISH = 0.15
"""References of so many words of which a smaller share is English are in another language."""
_WORD = re.compile(r"[^\W\d_]{2,}")


@dataclass(frozen=True, slots=True)
class LanguageCheck:
    """How many of a run's reports are in another language than English."""

    reports: int
    references: int
    generated: int
    pairs: int
    """Reports of which either text is."""

    @property
    def english(self) -> bool:
        """Scores that read English mean something."""
        return self.pairs <= MOST_OTHERS * self.reports

    @property
    def note(self) -> str:
        """Say so in a sentence; "" if all are in English."""
        if not self.pairs:
            return ""
        counts = (
            f"{self.references:,} of {self.reports:,} references and {self.generated:,} of the generated "
            "reports are not in English"
        )
        if self.english:
            return f"{counts}; the rule labeller and METEOR cannot read them, yet their scores count them"
        return f"{counts}; scores that read English only are left out"

    def to_dict(self) -> dict[str, Any]:
        """Return what goes into ``scores.json``."""
        counts = {"not_english_references": self.references, "not_english_generated": self.generated}
        return {**counts, "note": self.note}

    def readable(self, metrics: Sequence[Metric]) -> tuple[tuple[Metric, ...], dict[str, str]]:
        """Return the metrics that mean something for such reports, and for each of the others why not."""
        left_out = [metric for metric in metrics if metric.english_only and not self.english]
        reason = "left out, only English can be read and the reports are in another language"
        return tuple(m for m in metrics if m not in left_out), {m.name: reason for m in left_out}


def check_language(references: Sequence[str], generated: Sequence[str]) -> LanguageCheck:
    """Look at the language of both texts of each report."""
    marks = [_is_other(text) for text in references]
    if not any(marks) and _hardly_english(references):
        marks = [True] * len(references)
    found = [_is_other(text) for text in generated]
    pairs = sum(a or b for a, b in zip(marks, found, strict=True))
    return LanguageCheck(len(references), sum(marks), sum(found), pairs)


def is_latin(text: str) -> bool:
    """Tell whether at least half of a text's letters are Latin; a text without letters is."""
    letters = "" if text.isascii() else "".join(filter(str.isalpha, text))
    return 2 * sum(map(_is_latin_letter, letters)) >= len(letters)


def _is_other(text: str) -> bool:
    """Tell whether a text is in another language than English, as far as it shows."""
    if not is_latin(text):
        return True
    words = _words(text)
    # "neumotórax" counts by its accent, whether its word is known or not.
    others = sum(word in OTHER or not word.isascii() for word in words)
    return others > sum(word in ENGLISH for word in words)


def _hardly_english(texts: Sequence[str]) -> bool:
    words = [word for text in texts for word in _words(text)]
    if len(words) < FEWEST_WORDS or len(set(words)) < FEWEST_DIFFERENT:
        return False
    return sum(word in ENGLISH or word in SHARED for word in words) < LEAST_ENGLISH * len(words)


def _words(text: str) -> list[str]:
    return _WORD.findall(unicodedata.normalize("NFC", text).lower().replace("µ", "u"))


@cache
def _is_latin_letter(letter: str) -> bool:
    return letter.isascii() or unicodedata.name(letter, "").startswith(("LATIN", "MICRO"))
