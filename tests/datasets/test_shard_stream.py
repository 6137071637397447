"""Training and evaluation on shards behind addresses: each sample once a pass, or a line that says why."""

from __future__ import annotations

import functools
import gzip
import json
import logging
import multiprocessing
import os
import shutil
import tarfile
import threading
from argparse import Namespace
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
import webdataset
import yaml

from tests.toy import metrics_of, write_config, write_dataset
from xraygpt.common.errors import ConfigError, DataError
from xraygpt.datasets.batch import Batch
from xraygpt.datasets.builders.base_dataset_builder import BuildInfo, DatasetConfig
from xraygpt.datasets.builders.image_text_pair_builder import MIMICBuilder
from xraygpt.datasets.datasets import streamed
from xraygpt.datasets.datasets.base_dataset import BaseDataset
from xraygpt.datasets.datasets.streamed import StreamedDataset, read_shard
from xraygpt.datasets.shard_stream import ShardStream
from xraygpt.datasets.stream import BatchLoader, EvalStream, TrainStream, train_stream
from xraygpt.preparation.pipeline.shards import write_shards
from xraygpt.runners.launch import launch
from xraygpt.runners.run_folder import LAST

TRAIN = "train-{000000..000003}.tar"


class Handler(SimpleHTTPRequestHandler):
    """Serves files; of those in `server.drops` only half as often as it says there, then it hangs up."""

    def do_GET(self) -> None:
        server: Any = self.server
        name = self.path.lstrip("/")
        server.asked.append(name)
        if server.drops.get(name, 0) == 0:
            super().do_GET()
            return
        server.drops[name] -= 1
        content = Path(self.directory, name).read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2])

    def log_message(self, *args: object) -> None:
        """Stay silent."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four shards of four samples for training, one of five (and a second one) for validation."""
    storage = write_dataset(tmp_path / "d", train=16, val=5)
    shards = write_shards(storage, tarfile.RECORDSIZE)
    assert [shard.name for shard in shards if len(shard.images) == 4][:4] == [
        f"train-00000{i}.tar" for i in range(4)
    ]
    return storage / "shards"


@pytest.fixture
def server(folder: Path) -> Iterator[Any]:
    made: Any = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
    made.asked, made.drops, made.url = [], {}, f"http://127.0.0.1:{made.server_port}/"
    thread = threading.Thread(target=made.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamed, "PAUSE", 0.0)


def build(shards: Any, **config: Any) -> dict[str, Any]:
    node = {"train": {"name": "blip2_image_train", "image_size": 8}}
    info = BuildInfo(shards=shards, shuffle_buffer=config.pop("shuffle_buffer", 4))
    return MIMICBuilder(DatasetConfig(build_info=info, vis_processor=node, **config)).build_datasets()


def stream(shards: Any, rank: int = 0, world_size: int = 1, **config: Any) -> ShardStream:
    return ShardStream(build(shards, **config)["train"], 2, 3, rank, world_size, prompts=["a", "b", "c"])


def load(source: Any, count: int, first: int = 0, workers: int = 0) -> list[Batch]:
    return list(islice(BatchLoader(source, first=first, num_workers=workers), count))


def ids(batches: list[Batch]) -> list[str]:
    return [image_id for batch in batches for image_id in batch["image_id"]]


def same(one: list[Batch], other: list[Batch]) -> bool:
    return len(one) == len(other) and all(
        a["image_id"] == b["image_id"] and a["prompt"] == b["prompt"] and torch.equal(a["image"], b["image"])
        for a, b in zip(one, other, strict=True)
    )


def everything(count: int = 16) -> list[str]:
    return sorted(f"x{index}" for index in range(count))


def in_rank(rank: int, shards: str, count: int, sender: Any) -> None:
    os.environ.update(RANK=str(rank), WORLD_SIZE="2")
    sender.send([batch["image_id"] for batch in load(stream(shards, rank, 2), count, workers=2)])


def test_each_sample_once_a_pass_over_two_processes_of_two_loading_processes(server: Any) -> None:
    context = multiprocessing.get_context("fork")
    receivers, processes = [], []
    for rank in range(2):
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=in_rank, args=(rank, server.url + TRAIN, 8, sender))
        process.start()
        receivers.append(receiver)
        processes.append(process)
    assert all(receiver.poll(60) for receiver in receivers)
    batches = [receiver.recv() for receiver in receivers]
    for process in processes:
        process.join(20)
    passes = [
        [image_id for of_rank in batches for batch in of_rank[start : start + 4] for image_id in batch]
        for start in (0, 4)
    ]
    assert [sorted(each) for each in passes] == [everything(), everything()]
    assert passes[0] != passes[1]


