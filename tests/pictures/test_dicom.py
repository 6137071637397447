"""DICOM files of many kinds come out as a viewer would show them."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.pixels.processing import apply_windowing
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    RLELossless,
)

from tests.pictures.dicom_files import SECRETS, chest, dataset, dicom, file_of, lossless_jpeg
from xraygpt.common.errors import DataError
from xraygpt.pictures import grey
from xraygpt.pictures.convert import PictureConfig, RefusedPictureError, convert_picture
from xraygpt.pictures.dicom import read_dicom
from xraygpt.pictures.grey import Picture

GREY = chest()


def read(data: bytes) -> Picture:
    return read_dicom(data, "a.dcm")


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(read(data).image)


def refusal(data: bytes) -> RefusedPictureError:
    with pytest.raises(RefusedPictureError) as caught:
        read(data)
    assert str(caught.value).startswith("a.dcm: ")
    return caught.value


def jpeg(image: np.ndarray, format: str = "JPEG", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format, **options)
    return buffer.getvalue()


def test_8_bits_without_a_window_are_shown_as_they_are() -> None:
    picture = read(dicom(GREY))
    np.testing.assert_array_equal(np.asarray(picture.image), GREY)
    assert (picture.view, picture.notes, picture.publishable_suffix) == ("PA", (), "")


@pytest.mark.parametrize("bits", [10, 12, 15, 16])
def test_a_window_over_the_whole_range_gives_the_picture_back(bits: int) -> None:
    deep = (GREY.astype(np.uint16) << (bits - 8)) + (1 << (bits - 9))
    window = {"WindowCenter": 2 ** (bits - 1), "WindowWidth": 2**bits}
    shown = pixels(dicom(deep, bits=bits, **window))
    assert np.abs(shown.astype(int) - GREY).max() <= 1
    inverted = pixels(dicom(2**bits - 1 - deep, bits=bits, PhotometricInterpretation="MONOCHROME1", **window))
    assert np.abs(inverted.astype(int) - GREY).max() <= 1


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize("signed", [False, True])
def test_the_first_window_is_applied_as_pydicom_does(function: str, signed: bool) -> None:
    deep = GREY.astype(np.int16 if signed else np.uint16) * 16 - (2048 if signed else 0)
    made = dataset(
        deep, bits=12, WindowCenter=[600.5, 9], WindowWidth=[900, 2], VOILUTFunction=function,
        RescaleSlope=0.5, RescaleIntercept=100,
    )  # fmt: skip
    low, high = np.array([-2048, 2047] if signed else [0, 4095]) * 0.5 + 100
    want = (apply_windowing(deep * 0.5 + 100, made) - low) / (high - low) * 255
    assert np.abs(pixels(file_of(made)) - want).max() <= 0.51


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
def test_modality_and_voi_tables(syntax: UID) -> None:
    stored = np.arange(16, dtype=np.uint16).reshape(4, 4)
    modality, voi = Dataset(), Dataset()
    modality.LUTDescriptor, modality.LUTData = [16, 0, 16], [1000 + 10 * n for n in range(16)]
    voi.LUTDescriptor, voi.LUTData = [101, 1020, 12], [40 * n for n in range(101)]
    made = dataset(stored, bits=4, ModalityLUTSequence=Sequence([modality]), VOILUTSequence=Sequence([voi]))
    for item in (modality, voi):
        item["LUTData"].VR = item["LUTDescriptor"].VR = "US"
    want = np.clip((stored * 10.0 - 20), 0, 100) / 100 * 255
    assert np.abs(pixels(file_of(made, syntax)) - want).max() <= 0.51


def test_more_bits_without_a_window_are_stretched_leaving_out_strays_and_padding() -> None:
    deep = np.linspace(1000, 3000, 10_000).round().astype(np.uint16).reshape(100, 100)
    deep[0, 0], deep[0, 1] = 65_000, 3
    deep[50:60] = 60_000
    shown = pixels(dicom(deep, PixelPaddingValue=60_000))
    assert not shown[50:60].any()
    assert (shown[0, 0], shown[0, 1]) == (255, 0)
    assert shown[99, 0] > 245
    assert abs(int(shown[25, 0]) - 64) < 2


def test_padding_is_black_in_monochrome1_too() -> None:
    deep = 4095 - GREY.astype(np.uint16) * 16
    deep[:, :20] = 5
    deep[:, -5:] = 7
    shown = pixels(
        dicom(
            deep, bits=12, PhotometricInterpretation="MONOCHROME1", WindowCenter=2048, WindowWidth=4096,
            PixelPaddingValue=7, PixelPaddingRangeLimit=5,
        )
    )  # fmt: skip
    assert not shown[:, :20].any()
    assert not shown[:, -5:].any()
    assert shown[:, 20:-5].mean() > 40


@pytest.mark.parametrize(
    ("window", "note"),
    [
        ({"WindowCenter": 2000, "WindowWidth": 0}, "unusable"),
        ({"WindowCenter": 2000}, "unusable"),
        ({"WindowCenter": 90_000, "WindowWidth": 10}, "shows nothing"),
    ],
)
def test_an_unusable_window_is_noted_and_left_out(window: dict[str, int], note: str) -> None:
    deep = GREY.astype(np.uint16) * 16
    picture = read(dicom(deep, bits=12, **window))
    assert len(picture.notes) == 1
    assert note in picture.notes[0]
    np.testing.assert_array_equal(np.asarray(picture.image), pixels(dicom(deep, bits=12)))


def test_an_overlay_in_the_upper_bits_is_left_out() -> None:
    deep = GREY.astype(np.uint16) * 16
    window = {"WindowCenter": 2048, "WindowWidth": 4096}
    want = pixels(dicom(deep, bits=12, **window))
    np.testing.assert_array_equal(pixels(dicom(deep | 0x8000, bits=12, **window)), want)
    assert refusal(dicom(deep << 4, bits=12, HighBit=15, **window)).reason == "pixel type is not read"


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian, RLELossless]
)
def test_lossless_syntaxes(syntax: UID) -> None:
    made = dataset(GREY)
    made["PixelData"].VR = "OB"
    if syntax == RLELossless:
        made.compress(syntax, GREY, generate_instance_uid=False)
    np.testing.assert_array_equal(pixels(file_of(made, syntax)), GREY)


def test_jpeg_and_jpeg_2000() -> None:
    baseline = file_of(dataset(GREY), JPEGBaseline8Bit, jpeg(GREY, quality=95))
    assert np.abs(pixels(baseline).astype(int) - GREY).mean() < 3
    deep = GREY.astype(np.uint16) * 16
    window = {"WindowCenter": 2048, "WindowWidth": 4096}
    for syntax, frame in (
        (JPEG2000Lossless, jpeg(deep, "JPEG2000")),
        (JPEGLosslessSV1, lossless_jpeg(deep, 12)),
    ):
        lossless = file_of(dataset(deep, bits=12, **window), syntax, frame)
        np.testing.assert_array_equal(pixels(lossless), pixels(dicom(deep, bits=12, **window)))


def test_colours_become_grey() -> None:
    colour = np.stack([GREY, GREY // 2, GREY // 3], axis=2)
    want = np.asarray(Image.fromarray(colour).convert("L"))
    np.testing.assert_array_equal(pixels(dicom(colour)), want)
    ybr = dataset(colour, PhotometricInterpretation="YBR_FULL_422")
    got = pixels(file_of(ybr, JPEGBaseline8Bit, jpeg(colour, quality=95)))
    assert np.abs(got.astype(int) - want).mean() < 3


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
def test_a_file_without_preamble_and_file_meta(syntax: UID) -> None:
    made = dataset(GREY)
    buffer = io.BytesIO()
    made.save_as(buffer, implicit_vr=syntax.is_implicit_VR, little_endian=True)
    converted = convert_picture(buffer.getvalue(), "a", PictureConfig(keep_size=True))
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(converted.data))), GREY)
    assert converted.notes == (f"no file meta information: read as {syntax.name}",)


def test_equal_pixels_in_dicom_and_png_are_recognised() -> None:
    config = PictureConfig()
    one = convert_picture(dicom(GREY), "a.dcm", config)
    assert one.pixels == convert_picture(jpeg(GREY, "PNG"), "a.png", config).pixels
    assert (one.suffix, one.view, one.width, one.original_height) == (".jpg", "PA", 96, 96)


def test_a_false_monochrome1_tag_is_seen_in_the_pixels() -> None:
    picture = read(dicom(GREY, PhotometricInterpretation="MONOCHROME1"))
    np.testing.assert_array_equal(np.asarray(picture.image), GREY)
    assert "MONOCHROME1" in picture.notes[0]
    inverted = convert_picture(
        dicom(255 - GREY), "a", PictureConfig(keep_size=True)
    )  # MONOCHROME2: only told
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(inverted.data))), 255 - GREY)
    assert "looks inverted" in inverted.notes[0]


@pytest.mark.parametrize("shape", ["INVERSE", "IDENTITY", None])
@pytest.mark.parametrize("interpretation", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("bright_lungs", [True, False])
def test_presentation_lut_shape_counts_where_the_pixels_agree(
    shape: str | None, interpretation: str, bright_lungs: bool
) -> None:
    tags = {"PhotometricInterpretation": interpretation} | ({"PresentationLUTShape": shape} if shape else {})
    picture = read(dicom(255 - GREY if bright_lungs else GREY, **tags))
    inverted = bright_lungs and (interpretation == "MONOCHROME1" or shape == "INVERSE")
    want = 255 - GREY if bright_lungs and not inverted else GREY
    np.testing.assert_array_equal(np.asarray(picture.image), want)
    expected = (interpretation == "MONOCHROME1") != inverted  # the tags were not simply followed
    assert len(picture.notes) == expected


@pytest.mark.parametrize(("interpretation", "inverted"), [("MONOCHROME1", True), ("MONOCHROME2", False)])
def test_where_the_pixels_say_nothing_monochrome1_counts_and_the_shape_does_not(
    interpretation: str, inverted: bool
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (80, 80), dtype=np.uint8)
    picture = read(dicom(noise, PhotometricInterpretation=interpretation, PresentationLUTShape="INVERSE"))
    np.testing.assert_array_equal(np.asarray(picture.image), 255 - noise if inverted else noise)


@pytest.mark.parametrize(
    ("orientation", "stored"),
    [
        (["L", "F"], GREY),
        (["R", "F"], GREY[:, ::-1]),
        (["L", "H"], GREY[::-1]),
        (["F", "L"], GREY.T),
        (["HL", "RF"], GREY[::-1, ::-1].T),
        (["P", "F"], GREY),
        (["A", "H"], GREY[::-1]),
    ],
)
def test_the_picture_is_turned_upright(orientation: list[str], stored: np.ndarray) -> None:
    picture = read(dicom(np.ascontiguousarray(stored), PatientOrientation=orientation))
    np.testing.assert_array_equal(np.asarray(picture.image), GREY)
    assert len(picture.notes) == (orientation[0] not in ("L", "P") or orientation[1] == "H")


def test_an_odd_orientation_is_noted() -> None:
    assert "not understood" in read(dicom(GREY, PatientOrientation=["L", "R"])).notes[0]


def test_damage_is_refused() -> None:
    whole = dicom(GREY)
    assert "truncated" in refusal(whole[:-100]).reason
    packed = file_of(dataset(GREY), JPEGBaseline8Bit, jpeg(GREY))
    assert "truncated" in refusal(packed[:-100]).reason
    assert (
        "truncated" in refusal(file_of(dataset(GREY), JPEG2000Lossless, jpeg(GREY, "JPEG2000")[:200])).reason
    )
    assert refusal(whole[:300])
    broken = dataset(GREY, Rows=0)
    assert refusal(file_of(broken)).reason == "the picture is empty"
    assert refusal(dicom(GREY, PixelData=None)).reason == "no pixel data"
    assert refusal(dicom(GREY, PhotometricInterpretation="PALETTE COLOR")).reason.startswith("photometric")
    assert refusal(dicom(GREY.astype(np.uint32))).reason == "pixel type is not read"
    assert refusal(file_of(dataset(GREY), UID("1.2.840.10008.1.2.4.102"), b"\0\0")).reason == (
        "compression is not read"
    )


def test_too_large_files_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert refusal(dicom(GREY, Rows=65_000, Columns=65_000)).reason == "too many pixels"
    deflated = file_of(dataset(np.zeros((1000, 1000), np.uint8)), DeflatedExplicitVRLittleEndian)
    monkeypatch.setattr("xraygpt.pictures.dicom.MAX_FILE_BYTES", 500_000)
    assert refusal(deflated).reason == "the file is too large"


def test_nothing_about_the_patient_gets_out(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    name = SECRETS[0]
    described = {"StudyDescription": f"Chest of {name}", "SeriesDescription": name, "ProtocolName": name}
    good = dicom(GREY, **described)
    unwanted = [
        dicom(GREY, **(described | elements))
        for elements in (
            {"Modality": name},
            {"BodyPartExamined": name},
            {"PhotometricInterpretation": name},
            {"ViewPosition": name, "NumberOfFrames": 2},
            {"BodyPartExamined": None, "StudyDescription": f"Leg {name}"},
            {"PatientOrientation": [name, name], "Rows": 0},
            {"Rows": 9999},
        )
    ]
    # A value that pydicom quotes when it is read.
    unwanted.append(dicom(GREY, NumberOfFrames="123456789012").replace(b"123456789012", name.encode()))
    capsys.readouterr()  # pydicom warned of the values when they were written
    caplog.clear()
    recwarn.clear()
    caplog.set_level("DEBUG")
    assert name in str(dcmread(io.BytesIO(good)))
    converted = [convert_picture(good, "a.dcm", PictureConfig(keep_size=keep)) for keep in (False, True)]
    errors = [refusal(data) for data in unwanted]
    said = [repr(converted), *map(repr, errors), *map(str, errors), caplog.text, *capsys.readouterr()]
    said += [str(warning.message) for warning in recwarn]
    for secret in (*SECRETS, name[:5]):
        assert not [text for text in said if secret.lower() in text.lower()]
        assert all(secret.encode() not in one.data for one in converted)


def test_what_is_said_about_the_patient_is_not_even_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[Dataset] = []
    monkeypatch.setattr("xraygpt.pictures.dicom.check_wanted", lambda made, *_: (parsed.append(made), ())[1])
    read(dicom(GREY))
    assert "Modality" in parsed[0]
    assert not {"PatientName", "PatientID", "PatientBirthDate", "AccessionNumber", "StudyInstanceUID"} & set(
        parsed[0].dir()
    )


def test_without_the_packages_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "xraygpt.pictures.dicom")
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(DataError, match=r"a\.dcm.*pip install") as caught:
        convert_picture(dicom(GREY), "a.dcm", PictureConfig())
    assert not isinstance(caught.value, RefusedPictureError)
    assert grey.NEEDS_PACKAGES in str(caught.value)
