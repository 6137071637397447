"""A preparation as a whole: what it writes, what it goes on from, what it refuses."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.preparation.toy_source import FINDINGS, IMPRESSION, ToySource, hashes, toy_study
from xraygpt.common.errors import DataError
from xraygpt.preparation.pipeline import run
from xraygpt.preparation.pipeline.run import Job, PreparationConfig, plan, prepare
from xraygpt.preparation.pipeline.verify import verify_folder
from xraygpt.preparation.reports.chat_rewriting import RefusedAnswerError, RewritingConfig, RewritingError
from xraygpt.preparation.study import Picture, Study, Unusable


def job(tmp_path: Path, *items: Study | Unusable, **changes: Any) -> Job:
    made = Job(ToySource(items), {"table": "toy"}, PreparationConfig(), tmp_path / "out", with_images=True)
    return dataclasses.replace(made, **changes)


@pytest.fixture
def studies(tmp_path: Path) -> list[Study]:
    return [toy_study(tmp_path / "raw", number) for number in range(4)]


def annotations(folder: Path) -> list[dict[str, str]]:
    rows: list[dict[str, str]] = json.loads((folder / "filter_cap.json").read_text())["annotations"]
    return rows


def record(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "studies.jsonl").read_text().splitlines()]


def test_the_folder_is_what_a_builder_reads(tmp_path: Path, studies: list[Study]) -> None:
    prepare(job(tmp_path, dataclasses.replace(studies[0], patient_id="p7"), *studies[1:]))
    folder = tmp_path / "out"
    names = {
        "filter_cap.json",
        "image",
        "studies.jsonl",
        "preparation.json",
        "preparation.html",
        "SHA256SUMS",
    }
    assert {path.name for path in folder.iterdir()} == names
    rows = annotations(folder)
    assert [row["image_id"] for row in rows] == ["i0", "i1", "i2", "i3"]
    assert rows[0]["study_id"] == "s0"
    assert rows[0]["view"] == "PA"
    assert [row.get("patient_id") for row in rows] == ["p7", None, None, None]
    assert "left pleural effusion" in rows[0]["caption"]
    assert {path.name for path in (folder / "image").iterdir()} == {f"i{n}.jpg" for n in range(4)}
    assert not verify_folder(folder).problems


def test_checksums_are_those_of_the_files(tmp_path: Path, studies: list[Study]) -> None:
    prepare(job(tmp_path, *studies))
    lines = (tmp_path / "out" / "SHA256SUMS").read_text().splitlines()
    stated = {name: digest for digest, name in (line.split("  ") for line in lines)}
    found = hashes(tmp_path / "out")
    assert stated == {name: found[name] for name in stated}
    assert len(stated) == 6  # two files and four images


def test_every_item_is_in_the_record(tmp_path: Path, studies: list[Study]) -> None:
    short = toy_study(tmp_path / "raw", 9, findings="Too short.")
    prepare(job(tmp_path, Unusable("x.xml", "broken"), short, *studies))
    rows = record(tmp_path / "out")
    assert rows[0] == {"unusable": "x.xml", "reason": "broken"}
    assert (rows[1]["outcome"], rows[1]["rule"]) == ("dropped", "min_findings_words")
    assert "pictures" in rows[1]
    assert [row["outcome"] for row in rows[2:]] == ["kept"] * 4
    assert rows[2]["pictures"][0]["sha256"]


def test_an_unreadable_image_is_listed_and_its_study_dropped(tmp_path: Path, studies: list[Study]) -> None:
    assert studies[1].pictures[0].file is not None
    studies[1].pictures[0].file.write_bytes(b"no image")
    prepare(job(tmp_path, *studies))
    row = record(tmp_path / "out")[1]
    assert (row["outcome"], row["rule"]) == ("dropped", "no_usable_picture")
    assert row["pictures"][0]["outcome"] == "refused"
    assert len(annotations(tmp_path / "out")) == 3


def test_an_image_id_belongs_to_one_study(tmp_path: Path, studies: list[Study]) -> None:
    other = dataclasses.replace(studies[0], study_id="other")
    prepare(job(tmp_path, *studies, other))
    assert len(annotations(tmp_path / "out")) == 4
    assert (
        record(tmp_path / "out")[-1]["pictures"][0]["reason"] == "an image of another study has the same id"
    )


def test_reports_alone(tmp_path: Path, studies: list[Study]) -> None:
    prepare(job(tmp_path, *studies, with_images=False))
    assert not (tmp_path / "out" / "image").exists()
    assert [row["image_id"] for row in annotations(tmp_path / "out")] == ["s0", "s1", "s2", "s3"]


class Archive:
    """Images that come in an order of their own."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.skipped_members = [Unusable("../evil.png", "leads out of the archive")]
        self.asked: list[frozenset[str]] = []

    def picture_files(self, wanted: frozenset[str]) -> Iterator[tuple[str, bytes]]:
        self.asked.append(wanted)
        yield from ((name, data) for name, data in self.files.items() if name in wanted)