def test_order_is_mixed_across_shards_and_fixed(server: Any) -> None:
    one = load(stream(server.url + TRAIN, shuffle_buffer=1000), 16)
    assert sorted(ids(one[:8])) == sorted(ids(one[8:])) == everything()
    assert ids(one[:8]) != ids(one[8:])
    assert ids(one[:2]) not in [[f"x{4 * shard + i}" for i in range(4)] for shard in range(4)]
    assert same(one, load(stream(server.url + TRAIN, shuffle_buffer=1000), 16))
    assert len({batch["prompt"] for batch in one}) == 3


@pytest.mark.parametrize(("workers", "first"), [(0, 5), (2, 5), (2, 13)])
def test_with_an_index_a_training_resumes_exactly(server: Any, workers: int, first: int) -> None:
    whole = load(stream(server.url + TRAIN), 20, workers=workers)
    assert same(load(stream(server.url + TRAIN), 20 - first, first, workers), whole[first:])


def test_only_the_present_pass_is_read_again(server: Any) -> None:
    source = stream(server.url + TRAIN)
    server.asked.clear()
    load(source, 1, first=8 * 100 + 1)
    assert len(server.asked) <= 4


def test_without_an_index_a_new_pass_begins(server: Any, folder: Path, caplog: Any) -> None:
    (folder / "index.json").unlink()
    source = stream(server.url + TRAIN)
    with pytest.raises(ConfigError, match=r"no index\.json beside them: set run\.iters_per_epoch"):
        source.one_pass()
    with caplog.at_level(logging.WARNING):
        rest = load(source, 8, first=3)
    assert "goes on with a new pass" in caplog.text
    assert sorted(ids(rest)) == everything()
    assert ids(rest) != ids(load(stream(server.url + TRAIN), 8))
    assert stream(server.url + TRAIN, data_type="text").dataset.extent() == "4 shards"


@pytest.mark.parametrize("content", [None, b"<!DOCTYPE html><html>Log in</html>"])
def test_what_answers_in_place_of_an_index(server: Any, folder: Path, content: bytes | None) -> None:
    assert stream(server.url + TRAIN + "?signed=1").dataset.extent() == "16 in 4 shards"
    (folder / "index.json").unlink()
    if content is not None:
        (folder / "index.json").write_bytes(content)
    assert stream(server.url + TRAIN).dataset.extent() == "4 shards"


def test_index_that_cannot_be_asked_for_is_not_taken_for_none() -> None:
    with pytest.raises(DataError, match=r"^http://127\.0\.0\.1:9/index\.json: curl: \(7\) [^\n]*$"):
        build("http://127.0.0.1:9/train-000.tar")


def test_index_says_how_long_a_pass_is(server: Any) -> None:
    source = stream(server.url + TRAIN)
    assert (source.one_pass(), source.dataset.extent()) == (8, "16 in 4 shards")


def test_dropped_connection_is_made_up_for(server: Any, caplog: Any) -> None:
    server.drops["train-000002.tar"] = 2
    source = stream(server.url + TRAIN)
    assert sorted(ids(load(source, 8))) == everything()
    assert server.asked.count("train-000002.tar") == 3
    assert f"{server.url}train-000002.tar: curl: (18)" in caplog.text
    assert "opened again in 0 s, after sample " in caplog.text


def test_connection_that_drops_again_and_again_is_named(server: Any) -> None:
    server.drops["train-000002.tar"] = 100
    with pytest.raises(DataError, match=r"train-000002\.tar: curl: \(18\) [^\n]*, 6 times in a row$"):
        load(stream(server.url + TRAIN), 8, workers=2)
    assert server.asked.count("train-000002.tar") >= 4


def page(folder: Path) -> None:
    (folder / "train-000000.tar").write_text("<!DOCTYPE html>\n<html>Log in</html>")


def no_tar(folder: Path) -> None:
    (folder / "train-000000.tar").write_bytes(b"nothing of the kind" * 100)


def cut_in_a_member(folder: Path) -> None:
    os.truncate(folder / "train-000000.tar", 5000)


def cut_between_members(folder: Path) -> None:
    os.truncate(folder / "train-000000.tar", 4096)


