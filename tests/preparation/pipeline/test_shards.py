"""Shards: what any webdataset reader finds in them, and that they are the same bytes every time."""

from __future__ import annotations

import hashlib
import itertools
import json
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
import webdataset

from tests.toy import write_dataset
from xraygpt.common.errors import DataError, MissingFileError
from xraygpt.datasets.datasets.shard_index import read_index
from xraygpt.preparation.pipeline import shards as module
from xraygpt.preparation.pipeline.shards import write_shards

SMALL = 2 * tarfile.RECORDSIZE


def rows_of(folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((folder / "filter_cap.json").read_text())["annotations"]
    return rows


def rewrite(folder: Path, rows: list[dict[str, Any]]) -> None:
    (folder / "filter_cap.json").write_text(json.dumps({"annotations": rows}))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "shards").iterdir())}


def test_webdataset_reads_every_sample_in_the_order_of_the_annotations(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "d")
    rows = rows_of(folder)
    rows[2] |= {"caption": "Überblähung, größer.", "study_id": "s", "view": "PA"}
    rewrite(folder, rows)
    shards = write_shards(folder, SMALL)
    assert len(shards) > 2
    urls = [str(folder / "shards" / shard.name) for shard in shards]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False, empty_check=False))
    assert [json.loads(sample["json"]) for sample in samples] == rows
    assert [sample["__key__"] for sample in samples] == [row["image_id"] for row in rows]
    for sample in samples:
        assert sample["png"] == (folder / "image" / f"{sample['__key__']}.png").read_bytes()


def test_dots_and_folders_in_ids_make_no_difference_to_webdataset(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "d", train=3, val=0)
    names = ["1.2.840.7", "1.2.840.8%", "p10/" + "long" * 40 + "/é"]
    (folder / "image" / names[2]).parent.mkdir(parents=True)
    for index, name in enumerate(names):
        (folder / "image" / f"x{index}.png").rename(folder / "image" / f"{name}.png")
    rewrite(folder, [{"image_id": name, "caption": "c"} for name in names])
    (shard,) = write_shards(folder)
    path = folder / "shards" / shard.name
    samples = list(webdataset.WebDataset([str(path)], shardshuffle=False))
    assert [json.loads(sample["json"])["image_id"] for sample in samples] == names
    assert [image.image_id for image in shard.images] == names


def test_index_says_what_lies_where(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "d")
    shards = write_shards(folder, SMALL)
    assert read_index(folder / "shards") == shards
    for shard in shards:
        data = (folder / "shards" / shard.name).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (shard.bytes, shard.sha256)
        for image_id, offset, size in shard.images:
            assert data[offset : offset + size] == (folder / "image" / f"{image_id}.png").read_bytes()


def test_size_bound_and_a_sample_that_is_larger(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "d")
    (folder / "image" / "x4.png").write_bytes(bytes(3 * SMALL))
    shards = write_shards(folder, SMALL)
    alone = [shard for shard in shards if shard.bytes > SMALL]
    assert [[image.image_id for image in shard.images] for shard in alone] == [["x4"]]
    for shard, following in itertools.pairwise(shards):
        with tarfile.open(folder / "shards" / shard.name) as tar:
            end = tar.getmembers()[-1].offset_data + tarfile.BLOCKSIZE
        with tarfile.open(folder / "shards" / following.name) as tar:
            next_sample = tar.getmembers()[1].offset_data + tarfile.BLOCKSIZE
        if shard.name[:5] == following.name[:5]:
            assert end + next_sample + 2 * tarfile.BLOCKSIZE > SMALL, "the next sample would have gone in"


def test_a_shard_has_samples_of_one_split(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "d", train=4, val=0)
    rows = rows_of(folder)
    for row, split in zip(rows, ("test", "train", "validate", "train"), strict=True):
        row["split"] = split
    rewrite(folder, rows)
    listed = {shard.name: [image.image_id for image in shard.images] for shard in write_shards(folder)}
    assert listed == {"train-000000.tar": ["x1", "x3"], "val-000000.tar": ["x2"], "test-000000.tar": ["x0"]}
    rewrite(folder, [*rows[1:], {**rows[0], "split": "a/b"}])
    with pytest.raises(DataError, match=r"row \[3\]: the split 'a/b' is none of train, val, test"):
        write_shards(folder)


def test_members_tell_nothing_of_when_and_by_whom(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "d")
    shard, _ = write_shards(folder)
    with tarfile.open(folder / "shards" / shard.name) as tar:
        facts = {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode, m.isfile()) for m in tar}
    assert facts == {(0, 0, 0, "", "", 0o644, True)}


def test_second_run_gives_the_same_bytes_and_removes_what_is_left_over(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "d")
    write_shards(folder, 4096)
    write_shards(folder, SMALL)
    first = contents(folder)
    for path in (folder / "image").iterdir():
        path.touch()
    write_shards(folder, SMALL)
    assert contents(folder) == first
    again = write_dataset(tmp_path / "e")
    write_shards(again, SMALL)
    assert contents(again) == first


def test_killed_writer_leaves_no_index_and_is_made_up_for(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "d")
    write_shards(folder, SMALL)
    whole = contents(folder)
    code = f"""
import os, signal, sys
from pathlib import Path
from xraygpt.preparation.pipeline import shards
note, calls = shards.Member, []
def dying(*facts):
    calls.append(1)
    if len(calls) == 11:
        os.kill(os.getpid(), signal.SIGKILL)
    return note(*facts)
shards.Member = dying
shards.write_shards(Path({str(folder)!r}), {SMALL})
"""
    root = Path(module.__file__).parents[3]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == -9
    left = contents(folder)
    assert "index.json" not in left
    assert any(name.endswith(".tmp") for name in left)
    write_shards(folder, SMALL)
    assert contents(folder) == whole


def test_all_unusable_annotations_are_named_before_anything_is_written(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "d")
    write_shards(folder)
    rows = rows_of(folder)
    (folder / "image" / "x3.png").unlink()
    rewrite(folder, [*rows, rows[5], {"caption": "c"}, {"image_id": "../filter_cap.json", "caption": "c"}])
    with pytest.raises(DataError) as caught:
        write_shards(folder)
    message = str(caught.value)
    assert "4 annotations" in message
    assert "row [3]: no image x3" in message
    assert "row [18]: the image x5 has an annotation already" in message
    assert 'row [19]: the key "image_id" is missing' in message
    assert "row [20]: no image ../filter_cap.json" in message
    assert not (folder / "shards" / "index.json").exists()


def test_no_annotations(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"filter_cap\.json"):
        write_shards(tmp_path)
    rewrite(tmp_path, [])
    with pytest.raises(DataError, match="is empty"):
        write_shards(tmp_path)