def test_images_from_an_archive(tmp_path: Path, studies: list[Study]) -> None:
    files = {s.pictures[0].image_id: s.pictures[0].file.read_bytes() for s in studies if s.pictures[0].file}
    packed = [
        dataclasses.replace(study, pictures=(Picture(study.pictures[0].image_id, None),)) for study in studies
    ]
    archive = Archive({name: files[name] for name in ("i2", "i0", "i1")})
    prepare(job(tmp_path, *packed, stream=archive))
    assert archive.asked == [{"i0", "i1", "i2", "i3"}]
    assert [row["image_id"] for row in annotations(tmp_path / "out")] == ["i0", "i1", "i2"]
    rows = record(tmp_path / "out")
    assert rows[3]["pictures"][0]["reason"] == "not among the images"
    assert rows[4] == {"unusable": "../evil.png", "reason": "leads out of the archive"}


def test_a_finished_folder_is_left_alone(tmp_path: Path, studies: list[Study]) -> None:
    assert prepare(job(tmp_path, *studies)) is not None
    before = hashes(tmp_path / "out")
    assert prepare(job(tmp_path, *studies)) is None
    assert hashes(tmp_path / "out") == before


def test_nothing_left_says_why(tmp_path: Path) -> None:
    short = toy_study(tmp_path / "raw", 0, findings="Too short.")
    with pytest.raises(DataError, match=r"nothing is left[\s\S]*min_findings_words"):
        prepare(job(tmp_path, short))


class PowerCutError(Exception):
    """Stands for an end without warning."""


@pytest.mark.parametrize("shard_bytes", [None, 4000])
@pytest.mark.parametrize(
    "last_words", ["convert_pictures", "write_files", "write_shards", "write_checksums", "write_page"]
)
def test_an_interrupted_preparation_gives_the_same_files(
    tmp_path: Path,
    studies: list[Study],
    monkeypatch: pytest.MonkeyPatch,
    last_words: str,
    shard_bytes: int | None,
) -> None:
    prepare(job(tmp_path, *studies, output=tmp_path / "whole", shard_bytes=shard_bytes))
    function: Callable[..., Any] = getattr(run, last_words)

    def stop(*arguments: Any, **options: Any) -> None:
        function(*arguments, **options)
        raise PowerCutError

    interrupted = job(tmp_path, *studies, output=tmp_path / "stopped", shard_bytes=shard_bytes)
    with monkeypatch.context() as patch:
        patch.setattr(run, last_words, stop)
        if shard_bytes is not None or last_words != "write_shards":
            with pytest.raises(PowerCutError):
                prepare(interrupted)
    prepare(interrupted)
    assert hashes(tmp_path / "stopped") == hashes(tmp_path / "whole")
    assert (tmp_path / "stopped" / "image").exists() == (shard_bytes is None)
    assert not verify_folder(tmp_path / "stopped").problems


def test_a_lost_image_is_written_again(
    tmp_path: Path, studies: list[Study], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any) -> None:
        raise PowerCutError

    with monkeypatch.context() as patch:
        patch.setattr(run, "write_files", stop)
        with pytest.raises(PowerCutError):
            prepare(job(tmp_path, *studies))
    (tmp_path / "out" / "image" / "i1.jpg").unlink()
    (tmp_path / "out" / "image" / "i2.jpg").write_bytes(b"cut")
    prepare(job(tmp_path, *studies))
    assert not verify_folder(tmp_path / "out").problems


class FakeRewriter:
    """Answers without a server."""

    answers: list[str | Exception]
    sent: list[str]

    def __init__(self, config: RewritingConfig, cache: Path) -> None: ...

    def plan(self, texts: list[str]) -> str:
        return f"{len(texts)} reports"

    def rewrite(self, text: str) -> str:
        self.sent.append(text)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def test_rewriting(tmp_path: Path, studies: list[Study], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "ChatRewriter", FakeRewriter)
    good = "Normal heart, clear lungs, a small left pleural effusion."
    FakeRewriter.sent = []
    FakeRewriter.answers = [good, RewritingError("the server is away")]
    rewriting = job(tmp_path, *studies, config=PreparationConfig(rewriting=RewritingConfig(model="m")))
    assert plan(rewriting) == "4 reports"
    assert FakeRewriter.sent == []
    with pytest.raises(RewritingError):
        prepare(rewriting)
    assert plan(rewriting) == "3 reports"
    FakeRewriter.answers = ["Clear lungs, nothing else.", RefusedAnswerError("cut off"), good]
    prepare(rewriting)
    assert len(FakeRewriter.sent) == 5
    assert [row["caption"] for row in annotations(tmp_path / "out")] == [good, good]
    rows = record(tmp_path / "out")
    assert [row["rule"] for row in rows] == ["", "label_preservation", "rewriting", ""]
    assert "Pleural Effusion" in rows[1]["detail"]
    assert rows[0]["changes"][-1]["rule"] == "rewriting"


def test_the_toy_report_is_one_that_cleaning_leaves_alone(tmp_path: Path, studies: list[Study]) -> None:
    prepare(job(tmp_path, *studies))
    assert FINDINGS in annotations(tmp_path / "out")[0]["caption"]
    assert IMPRESSION in annotations(tmp_path / "out")[0]["caption"]
