"""The losses of image-text pretraining on matrices made by hand."""

import pytest
import torch
import torch.nn.functional as F

from xraygpt.models.blip2_losses import (
    Negatives,
    Pairs,
    Similarities,
    contrastive_loss,
    draw_hard_negatives,
    global_mean,
    id_keys,
    matching_batch,
    matching_loss,
    own_pairs,
    pair_similarities,
    same_pairs,
    shared_targets,
)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_ids_are_compared_as_text_or_numbers() -> None:
    keys = id_keys(["x", "y", "x"])
    assert same_pairs(keys, keys).long().tolist() == [[1, 0, 1], [0, 1, 0], [1, 0, 1]]
    assert id_keys(torch.tensor([3, 4])).tolist() == [[3], [4]]


def test_own_pairs_of_the_second_process() -> None:
    assert own_pairs(2, 1, 2, torch.device("cpu")).long().tolist() == [[0, 0, 1, 0], [0, 0, 0, 1]]


def test_an_image_is_as_similar_as_its_best_feature() -> None:
    image = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [1.0, 0.0]]])  # (2, Q, E)
    text = torch.tensor([[0.0, 1.0], [0.6, 0.8]])
    similarities = pair_similarities(image, text, torch.tensor(0.5), gather=lambda rows: rows)
    torch.testing.assert_close(similarities.image_to_text, torch.tensor([[2.0, 1.6], [0.0, 1.2]]))
    torch.testing.assert_close(similarities.text_to_image, similarities.image_to_text.T)


def test_similarities_are_float32_under_autocast() -> None:
    image, text = F.normalize(random(3, 4, 16), dim=-1), F.normalize(random(3, 16, seed=1), dim=-1)
    whole = pair_similarities(image, text, torch.tensor(0.07), gather=lambda rows: rows)
    with torch.autocast("cpu", torch.bfloat16):
        half = pair_similarities(image, text, torch.tensor(0.07), gather=lambda rows: rows)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(half, whole, strict=True))
    assert {part.dtype for part in half} == {torch.float32}


def test_contrastive_loss_is_smoothed_cross_entropy() -> None:
    scores = Similarities(random(3, 3), random(3, 3, seed=1))
    eye = torch.eye(3, dtype=torch.bool)
    expected = sum(F.cross_entropy(s, torch.arange(3), label_smoothing=0.1) for s in scores) / 2
    torch.testing.assert_close(contrastive_loss(scores, shared_targets(eye)), expected)


def test_matches_share_the_target() -> None:
    matches = torch.tensor([[True, True, False], [True, True, False], [False, False, True]])
    targets = shared_targets(matches, smoothing=0.0)
    assert targets.tolist() == [[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [0.0, 0.0, 1.0]]
    scores = Similarities(random(3, 3), random(3, 3, seed=1))
    logs = [s.log_softmax(1) for s in scores]
    expected = -sum((row[0, :2].mean() + row[1, :2].mean() + row[2, 2]) / 3 for row in logs) / 2
    torch.testing.assert_close(contrastive_loss(scores, targets), expected)


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


def test_matching_batch_puts_pairs_together() -> None:
    images, ids = torch.arange(4.0).view(4, 1, 1), torch.arange(4).view(4, 1)
    everyone = Pairs(images, ids, ids + 10)
    own = Pairs(*(part[2:] for part in everyone))  # of the second of two processes
    yes, no = torch.tensor([True, True]), torch.tensor([True, False])
    batch = matching_batch(
        own,
        everyone,
        wrong_images=Negatives(torch.tensor([0, 1]), yes),
        wrong_texts=Negatives(torch.tensor([3, 0]), no),
    )
    assert batch.pairs.images.flatten().tolist() == [2, 3, 0, 1, 2, 3]
    assert batch.pairs.text_ids.flatten().tolist() == [2, 3, 2, 3, 3, 0]
    assert batch.pairs.text_mask.flatten().tolist() == [12, 13, 12, 13, 13, 10]
    assert batch.labels.tolist() == [1, 1, 0, 0, 0, 0]
    assert batch.counted.tolist() == [True] * 5 + [False]
    logits = random(6, 2)
    expected = F.cross_entropy(logits[:5], batch.labels[:5], reduction="sum")
    total, count = matching_loss(logits, batch)
    torch.testing.assert_close(total, expected)
    assert count == 5
    torch.testing.assert_close(global_mean(total, count, world_size=1), expected / 5)
