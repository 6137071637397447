"""One report of the OpenI collection: an XML file of the archive ``NLMCXR_reports.tgz``."""

from __future__ import annotations

from dataclasses import dataclass
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from xraygpt.common.errors import DataError
from xraygpt.preparation.sources.members import printable
from xraygpt.preparation.sources.names import is_safe_id

ROOT = "eCitation"
TEXTS = "MedlineCitation/Article/Abstract/AbstractText"


@dataclass(frozen=True, slots=True)
class OpenIReport:
    """What a file says."""

    study_id: str
    """``CXR1``."""
    sections: dict[str, str]
    """Label in lower case -> text, whitespace joined. Text without a label is ``unlabelled``."""
    image_ids: tuple[str, ...]
    """``CXR1_1_IM-0001-3001``; each once, in the file's order; whatever the file says, unchecked."""


def parse_report(data: bytes) -> OpenIReport:
    """Read one XML file. Entities are refused, so it cannot grow in memory or reach for other files.

    Raises:
        DataError: not XML, hostile, or not a report of this collection; says why.
    """
    try:
        root = fromstring(data)
    except ParseError as error:
        raise DataError(f"broken XML ({error})") from error
    except DefusedXmlException as error:
        raise DataError(f"XML with entities, refused ({printable(str(error))})") from error
    except (ValueError, LookupError, RecursionError) as error:  # an encoding that nobody knows, and the like
        raise DataError(f"unreadable XML ({error})") from error
    if root.tag != ROOT:
        raise DataError(f"the root element is <{printable(str(root.tag))}>, not <{ROOT}>")
    study = root.find("uId")
    study_id = "" if study is None else study.get("id", "").strip()
    if not is_safe_id(study_id):
        raise DataError(f"<uId> gives no usable study id ({printable(study_id) or 'none'})")
    images = (image.get("id", "").strip() for image in root.iter("parentImage"))
    return OpenIReport(study_id, _sections(root), tuple(dict.fromkeys(images)))


def _sections(root: Element) -> dict[str, str]:
    texts: dict[str, list[str]] = {}
    for element in root.iterfind(TEXTS):
        label = " ".join(element.get("Label", "").lower().split()) or "unlabelled"
        texts.setdefault(label, []).extend(" ".join(element.itertext()).split())
    return {label: " ".join(words) for label, words in texts.items()}
