from __future__ import annotations

import base64
import io
import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from PIL import Image

from tests.preparation.prepared import change, picture, refused, study, write_folder
from xraygpt.preparation.pipeline.shards import write_shards
from xraygpt.preparation.pipeline.summary import (
    ShownPicture,
    Summary,
    marked_change,
    picture_tiles,
    write_page,
)
from xraygpt.preparation.reports.cleaning import KEPT_FOR_LABEL

VOID = {"meta", "br", "img"}


def page_of(folder: Path, rows: list[dict[str, Any]], **options: Any) -> str:
    write_folder(folder, rows)
    summary = Summary(folder / "studies.jsonl", source="openi", **options)
    path = write_page(summary, folder, "cleaning:\n  rule: <script>\n", "python prepare.py openi --out x")
    assert path == folder / "preparation.html"
    return path.read_text(encoding="utf-8")


class Balance(HTMLParser):
    """Checks that every tag is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def words_of(page: str) -> str:
    text = re.sub(r"<style>.*?</style>|<[^>]+>", " ", page, flags=re.DOTALL)
    return " ".join(unescape(text).split())


ROWS = [
    study("a", changes=[change("marks", "XXXX wires <b>seen</b>.", "Wires <b>seen</b>.")]),
    study("b", split="test"),
    refused("c", "min_findings_words", detail="<script>alert('c')</script>"),
    refused("d", "label_preservation", outcome="rejected"),
]


def test_the_page_shows_counts_examples_and_settings(tmp_path: Path) -> None:
    page = page_of(tmp_path / "out", ROWS)
    words = words_of(page)
    assert "Prepared data: openi" in words
    assert "2 images with a report" in words
    assert "Studies read 4" in words
    assert "dropped: min_findings_words 1 25.0 %" in words
    assert "No Finding 100.0 % 100.0 %" in words
    assert "python prepare.py openi --out x" in words
    assert "rule: <script>" in words
    assert "the terms of the data set hold for it too. What" in words
    assert page.count("<img src=") == 2


def test_the_page_asks_nothing_of_a_network_and_runs_nothing(tmp_path: Path) -> None:
    page = page_of(tmp_path / "out", ROWS)
    assert "<script" not in page
    assert not re.search(r"""(?:src|href)=["'](?!data:)""", page)
    assert "@import" not in page
    assert "url(" not in page
    assert "<b>seen" not in page
    assert "&lt;script&gt;alert(&#39;c&#39;)" in page
    balance = Balance()
    balance.feed(page)
    assert balance.open == []


def test_removed_words_are_marked(tmp_path: Path) -> None:
    page = page_of(tmp_path / "out", ROWS)
    assert "<del>XXXX wires</del> <ins>Wires</ins>" in page
    assert marked_change("No acute change.", "") == [("gone", "No acute change.")]
    assert marked_change("Heart is XXXX large.", "Heart is large.") == [
        ("same", "Heart is"),
        ("gone", "XXXX"),
        ("same", "large."),
    ]


def test_a_sentence_kept_for_its_finding_is_not_called_changed(tmp_path: Path) -> None:
    kept = change(KEPT_FOR_LABEL, "Stable effusion.", "Stable effusion.")
    words = words_of(page_of(tmp_path / "out", [study("a", changes=[kept])]))
    assert "kept_for_label left 1 sentences in 1 reports as they were" in words


def test_overlap_of_splits_is_said_first(tmp_path: Path) -> None:
    clean = words_of(page_of(tmp_path / "clean", ROWS))
    assert "no patient, no study and no equal image is in more than one." in clean
    assert "none patients in more than one split" in clean
    rows = [study("a", patient_id="p"), study("b", patient_id="p", split="test")]
    page = page_of(tmp_path / "leaking", rows)
    assert '<p class="verdict false">' in page
    leaking = words_of(page)
    assert "The splits overlap" in leaking
    assert "1 patients in more than one split" in leaking
    assert leaking.index("The splits overlap") < leaking.index("Problems")


def test_patients_that_are_not_named_are_said_to_be_unknown(tmp_path: Path) -> None:
    words = words_of(page_of(tmp_path / "out", [study("a", patient_id="")]))
    assert "no study and no equal image is in more than one; patients are not known." in words
    assert "unknown patients in more than one split" in words


def test_synthetic_data_are_called_so(tmp_path: Path) -> None:
    assert "All images and reports are synthetic" in words_of(page_of(tmp_path / "a", ROWS, synthetic=True))
    assert "synthetic" not in words_of(page_of(tmp_path / "b", ROWS))


def test_a_page_about_reports_alone_has_no_images(tmp_path: Path) -> None:
    rows = [study("a", pictures=[]), study("b", pictures=[])]
    words = words_of(page_of(tmp_path / "out", rows, text_only=True))
    assert "2 reports to train on, without images" in words
    assert "cannot be used" not in words
    assert "Sizes and views" not in words


def test_nothing_at_all_can_be_shown(tmp_path: Path) -> None:
    words = words_of(page_of(tmp_path / "out", []))
    assert "0 images with a report" in words
    assert "No rule changed or refused a report." in words
    assert "No image to show." in words


def test_text_that_utf8_cannot_hold_does_not_stop_the_page(tmp_path: Path) -> None:
    rows = [refused("a", "short", detail="half a \ud800 pair"), study("b", picture("b_1"))]
    assert "half a ? pair" in page_of(tmp_path / "out", rows)


def decode(url: str) -> Image.Image:
    head, _, data = url.partition(",")
    assert head == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


def test_a_tile_is_a_small_jpeg_with_split_and_view(tmp_path: Path) -> None:
    (tmp_path / "image").mkdir()
    Image.new("L", (800, 400), 200).save(tmp_path / "image" / "a.png")
    (tile,) = picture_tiles(tmp_path, [ShownPicture("a", "train", "PA")])
    assert (tile.image_id, tile.caption) == ("a", "train, PA")
    image = decode(tile.url)
    assert image.size == (256, 128)
    assert image.mode == "L"
    assert image.getpixel((10, 10)) == 200


def test_tiles_come_from_shards_too(tmp_path: Path) -> None:
    write_folder(tmp_path / "out", [study("a", picture("a_1"), picture("a_2"))])
    write_shards(tmp_path / "out", 10**6)
    shown = [ShownPicture("a_2", "train", "")]
    loose = picture_tiles(tmp_path / "out", shown)
    (tmp_path / "out" / "image").rename(tmp_path / "elsewhere")
    assert picture_tiles(tmp_path / "out", shown) == loose
    assert loose[0].caption == "train"
    assert decode(loose[0].url).getpixel((0, 0)) == 1


def test_what_cannot_be_read_is_an_empty_tile(tmp_path: Path) -> None:
    (tmp_path / "image").mkdir()
    (tmp_path / "image" / "a.jpg").write_bytes(b"no image")
    shown = [ShownPicture("a", "train", "PA"), ShownPicture("b", "train", "PA")]
    assert [tile.url for tile in picture_tiles(tmp_path, shown)] == ["", ""]
    assert picture_tiles(tmp_path / "nowhere", shown) == []
