"""Which DICOM files are wanted, and what their tags say about the view."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.sequence import Sequence

from tests.pictures.dicom_files import dataset
from xraygpt.pictures.dicom import check_wanted, view_of
from xraygpt.pictures.grey import RefusedPictureError

PIXELS = np.zeros((4, 4), np.uint8)


@pytest.mark.parametrize(
    ("elements", "reason"),
    [
        ({"Modality": "CT"}, "modality is CT"),
        ({"Modality": "XYZZY"}, "modality is none of CR, DX, RG"),
        ({"BodyPartExamined": "EXTREMITY"}, "body part is EXTREMITY"),
        ({"BodyPartExamined": "T SPINE"}, "body part is TSPINE"),
        ({"BodyPartExamined": "THORACIC SPINE"}, "body part is not the chest"),
        ({"BodyPartExamined": "", "StudyDescription": "XR Knee 2 views"}, "description says KNEE"),
        ({"BodyPartExamined": "UNKNOWN", "SeriesDescription": "both hands"}, "description says HAND"),
        ({"NumberOfFrames": 2}, "several frames"),
        ({"PixelData": None}, "no pixel data"),
    ],
)
def test_refusals(elements: dict[str, Any], reason: str) -> None:
    with pytest.raises(RefusedPictureError) as caught:
        check_wanted(dataset(PIXELS, **elements), "a.dcm", refuse_burnt_in=False)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("elements", "notes"),
    [
        ({"Modality": "CR"}, ()),
        ({"Modality": "RG", "BodyPartExamined": "THORAX", "NumberOfFrames": 1}, ()),
        ({"BodyPartExamined": "CHEST_ABDOMEN", "StudyDescription": "CHEST AND ABDOMEN"}, ()),
        ({"BodyPartExamined": None, "StudyDescription": "CHEST, left arm up"}, ("body part is not given",)),
        ({"StudyDescription": "Pelvis trauma"}, ("description says PELVIS, body part says chest",)),
        ({"Modality": None}, ("modality is not given",)),
        ({"BurnedInAnnotation": "YES"}, ("declares burnt-in annotation",)),
        ({"BurnedInAnnotation": "NO"}, ()),
        ({"PresentationIntentType": "FOR PROCESSING"}, ("raw image, not processed for viewing",)),
    ],
)
def test_notes(elements: dict[str, Any], notes: tuple[str, ...]) -> None:
    assert check_wanted(dataset(PIXELS, **elements), "a.dcm", refuse_burnt_in=False) == notes


def test_burnt_in_annotation_is_refused_on_request() -> None:
    with pytest.raises(RefusedPictureError, match="burnt-in"):
        check_wanted(dataset(PIXELS, BurnedInAnnotation="YES"), "a.dcm", refuse_burnt_in=True)


@pytest.mark.parametrize(
    ("position", "meaning", "view"),
    [
        ("PA", "", "PA"),
        ("AP", "postero-anterior", "AP"),
        ("LAT", "", "LATERAL"),
        ("LL", "", "LL"),
        ("", "postero-anterior", "PA"),
        ("", "Antero-posterior projection", "AP"),
        ("XYZ", "left lateral", "LATERAL"),
        ("", "", ""),
        ("JONES", "", ""),
    ],
)
def test_view(position: str, meaning: str, view: str) -> None:
    made = dataset(PIXELS, ViewPosition=position)
    if meaning:
        code = Dataset()
        code.CodeMeaning = meaning
        made.ViewCodeSequence = Sequence([code])
    assert view_of(made) == view


@pytest.mark.parametrize(("position", "view"), [("PA", "PA"), ("HFS", ""), ("", "")])
def test_view_in_the_tag_of_tomography(position: str, view: str) -> None:
    assert view_of(dataset(PIXELS, ViewPosition="", PatientPosition=position)) == view


def test_the_tag_of_tomography_comes_last() -> None:
    assert view_of(dataset(PIXELS, ViewPosition="LATERAL", PatientPosition="AP")) == "LATERAL"
