from __future__ import annotations

import pytest

from xraygpt.preparation.sources.files import image_ids, is_safe_id, stem


@pytest.mark.parametrize("name", ["a", "CXR1_1_IM-0001-3001", "02aa804e-bde0afdd", "a.b", "_x"])
def test_safe_ids(name: str) -> None:
    assert is_safe_id(name)


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "-rf", "a/b", "a b", "ü", "a\n", "x" * 151, "NA"])
def test_unsafe_ids(name: str) -> None:
    assert not is_safe_id(name)


def test_stem_has_no_image_ending() -> None:
    assert [stem(name) for name in ("x/a.png", "a.dcm.PNG", "a.b", "a")] == ["a", "a", "a.b", "a"]


def test_ids_are_stems_as_long_as_these_differ() -> None:
    assert image_ids(["p1/a.png", "p2/b.jpg", "c"]) == {"p1/a.png": "a", "p2/b.jpg": "b", "c": "c"}


def test_equal_stems_get_their_folders() -> None:
    paths = ["p1/s1/view1.jpg", "p2/s1/view1.jpg", "p2/s1/VIEW1.dcm", "p3/other.jpg"]
    ids = image_ids(paths)
    assert ids["p1/s1/view1.jpg"] == "p1_s1_view1"
    assert ids["p3/other.jpg"] == "other"
    assert len({name.casefold() for name in ids.values()}) == 4
    assert ids == image_ids(reversed(paths))


def test_what_no_name_can_hold_gets_a_hash() -> None:
    paths = ["röntgen 1.png", "röntgen  1.png", "x_y.png", "x/y.png", "z/y.png", "/y.png", "../y.png", ".png"]
    ids = image_ids(paths)
    assert len(set(ids.values())) == len(paths)
    assert all(is_safe_id(name) for name in ids.values())
    assert ids["röntgen 1.png"].startswith("r_ntgen_1-")
    assert ids["x_y.png"] == "x_y"
    assert image_ids([f"{'long/' * 60}a b.png"])
