"""Retrieval: galleries, re-ranking, the task through launch at tiny size, what it refuses."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor
from transformers import BatchEncoding

from tests.toy import write_config, write_dataset
from xraygpt.common.errors import ConfigError
from xraygpt.models import load_model
from xraygpt.runners.launch import launch, metrics_table
from xraygpt.tasks import retrieval as retrieval_module
from xraygpt.tasks.retrieval import (
    NOT_RANKED,
    Gallery,
    best_ranks,
    chance_recalls,
    compute_sim_matrix,
    encode_gallery,
    in_full_order,
    recalls,
    rerank,
    retrieval_metrics,
    retrieval_rows,
)


def ranks(rows: list[dict[str, Any]], kind: str, method: str, direction: str) -> list[int]:
    return [row[kind][method][direction] for row in rows]


def relevant(rows: list[dict[str, Any]], kind: str, direction: str) -> list[int]:
    return [row[kind]["relevant"][direction] for row in rows]


TEXTS = [
    "The heart is normal.",
    "The lungs are clear.",
    "Left effusion.",
    "The heart is enlarged. No effusion.",
]


def test_retrieval_scores() -> None:
    model = load_model("blip2", "tiny", is_eval=True)
    images = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    loader = [{"image": images[:3]}, {"image": images[3:]}]
    by_image, by_text = compute_sim_matrix(model, loader, texts=TEXTS, k_test=4)
    assert torch.allclose(by_image, by_text.T, atol=1e-5)
    top, _ = compute_sim_matrix(model, loader, texts=TEXTS, k_test=1)
    assert (top == NOT_RANKED).sum() == 12
    gallery = encode_gallery(model, (part["image"] for part in loader), TEXTS, batch_size=3)
    whole = in_full_order(rerank(model, gallery, k_test=1, batch_size=3)[0], gallery.similarity)
    assert torch.equal(whole.argsort(descending=True), gallery.similarity.argsort(descending=True))


class Encoded:
    """A model whose encodings are given; it remembers where images were when it saw them."""

    def __init__(self, feats: Tensor, words: Tensor) -> None:
        self.feats, self.words = feats, words
        self.device = torch.device("cpu")
        self.seen: list[str] = []

    def tokenize(self, texts: Sequence[str], max_length: int | None) -> BatchEncoding:
        ids = torch.arange(len(texts))[:, None]
        return BatchEncoding({"input_ids": ids, "attention_mask": torch.ones_like(ids)})

    def encode_images(self, image: Tensor) -> tuple[Tensor, Tensor]:
        self.seen.append(image.device.type)
        return self.feats, torch.zeros(len(self.feats), 1, 1)

    def encode_texts(self, text_tokens: BatchEncoding) -> Tensor:
        return self.words

    def compute_itm(self, image_inputs: Tensor, text_ids: Tensor, text_atts: Tensor) -> Tensor:
        return torch.full((len(image_inputs),), 0.25)


@pytest.fixture
def encoded() -> Encoded:
    images = torch.randn(3, 4, 16, generator=torch.Generator().manual_seed(0))
    words = torch.randn(3, 16, generator=torch.Generator().manual_seed(1))
    return Encoded(F.normalize(images, dim=-1), F.normalize(words, dim=-1))


def gallery_of(model: Encoded) -> Gallery:
    return encode_gallery(model, [torch.zeros(3, 3, 28, 28)], TEXTS[:3])


def test_cosines_of_retrieval_are_float32_under_autocast(encoded: Encoded) -> None:
    whole = gallery_of(encoded).similarity
    with torch.autocast("cpu", torch.bfloat16):
        half = gallery_of(encoded).similarity
    assert half.dtype == torch.float32
    assert torch.equal(half, whole)


def test_scores_are_similarity_and_matching_together(encoded: Encoded) -> None:
    gallery = gallery_of(encoded)
    by_image, by_text = rerank(encoded, gallery, k_test=2)
    for scores, similarity in ((by_image, gallery.similarity), (by_text, gallery.similarity.T)):
        ranked = scores != NOT_RANKED
        assert ranked.sum(1).tolist() == [2, 2, 2]
        torch.testing.assert_close(scores[ranked], similarity[ranked] + 0.25)
        assert (similarity[~ranked] <= similarity.masked_fill(~ranked, 2.0).amin(1)).all()


def test_images_go_to_the_device_of_the_model(encoded: Encoded) -> None:
    encoded.device = torch.device("meta")
    loader = [{"image": torch.zeros(3, 3, 28, 28)}]
    compute_sim_matrix(encoded, loader, texts=TEXTS[:3], k_test=2)
    assert encoded.seen == ["meta"]


@pytest.fixture
def config(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XRAYGPT_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    path = tmp_path / "retrieval.yaml"
    run = {
        "task": "retrieval",
        "output_dir": str(tmp_path / "out"),
        "device": "cpu",
        "test_splits": ["test", "val"],
        "batch_size_eval": 4,
        "k_test": 3,
    }
    # Of the ten reports of the first split two are the same.
    content = {
        "model": {"arch": "blip2", "model_type": "tiny"},
        "datasets": {
            "phantom": {"splits": {"test": {"seed": 9, "count": 10}, "val": {"seed": 2, "count": 5}}}
        },
        "run": run,
    }
    path.write_text(yaml.safe_dump(content))
    return path


def test_evaluation_leaves_ranks_and_scores(config: Path, tmp_path: Path) -> None:
    metrics = launch(Namespace(cfg_path=str(config), options=[]), evaluate_only=True)
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert scores["reranked"] == metrics["test"]["reranked"]
    assert (scores["n"], scores["other_splits"]["val"]["n"], scores["k_test"]) == (10, 5, 3)
    assert scores["contrastive"]["image_to_report"]["r10"] == 1.0
    chance = scores["chance"]
    assert chance["image_to_report"]["r1"] == pytest.approx(1 / 9)
    assert chance["report_to_image"]["r1"] == pytest.approx((8 * 0.1 + 2 * 0.2) / 10)
    assert all(scores["same_findings"]["chance"][way]["r1"] >= chance[way]["r1"] for way in chance)
    rows = json.loads((tmp_path / "out" / "retrieval_test.json").read_text())
    assert [row["image_id"] for row in rows] == [f"phantom-9-{i}" for i in range(10)]
    assert relevant(rows, "same_report", "report_to_image") == [1, 1, 1, 1, 1, 1, 2, 1, 2, 1]
    # The same words find the same images.
    found = ranks(rows, "same_report", "reranked", "report_to_image")
    assert found[6] == found[8]
    for row in rows:
        first, again = (row["same_report"][method] for method in ("contrastive", "reranked"))
        # Re-ranking three leaves the other seven in their order behind them.
        assert all((first[way] <= 3) == (again[way] <= 3) for way in first)
        assert all(first[way] == again[way] for way in first if first[way] > 3)


def test_batches_and_cut_of_the_data_do_not_matter(config: Path, tmp_path: Path) -> None:
    found = []
    for size in (2, 10):
        options = [f"run.batch_size_eval={size}", f"run.output_dir={tmp_path / str(size)}"]
        launch(Namespace(cfg_path=str(config), options=options), evaluate_only=True)
        found.append(json.loads((tmp_path / str(size) / "retrieval_test.json").read_text()))
    assert found[0] == found[1]


def test_a_model_that_does_not_compare_is_refused(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data")
    cfg = write_config(tmp_path / "c.yaml", data, tmp_path / "out", task="retrieval", test_splits=["val"])
    with pytest.raises(ConfigError, match="ToyModel"):
        launch(Namespace(cfg_path=str(cfg), options=[]), evaluate_only=True)


def test_divided_data_are_refused(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieval_module, "get_world_size", lambda: 2)
    with pytest.raises(ConfigError, match="use_dist_eval_sampler"):
        launch(Namespace(cfg_path=str(config), options=[]), evaluate_only=True)
    whole = ["run.use_dist_eval_sampler=false"]
    assert launch(Namespace(cfg_path=str(config), options=whole), evaluate_only=True)["val"]["n"] == 5


# Ranks, recalls and the rows of image-report pairs, by hand

SCORES = np.array([[0.9, 0.1, 0.2], [0.3, 0.2, 0.1], [0.5, 0.5, 0.5]])
EYE = np.eye(3, dtype=bool)


def test_rank_of_the_one_relevant_candidate() -> None:
    # The last row is a tie, which counts against.
    assert best_ranks(SCORES, EYE) == [1, 2, 3]


def test_best_of_several_relevant_candidates_counts() -> None:
    relevant = EYE | EYE[[1, 0, 2]]
    assert best_ranks(SCORES, relevant) == [1, 1, 3]
    assert best_ranks(SCORES, np.ones((3, 3), dtype=bool)) == [1, 1, 1]


def test_candidates_out_of_reach_are_last() -> None:
    scores = np.array([[-100.0, 5.0, -100.0]])
    assert best_ranks(scores, np.array([[True, False, False]])) == [3]


def test_impossible_questions_are_refused() -> None:
    with pytest.raises(ValueError, match="relevant candidate"):
        best_ranks(SCORES, np.zeros((3, 3), dtype=bool))
    with pytest.raises(ValueError, match="same shape"):
        best_ranks(SCORES, np.eye(2, dtype=bool))


def test_recalls() -> None:
    assert recalls([1, 2, 5, 6, 11]) == {"r1": 0.2, "r5": 0.6, "r10": 0.8, "median_rank": 5.0}


def test_chance() -> None:
    # One of 20 and four of 8: 1 - (4 * 3 * 2 * 1 * 0) / ... is certain for k = 5.
    chance = chance_recalls(relevant=[1, 4], candidates=[20, 8])
    assert chance["r1"] == pytest.approx((1 / 20 + 1 / 2) / 2)
    assert chance["r5"] == pytest.approx((5 / 20 + 1) / 2)
    assert chance["r10"] == pytest.approx((10 / 20 + 1) / 2)


def test_chance_is_what_random_orders_give() -> None:
    rng = np.random.default_rng(0)
    relevant = np.repeat(np.eye(5, dtype=bool), 2, axis=1)  # two of ten candidates for each query
    ranks = [rank for _ in range(2000) for rank in best_ranks(rng.random((5, 10)), relevant)]
    expected = chance_recalls([2] * 5, [10] * 5)
    found = recalls(ranks)
    assert found["r1"] == pytest.approx(expected["r1"], abs=0.02)
    assert found["r5"] == pytest.approx(expected["r5"], abs=0.02)


def queries(**changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "image_ids": ["a", "b", "c", "d"],
        "study_ids": ["s", "s", "t", "u"],
        "reports": ["one", "two", "three", "three"],
        "sources": ["x"] * 4,
        "labels": None,
    }
    return values | changes


# Four images and the three distinct texts of their reports.
CONTRAST = np.array([[0.1, 0.9, 0.0], [0.0, 0.1, 0.9], [0.0, 0.1, 0.9], [0.9, 0.8, 0.2]], dtype=np.float32)
RIGHT = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 1.0]], dtype=np.float32)
BY_METHOD = {"contrastive": (CONTRAST, CONTRAST.T), "reranked": (RIGHT, RIGHT.T)}


def test_any_report_of_the_study_or_of_the_same_words_is_right() -> None:
    rows = retrieval_rows(BY_METHOD, **queries())
    assert ranks(rows, "same_report", "contrastive", "image_to_report") == [1, 2, 1, 3]
    assert ranks(rows, "same_report", "contrastive", "report_to_image") == [2, 1, 2, 2]
    assert ranks(rows, "same_report", "reranked", "report_to_image") == [1, 1, 1, 1]
    assert relevant(rows, "same_report", "image_to_report") == [2, 2, 1, 1]
    assert relevant(rows, "same_report", "report_to_image") == [2, 2, 2, 2]
    assert [row["first_contrastive"] for row in rows] == ["b", "c", "c", "a"]
    assert "same_findings" not in rows[0]


def test_copies_of_a_report_are_one_candidate_and_images_are_several() -> None:
    number = 20
    names = [str(i) for i in range(1 + number)]
    given = queries(
        image_ids=names,
        study_ids=names,
        reports=["right", *["wrong"] * number],
        sources=["x"] * (1 + number),
    )
    # Everything wrong is more similar to image and report of the first pair than what is right.
    scores = np.full((1 + number, 2), 0.9, dtype=np.float32)
    scores[0, 0] = 0.5
    rows = retrieval_rows({"contrastive": (scores, scores.T), "reranked": (scores, scores.T)}, **given)
    for method in ("contrastive", "reranked"):
        assert ranks(rows, "same_report", method, "image_to_report")[0] == 2
        assert ranks(rows, "same_report", method, "report_to_image")[0] == 1 + number
    # A random order has one of two texts right, and one or 20 of 21 images.
    chance = retrieval_metrics(rows)["chance"]
    assert chance["image_to_report"]["r1"] == pytest.approx(1 / 2)
    assert chance["report_to_image"]["r1"] == pytest.approx((1 / 21 + number * number / 21) / 21)


def test_a_text_is_right_if_any_of_its_copies_is() -> None:
    # Both texts are right for the first four images; either copy may be the one that belongs to the study.
    given = queries(
        image_ids=list("abcde"),
        study_ids=["s", "s", "t", "t", "u"],
        reports=["one", "two", "two", "one", "three"],
        sources=["x"] * 5,
    )
    scores = np.array([[1, 9, 5], [9, 1, 5], [9, 1, 5], [1, 9, 5], [9, 8, 7]], dtype=np.float32)
    rows = retrieval_rows({"contrastive": (scores, scores.T), "reranked": (scores, scores.T)}, **given)
    assert ranks(rows, "same_report", "contrastive", "image_to_report") == [1, 1, 1, 1, 3]
    assert [row["first_contrastive"] for row in rows] == ["b", "a", "a", "b", "a"]
    assert relevant(rows, "same_report", "image_to_report") == [2, 2, 2, 2, 1]
    assert relevant(rows, "same_report", "report_to_image") == [3, 3, 3, 3, 1]


def test_same_findings_are_told_apart_from_the_same_report() -> None:
    rows = retrieval_rows(BY_METHOD, **queries(labels=[(0.0,), (1.0,), (1.0,), (0.0,)]))
    assert ranks(rows, "same_report", "contrastive", "image_to_report") == [1, 2, 1, 3]
    assert ranks(rows, "same_findings", "contrastive", "image_to_report") == [1, 1, 1, 1]
    assert relevant(rows, "same_findings", "image_to_report") == [3, 3, 2, 2]
    assert relevant(rows, "same_findings", "report_to_image") == [3, 3, 3, 3]
    metrics = retrieval_metrics(rows)
    assert metrics["same_findings"]["contrastive"]["image_to_report"]["r1"] == 1.0
    assert metrics["contrastive"]["image_to_report"]["r1"] == 0.5
    assert metrics["chance"]["image_to_report"]["r1"] == pytest.approx((2 / 3 + 1 / 3) / 2)
    assert metrics["chance"]["report_to_image"]["r1"] == 0.5
    assert metrics["reranked"]["report_to_image"]["r1"] == 1.0
    assert metrics["agg_metrics"] == 1.0
    assert metrics["n"] == 4
    # Of the texts with the same findings two of three, or one of two, are right; of the images two of three.
    assert metrics["findings_known"]["image_to_report"]["r1"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert metrics["findings_known"]["report_to_image"]["r1"] == pytest.approx(2 / 3)
    lines = metrics_table(metrics).splitlines()
    assert "{" not in metrics_table(metrics)
    assert lines[lines.index("  same_findings") + 1].split() == ["chance", "r1", "r5", "r10"]
