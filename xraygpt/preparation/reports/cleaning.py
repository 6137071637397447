"""From the sections of a report to the caption of its images, by rules that can be switched one by one.

The rules are those of the reference's data set pages: reports without both sections or with very short ones
are dropped; comparisons with earlier examinations, marks of de-identification and the view are removed;
findings and impression become one text.

A section in capitals, or without any, is first written like others (`SENTENCE_CASE`), and headers within it
go (`HEADERS`). Marks for which only one word fits are replaced by it (`RESTORED_WORDS`). Then each rule that
removes has a test, which says whether it concerns a sentence, and a rewriter. If a rewritten sentence still
fails the test, does not mean the same (`keeps_meaning`) or is no sentence any more (`breaks_off`), it is left
out; if the report would lose a finding by that, the sentence stays as it was published, noted as
`KEPT_FOR_LABEL`. In the end the report is rejected if a mark is left in it, or if its labels changed
(`lost_findings`).

All of this is for English. A report in another language stays as it was published, noted as `NOT_ENGLISH`.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from xraygpt.common.errors import ConfigError
from xraygpt.evaluation.labeller import Status, find_mentions, label_report, sides_of
from xraygpt.evaluation.labeller_lexicon import CLASSES, NO_FINDING
from xraygpt.evaluation.language import check_language
from xraygpt.evaluation.priors import compares_with_prior
from xraygpt.evaluation.sentences import split_sentences
from xraygpt.preparation.reports.comparisons import remove_comparison
from xraygpt.preparation.reports.marks import has_mark, loses_abnormality, remove_marks, restore_words
from xraygpt.preparation.reports.views import forget_unseen, mentions_view, remove_view
from xraygpt.preparation.reports.wording import breaks_off, remove_headers, sentence_case

KEPT_FOR_LABEL = "kept_for_label"
LABEL_PRESERVATION = "label_preservation"
RESTORED_WORDS = "restored_words"
SENTENCE_CASE = "sentence_case"
HEADERS = "headers"
NOT_ENGLISH = "not in English: left as published, without labels"
_REFERS = re.compile(r"(?:this|these|those|it|they)\b", re.IGNORECASE)
_HEADER = re.compile(
    r"(?:(?:right|left|both|bilateral|and|chest|abdomen|pelvis|ankles?|knees?|elbows?|forearms?|wrists?|hands?"
    r"|shoulders?|clavicles?|humerus|femur|tibia|fibula|foot|feet|hips?|ribs?|neck|(?:\w+ )?spine)\b"
    r"[\s.:,/]*)+",
    re.IGNORECASE,
)
"""A sentence that only names the part of the body of the next one."""
Findings = frozenset[tuple[str, str]]


@dataclass
class CleaningConfig:
    """Which reports are kept, and what is taken out of them."""

    require_sections: bool = True
    """Drop a report that has no findings or no impression."""
    min_findings_words: int = 10
    """Drop a report whose findings, as published, have fewer words; 0 for no limit."""
    min_impression_words: int = 2
    """Drop a report whose impression, as published, has fewer words; 0 for no limit."""
    remove_views: bool = True
    """Take out which views were taken."""
    remove_comparisons: bool = True
    """Take out comparisons with earlier examinations; findings stay."""
    remove_marks: bool = True
    """Take out the marks of de-identification (``XXXX``, ``___``); where only one word fits, put it back."""
    join_sections: bool = True
    """One text without headers and without repeated sentences; else ``Findings: ... Impression: ...``."""

    def __post_init__(self) -> None:
        names = ("min_findings_words", "min_impression_words")
        problems = [f"{name}: has to be 0 or more" for name in names if getattr(self, name) < 0]
        if problems:
            raise ConfigError(problems)


@dataclass(frozen=True, slots=True)
class Change:
    """What a rule did to one sentence."""

    rule: str
    before: str
    after: str
    """"" where the sentence was left out."""


@dataclass(frozen=True, slots=True)
class CleanedReport:
    """What became of a report."""

    outcome: Literal["kept", "dropped", "rejected"]
    rule: str = ""
    """Name of the rule that dropped or rejected it."""
    detail: str = ""
    """The reason, for people; `NOT_ENGLISH` for a report that was kept uncleaned."""
    caption: str = ""
    """"" where it was dropped or rejected."""
    changes: tuple[Change, ...] = ()
    labels_before: Mapping[str, int] = field(default_factory=dict)
    """Class -> `Status` of the sections as published, with the words that `restore_words` puts back."""
    labels_after: Mapping[str, int] = field(default_factory=dict)
    """Class -> `Status` of the caption, also of a rejected one."""


class SentenceRule(NamedTuple):
    """A rule that removes something from sentences."""

    name: str
    concerns: Callable[[str], bool]
    rewrite: Callable[[str], str]


SENTENCE_RULES = (
    SentenceRule("remove_views", mentions_view, remove_view),
    SentenceRule("remove_comparisons", compares_with_prior, remove_comparison),
    SentenceRule("remove_marks", has_mark, remove_marks),
)
SECTIONS = ("findings", "impression")


def clean_report(sections: Mapping[str, str], config: CleaningConfig) -> CleanedReport:
    """Turn the sections ``findings`` and ``impression`` into a caption."""
    published = {name: " ".join(sections.get(name, "").replace("<BR>", " ").split()) for name in SECTIONS}
    whole = " ".join(published.values())
    english = check_language([whole], [whole]).english
    texts, changes = published, list[Change]()
    for rule, rewrite in ((SENTENCE_CASE, sentence_case), (HEADERS, remove_headers)) if english else ():
        changes += [Change(rule, text, new) for text in texts.values() if (new := rewrite(text)) != text]
        texts = {name: rewrite(text) for name, text in texts.items()}
    sentences = {name: split_sentences(text) for name, text in texts.items()}
    preparing = [(RESTORED_WORDS, restore_words)] if config.remove_marks else []
    preparing += [("remove_views", forget_unseen)] if config.remove_views else []
    for rule, prepare in preparing if english else ():
        found = itertools.chain.from_iterable(sentences.values())
        changes += [Change(rule, old, new) for old in found if (new := prepare(old)) != old]
        sentences = {name: [prepare(sentence) for sentence in old] for name, old in sentences.items()}
    before = label_report("\n\n".join(map(_joined, sentences.values()))) if english else {}
    reason, detail = _drop_reason(published, config)
    if reason:
        return CleanedReport("dropped", reason, detail, labels_before=before)
    join = join_sections if config.join_sections else _with_headers
    if not english:
        return CleanedReport("kept", "", NOT_ENGLISH, join(sentences))
    cleaned, cleaning = clean_sentences(
        sentences, [rule for rule in SENTENCE_RULES if getattr(config, rule.name)]
    )
    caption = join(cleaned)
    after = label_report(caption)
    rest = ((*changes, *cleaning), before, after)
    if not caption:
        return CleanedReport("dropped", "nothing_left", "no sentence is left", "", *rest)
    if config.remove_marks and (left := [text for text in split_sentences(caption) if has_mark(text)]):
        reason, detail = "remove_marks", f'cannot do without its mark: "{left[0]}"'
    else:
        reason, detail = LABEL_PRESERVATION, _difference(before, after)
    if detail:
        return CleanedReport("rejected", reason, detail, "", *rest)
    return CleanedReport("kept", "", "", caption, *rest)


def _drop_reason(texts: Mapping[str, str], config: CleaningConfig) -> tuple[str, str]:
    """Return the rule that drops a report as it was published, and the reason; "" where none does."""
    missing = [name for name in SECTIONS if not texts[name]]
    # Without any text there is never a caption.
    if missing and (config.require_sections or len(missing) == len(SECTIONS)):
        return "require_sections", f"no {' and no '.join(missing)}"
    for name, text in texts.items():
        rule, count = f"min_{name}_words", len(text.split())
        limit = getattr(config, rule)
        if text and count < limit:
            return rule, f'{name}: words {count}, needed {limit}: "{text}"'
    return "", ""


def lost_findings(before: str, after: str) -> str:
    """Compare what a report says of the 13 classes of findings with what was made of it.

    Only a denial may get lost. What was asserted or left open has to stay just so, and nothing may be
    asserted, left open or denied that was not before.

    Returns:
        "" if they agree, otherwise what differs: ``"Edema: uncertain before, positive after"``.
    """
    return _difference(label_report(before), label_report(after))


def _difference(before: Mapping[str, int], after: Mapping[str, int]) -> str:
    names: dict[int | None, str] = {None: "not mentioned", **{s: s.name.lower() for s in Status}}
    return "; ".join(
        f"{label}: {names[before.get(label)]} before, {names[after.get(label)]} after"
        for label in CLASSES
        if label != NO_FINDING
        and before.get(label) != after.get(label)
        and (before.get(label), after.get(label)) != (Status.NEGATIVE, None)
    )


def clean_sentences(
    sections: Mapping[str, Sequence[str]], rules: Sequence[SentenceRule]
) -> tuple[dict[str, list[str]], tuple[Change, ...]]:
    """Apply rules to all sentences, none at the price of a finding of the report, of its side or of a doubt.

    Returns:
        The sentences that are left, by section, and what was changed.
    """
    names = [name for name, sentences in sections.items() for _ in sentences]
    texts = [sentence for sentences in sections.values() for sentence in sentences]
    wanted = _findings_of(texts)
    changes: list[Change] = []
    lost = ("", -1)  # section and place of a sentence that was left out, although there was something in it
    for place, published in enumerate(texts):
        elsewhere = _findings_of(texts[:place] + texts[place + 1 :])
        if lost == (names[place], place - 1) and _REFERS.match(published) and elsewhere >= wanted:
            changes.append(Change(changes[-1].rule, published, ""))
            texts[place], lost = "", (names[place], place)
        for rule in rules:
            before = texts[place]
            if before and rule.concerns(before):
                after = _apply(rule, before, elsewhere, wanted)
                texts[place] = before if after is None else after
                changes.append(Change(KEPT_FOR_LABEL if after is None else rule.name, before, texts[place]))
                if after == "" and not _REFERS.match(before) and rule.rewrite(before):
                    lost = (names[place], place)
    cleaned: dict[str, list[str]] = {name: [] for name in sections}
    for name, text in zip(names, texts, strict=True):
        if text:
            cleaned[name].append(text)
    return cleaned, tuple(changes)


def _apply(rule: SentenceRule, sentence: str, elsewhere: Findings, wanted: Findings) -> str | None:
    """Return the sentence rewritten or "", whichever first does what it should; None if neither does."""
    rewritten = rule.rewrite(sentence)
    fits = (
        not rule.concerns(rewritten)
        and keeps_meaning(sentence, rewritten)
        and not breaks_off(rewritten, sentence)
    )
    for candidate in (rewritten, "") if fits else ("",):
        thinned = rule.rewrite is remove_marks and loses_abnormality(sentence, candidate)
        if not thinned and _findings_of([candidate]) | elsewhere >= wanted:
            return candidate
    return None


def keeps_meaning(before: str, after: str) -> bool:
    """Tell whether a sentence asserts and doubts the same classes as before, and denies no others.

    The whole report does not show this: if another sentence asserts an effusion, "No effusion." beside it
    takes none away.
    """
    (_, old), (_, new) = _read(before), _read(after)
    return new <= old and all(said in new for said in old if said[1] != Status.NEGATIVE)


@functools.lru_cache(maxsize=8192)  # reports repeat each other's sentences
def _read(sentence: str) -> tuple[Findings, frozenset[tuple[str, Status]]]:
    """Return what must not get lost of a sentence, and all that it says of classes.

    The former are the classes that it asserts, with "" and each of their sides, and those that it doubts.
    """
    mentions = find_mentions(sentence)
    said = frozenset((mention.label, mention.status) for mention in mentions)
    sided = {(label, side) for label, sides in sides_of(mentions).items() for side in ("", *sides)}
    return frozenset(sided | {(label, "?") for label, status in said if status == Status.UNCERTAIN}), said


def _findings_of(sentences: Iterable[str]) -> Findings:
    return frozenset[tuple[str, str]]().union(*(_read(sentence)[0] for sentence in sentences))


def join_sections(sections: Mapping[str, Sequence[str]]) -> str:
    """Return the sentences of all sections as one text, without those that an earlier section has.

    A repeated header, "Left ankle.", stays if the sentence behind it does.
    """
    said, text = set[str](), list[str]()
    for sentences in sections.values():
        fresh = [sentence.lower().rstrip(" .") not in said for sentence in sentences]
        text += [
            _closed(sentence)
            for place, sentence in enumerate(sentences)
            if fresh[place] or (_HEADER.fullmatch(sentence) and any(fresh[place + 1 : place + 2]))
        ]
        said |= {sentence.lower().rstrip(" .") for sentence in sentences}
    return " ".join(text)


def _with_headers(sections: Mapping[str, Sequence[str]]) -> str:
    texts = {name: _joined(sentences) for name, sentences in sections.items()}
    return " ".join(f"{name.capitalize()}: {text}" for name, text in texts.items() if text)


def _joined(sentences: Iterable[str]) -> str:
    return " ".join(map(_closed, sentences))


def _closed(sentence: str) -> str:
    sentence = sentence.rstrip(" .,;:")
    return sentence if sentence.endswith(("!", "?")) else f"{sentence}."