def cut_compressed(folder: Path) -> None:
    packed = gzip.compress((folder / "train-000000.tar").read_bytes())
    (folder / "train-000000.tar").write_bytes(packed[: len(packed) // 2])


def empty_file(folder: Path) -> None:
    (folder / "train-000000.tar").write_bytes(b"")


def pack(folder: Path, **members: bytes) -> None:
    with webdataset.TarWriter(str(folder / "train-000000.tar"), encoder=False) as writer:
        writer.write({"__key__": "a", **members})


def other_members(folder: Path) -> None:
    pack(folder, cls=b"1", npy=b"2")


def no_caption(folder: Path) -> None:
    pack(folder, png=b"", json=b'{"text": "The lungs are clear."}')


def list_for_a_report(folder: Path) -> None:
    pack(folder, png=b"", json=b"[1]")


def broken_json(folder: Path) -> None:
    pack(folder, png=b"", json=b"{")


def other_split(folder: Path) -> None:
    pack(folder, png=b"", json=b'{"caption": "Clear.", "split": "test"}')


def nothing_in_it(folder: Path) -> None:
    with tarfile.open(folder / "train-000000.tar", "w"):
        pass


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (
            lambda folder: (folder / "train-000000.tar").unlink(),
            r"curl: \(22\) The requested URL returned error: 404",
        ),
        (page, "a web page, not a tar of samples"),
        (no_tar, "is no tar, cut short or damaged: .*6 times in a row"),
        (cut_in_a_member, "is no tar, cut short or damaged: the end of the tar is missing, 6 times in a row"),
        (cut_between_members, "is no tar, cut short or damaged: the end of the tar is missing"),
        (cut_compressed, "is no tar, cut short or damaged: .*6 times in a row"),
        (empty_file, "the file is empty"),
        (other_members, r"a has cls, npy; a sample needs an image \(jpg, png, \.\.\.\) and its report"),
        (no_caption, "a has json, png, in its report text; a sample needs"),
        (list_for_a_report, "a has json, png; a sample needs"),
        (broken_json, "a: not valid JSON"),
        (other_split, "a is of the split 'test', and its shard is named for 'train'"),
        (nothing_in_it, "holds no samples"),
    ],
)
def test_what_is_no_shard_of_samples_is_named_in_one_line(
    server: Any, folder: Path, damage: Any, words: str
) -> None:
    (folder / "index.json").unlink()
    damage(folder)
    url = f"{server.url}train-000000.tar"
    with pytest.raises(DataError, match=f"^{url}: {words}[^\n]*$"):
        load(stream(url), 3)


