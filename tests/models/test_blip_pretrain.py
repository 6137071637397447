"""Contrast and matching on matrices made by hand."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from xraygpt.models import blip_pretrain
from xraygpt.models.blip_pretrain import (
    PairTraining,
    best_cosines,
    contrastive_loss,
    draw_hard_negatives,
    global_mean,
    id_keys,
)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_ids_are_compared_as_text_or_numbers() -> None:
    keys = id_keys(["x", "y", "x"])
    assert (keys == keys.T).long().tolist() == [[1, 0, 1], [0, 1, 0], [1, 0, 1]]
    assert id_keys(torch.tensor([3, 4])).tolist() == [[3], [4]]


def second_of_two(**attributes: Any) -> Any:
    """As much of a model as the losses need, on the second of two processes."""
    own = {"world_size": 2, "mask_same_report": False, "mask_same_findings": False}
    return SimpleNamespace(**own | attributes)


def test_own_pairs_of_the_second_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blip_pretrain, "get_rank", lambda: 1)
    matches = PairTraining._matches(second_of_two(), {}, torch.zeros(2, 5))
    assert matches.long().tolist() == [[0, 0, 1, 0], [0, 0, 0, 1]]


def test_an_image_is_as_similar_as_its_best_feature() -> None:
    image = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [1.0, 0.0]]])  # (2, Q, E)
    text = torch.tensor([[0.0, 1.0], [0.6, 0.8]])
    torch.testing.assert_close(best_cosines(image, text), torch.tensor([[1.0, 0.8], [0.0, 0.6]]))


def test_similarities_are_float32_under_autocast() -> None:
    image, text = F.normalize(random(3, 4, 16), dim=-1), F.normalize(random(3, 16, seed=1), dim=-1)
    whole = best_cosines(image, text)
    with torch.autocast("cpu", torch.bfloat16):
        half = best_cosines(image, text)
    assert torch.equal(half, whole)
    assert half.dtype == torch.float32


def test_contrastive_loss_is_smoothed_cross_entropy() -> None:
    scores = random(3, 3), random(3, 3, seed=1)
    eye = torch.eye(3, dtype=torch.bool)
    expected = sum(F.cross_entropy(s, torch.arange(3), label_smoothing=0.1) for s in scores) / 2
    torch.testing.assert_close(contrastive_loss(*scores, eye), expected)


def test_matches_share_the_target() -> None:
    matches = torch.tensor([[True, True, False], [True, True, False], [False, False, True]])
    targets = torch.tensor([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])
    scores = random(3, 3), random(3, 3, seed=1)
    expected = sum(F.cross_entropy(s, targets) for s in scores) / 2
    torch.testing.assert_close(contrastive_loss(*scores, matches, label_smoothing=0.0), expected)


def test_negatives_are_never_forbidden() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        forbidden = torch.rand(16, 16, generator=generator) < 0.8
        forbidden |= torch.eye(16, dtype=torch.bool)
        forbidden[3] = True
        # The forbidden ones are by far the most similar.
        similarity = torch.randn(16, 16, generator=generator) + 200 * forbidden
        columns, found = draw_hard_negatives(similarity, forbidden)
        assert found.tolist() == (~forbidden.all(1)).tolist()
        assert not found[3]
        assert not forbidden.gather(1, columns[:, None])[found].any()


def test_more_similar_negatives_are_drawn_more_often() -> None:
    torch.manual_seed(0)
    similarity = torch.tensor([[9.0, 0.0, 1.0]]).expand(2000, -1)
    columns, _ = draw_hard_negatives(similarity, torch.tensor([[True, False, False]]).expand(2000, -1))
    share = (columns == 2).float().mean().item()
    assert share == pytest.approx(torch.tensor([0.0, 1.0]).softmax(0)[1].item(), abs=0.05)


def test_matching_puts_true_pairs_and_negatives_together(monkeypatch: pytest.MonkeyPatch) -> None:
    images, ids = torch.arange(4.0).view(4, 1, 1), torch.arange(4).view(4, 1)
    everyone = {(2, 1, 1): [images], (2, 1): [ids, ids + 10]}
    tokens = SimpleNamespace(input_ids=ids[2:], attention_mask=ids[2:] + 10)
    logits, seen = random(6, 2), []

    def itm_logits(*pairs: Tensor) -> Tensor:
        seen.extend(part.flatten().tolist() for part in pairs)
        return logits

    def gather(rows: Tensor) -> Tensor:
        return next(part for part in everyone[tuple(rows.shape)] if torch.equal(part[2:], rows))

    counts: list[Tensor] = []

    def summed(total: Tensor, count: Tensor, world_size: int) -> Tensor:
        counts.append(count)
        return total

    monkeypatch.setattr(blip_pretrain, "global_mean", summed)
    yes, no = torch.tensor([True, True]), torch.tensor([True, False])
    model = second_of_two(itm_logits=itm_logits, _gather=gather)
    drawn = {"to_images": (torch.tensor([0, 1]), yes), "to_texts": (torch.tensor([3, 0]), no)}
    monkeypatch.setattr(blip_pretrain, "draw_hard_negatives", lambda scores, matches: drawn[scores])
    total = PairTraining._matching_loss(model, images[2:], tokens, "to_texts", "to_images", None)
    assert seen == [[2, 3, 0, 1, 2, 3], [2, 3, 2, 3, 3, 0], [12, 13, 12, 13, 13, 10]]
    labels = torch.tensor([1, 1, 0, 0, 0])  # the last text has no negative
    expected = F.cross_entropy(logits[:5], labels, reduction="sum")
    torch.testing.assert_close(total, expected)
    assert counts == [5]
    torch.testing.assert_close(global_mean(total, counts[0], world_size=1), expected / 5)