def test_shard_with_other_samples_than_its_index_says(server: Any, folder: Path) -> None:
    pack(folder, png=(folder.parent / "image" / "x0.png").read_bytes(), txt=b"clear")
    url = f"{server.url}train-000000.tar"
    with pytest.raises(
        DataError, match="has 1 samples, and the index beside it says 4; prepare the shards again"
    ):
        load(stream(url), 2)
    (folder / "train-000009.tar").touch()
    with pytest.raises(DataError, match=r"index\.json: lists no samples of train-000009\.tar"):
        build(f"{server.url}train-000009.tar")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("/nowhere/train-000.tar", "cannot be opened .*No such file"),
        ("s3://bucket/train-000.tar", "addresses of this kind cannot be read; name a command"),
        ("pipe:echo lost >&2; exit 3", "the command ended with status 3, 6 times in a row"),
        ("http://127.0.0.1:9/train-000.tar", r"curl: \(7\)"),
    ],
)
def test_address_that_leads_nowhere(url: str, words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        list(read_shard(url))
    assert str(caught.value).startswith(f"{url}: ")
    assert "\n" not in str(caught.value)


def test_commands_local_patterns_and_lists(folder: Path) -> None:
    served = [
        f"pipe:cat {folder}/{TRAIN}",
        f"{folder}/{TRAIN}",
        [f"{folder}/train-00000{i}.tar" for i in range(4)],
    ]
    sources = [stream(shards) for shards in served]
    read = [load(source, 8) for source in sources]
    assert [sorted(ids(each)) for each in read] == [everything()] * 3
    assert same(read[1], read[2])
    assert [source.dataset.sizes is None for source in sources] == [True, False, False]


@pytest.mark.parametrize(
    ("shards", "words"),
    [
        (["a.tar", "{a,b}.tar"], r"datasets\.mimic\.build_info\.shards: a\.tar is named twice"),
        ([], "names no shard"),
        ("train-{000..001.tar", "cannot be expanded"),
    ],
)
def test_unusable_patterns(shards: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build({"train": shards})


def test_shards_take_the_place_of_storage_and_belong_to_a_split() -> None:
    info = BuildInfo(storage="dataset/openi", shards=["a.tar"])
    assert info.storage is None
    assert info.shards_by_split() == {"train": ["a.tar"]}
    assert BuildInfo(shards={"validate": "a.tar"}).shards_by_split() == {"val": ["a.tar"]}
    with pytest.raises(ValueError, match="of the splits train, val, test, not trian"):
        BuildInfo(shards={"trian": "a.tar"})


def test_reports_alone_and_txt_members(server: Any, folder: Path) -> None:
    (folder / "index.json").unlink()
    (batch,) = load(stream(f"{server.url}train-000000.tar", data_type="text"), 1)
    assert "image" not in batch
    assert all(caption.startswith("value ") for caption in batch["caption"])
    pack(folder, png=(folder.parent / "image" / "x0.png").read_bytes(), txt=" Größer.\n".encode())
    (batch,) = load(stream(f"{server.url}train-000000.tar"), 1)
    assert batch["caption"] == ["Größer."] * 2
    assert batch["image_id"] == batch["study_id"] == ["a"] * 2


def test_corrupt_images_are_named_and_may_be_left_out(server: Any, folder: Path) -> None:
    (folder.parent / "image" / "x2.png").write_bytes(b"no image at all")
    write_shards(folder.parent, tarfile.RECORDSIZE)
    url = f"{server.url}train-000000.tar"
    with pytest.raises(DataError, match=rf"{url}: x2: is none of .*set datasets\.mimic\.skip_corrupt: true"):
        load(stream(url), 2)
    skipped: list[str] = []
    batches = islice(BatchLoader(stream(url, skip_corrupt=True), on_skipped=skipped.extend), 2)
    assert sorted(ids(list(batches))) == ["x0", "x1", "x3"]
    assert len(skipped) == 1


def test_other_splits_are_fetched_and_read_in_order(server: Any, folder: Path) -> None:
    data = build({"train": server.url + TRAIN, "valid": server.url + "val-{000000..000001}.tar"})
    assert isinstance(data["train"], StreamedDataset)
    fetched = data["val"]
    assert isinstance(fetched, BaseDataset)
    batches = list(BatchLoader(EvalStream(fetched, 2, seed=0), num_workers=2))
    assert [batch["image_id"] for batch in batches] == [["x16", "x17"], ["x18", "x19"], ["x20"]]
    assert fetched.picture("x17").size == (10, 12)
    assert fetched.displ_item(1)["file"] == f"{server.url}val-000000.tar: x17"
    assert len(set(fetched.image_stamps())) == 5
    with pytest.raises(DataError, match="there is no image 'x0'"):
        fetched.images.place("x0")


def test_image_that_comes_twice_in_a_split(folder: Path) -> None:
    shutil.copy(folder / "val-000000.tar", folder / "again.tar")
    (folder / "index.json").unlink()
    with pytest.raises(DataError, match="again.tar: x16: the image x16 has come before"):
        build({"val": [f"{folder}/val-000000.tar", f"{folder}/again.tar"]})


def test_what_cannot_be_done_with_a_stream_is_refused(folder: Path) -> None:
    data = build(f"{folder}/{TRAIN}")["train"]
    with pytest.raises(ConfigError, match="4 shards cannot be divided among 5 processes"):
        ShardStream(data, 2, 0, world_size=5)
    with pytest.raises(ConfigError, match="cannot be mixed with others"):
        train_stream([data, data], [1.0, 1.0], 2, 0)
    with pytest.raises(ConfigError, match=r"run\.group_by_length"):
        train_stream([data], [1.0], 2, 0, lengths_of=lambda texts: [1])
    with pytest.raises(ConfigError, match=r"run\.feature_cache: datasets\.mimic is streamed"):
        data.with_processor(None)
    with pytest.raises(DataError, match="'train' of datasets.mimic is streamed and cannot be evaluated"):
        list(BatchLoader(EvalStream(data, 2, 0)))
    assert isinstance(train_stream([data], [1.0], 2, 0), ShardStream)
    assert not isinstance(train_stream([data], [1.0], 2, 0), TrainStream)


def test_no_more_loading_processes_than_shards(server: Any) -> None:
    assert sorted(ids(load(stream(f"{server.url}train-00000{{0..1}}.tar"), 4, workers=5))) == everything(8)


def test_training_on_addresses_resumes_to_the_same_weights(server: Any, tmp_path: Path) -> None:
    losses = {}
    for name in ("whole", "resumed"):
        cfg = write_config(
            tmp_path / f"{name}.yaml",
            tmp_path,
            tmp_path / name,
            num_workers=2,
            iters_per_epoch=None,
            min_lr=0.01,
        )
        content = yaml.safe_load(cfg.read_text())
        shards = {"train": server.url + TRAIN, "val": server.url + "val-{000000..000001}.tar"}
        content["datasets"]["openi"]["build_info"]["shards"] = shards
        cfg.write_text(yaml.safe_dump(content))
        options = ["run.valid_splits=[val]", "run.checkpoint_steps=3"]
        if name == "resumed":
            launch(Namespace(cfg_path=str(cfg), options=[*options, "run.max_epoch=1"]))
            options.append(f"run.resume_ckpt_path={tmp_path / name / LAST}")  # of step 3
        launch(Namespace(cfg_path=str(cfg), options=options))
        losses[name] = [metrics_of(tmp_path / name, event) for event in ("train", "valid")]
    assert len(losses["whole"][0]) == 8, "16 samples in batches of 4, twice"
    assert json.dumps(losses["resumed"]) == json.dumps(losses["whole"])
