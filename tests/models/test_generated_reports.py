"""What models tell of the reports they write: tokens, what ended them, how likely they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import AddedToken

from xraygpt.common.errors import ConfigError
from xraygpt.models.generation import GenerationConfig, ending, mean_log_probabilities
from xraygpt.models.mini_gpt4 import MiniGPT4

Make = Callable[..., MiniGPT4]
Batch = dict[str, Any]
GREEDY = GenerationConfig(max_new_tokens=20)


@pytest.mark.parametrize(
    ("ids", "end"),
    [
        ([5, 6, 7], (3, "length")),
        ([5, 6, 2, 2], (3, "end_token")),
        ([5, 9, 2, 2], (2, "stop_string")),
        ([5, 2, 9, 2], (2, "end_token")),
        ([9], (1, "stop_string")),
    ],
)
@pytest.mark.parametrize("pad", [2, 0])
def test_where_a_row_ends_and_why(ids: list[int], end: tuple[int, str], pad: int) -> None:
    stop = 9 in ids and 2 not in ids[: ids.index(9)]
    padded = ids[: end[0]] + [pad] * (len(ids) - end[0]) if stop else ids
    assert ending(padded, [2], pad, lambda row: 9 in row) == end


def test_log_probabilities_leave_out_the_padding() -> None:
    logits = torch.randn(11, 4, 5, generator=torch.Generator().manual_seed(0))
    ids = logits.argmax(-1)
    lengths = [n % 5 for n in range(11)]
    found = mean_log_probabilities(lambda rows: logits[rows], ids, lengths)
    best = logits.log_softmax(-1).amax(-1)
    assert found[0] == 0.0
    for row in range(1, 11):
        expected = float(best[row, : lengths[row]].mean()) if lengths[row] else 0.0
        assert found[row] == pytest.approx(expected, abs=1e-6)


def by_hand(model: MiniGPT4, batch: Batch, row: int, tokens: int) -> tuple[list[int], float]:
    """Greedy tokens of one row without any cache or padding, and their mean log-probability."""
    images = model.encode_img(batch["image"][row : row + 1])[0]
    embeds = model.embed_prompt([batch["prompt"]], images)[0]
    ids: list[int] = []
    total = 0.0
    for step in range(tokens):
        logits = model.llama_model(inputs_embeds=embeds).logits[0, -1].log_softmax(-1)
        if step == 0:
            logits[model.llama_tokenizer.eos_token_id] = -torch.inf  # a report has one token at least
        ids.append(int(logits.argmax()))
        total += float(logits[ids[-1]])
        embeds = torch.cat([embeds, model.llama_model.get_input_embeddings()(torch.tensor([ids[-1:]]))], 1)
    return ids, total / tokens


@torch.no_grad()
def test_a_language_models_reports_are_told_in_full(make_model: Make, batch: Batch) -> None:
    model = make_model()
    details = model.generate_detailed(batch, GREEDY)
    assert [report.text for report in details] == model.generate(batch, GREEDY)
    for row, report in enumerate(details):
        ids, mean = by_hand(model, batch, row, report.tokens)
        assert report.text == str(model.llama_tokenizer.decode(ids, skip_special_tokens=True)).strip()
        assert report.mean_log_probability == pytest.approx(mean, abs=1e-5)
        ended = ids[-1] == model.llama_tokenizer.eos_token_id
        assert report.stop_reason == ("end_token" if ended else "length")
        assert ended or report.tokens == GREEDY.max_new_tokens


@torch.no_grad()
def test_each_row_stops_on_its_own_and_counts_its_stop_string(make_model: Make, batch: Batch) -> None:
    model = make_model()
    free, other = model.generate(batch, GREEDY)
    model.end_sym = next(mark for mark in free[2:] if mark.strip() and mark not in other)
    stopped, on = model.generate_detailed(batch, GREEDY)
    assert (stopped.stop_reason, stopped.text) == ("stop_string", free[: free.find(model.end_sym)].strip())
    ids, mean = by_hand(model, batch, 0, stopped.tokens)
    assert model.end_sym in str(model.llama_tokenizer.decode(ids))
    assert model.end_sym not in str(model.llama_tokenizer.decode(ids[:-1]))
    assert stopped.mean_log_probability == pytest.approx(mean, abs=1e-5)
    assert on.text == other


@pytest.mark.parametrize("generation", [GREEDY, GenerationConfig(max_new_tokens=12, num_beams=3)])
def test_a_report_does_not_depend_on_its_batch_mates(
    make_model: Make, batch: Batch, generation: GenerationConfig
) -> None:
    model = make_model(end_sym="a")
    images = torch.randn(9, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    together = model.generate_detailed({"image": images, "prompt": batch["prompt"]}, generation)
    for row in range(9):
        (alone,) = model.generate_detailed(
            {"image": images[row : row + 1], "prompt": batch["prompt"]}, generation
        )
        assert (alone.text, alone.tokens, alone.stop_reason) == (
            together[row].text,
            together[row].tokens,
            together[row].stop_reason,
        )
        assert alone.mean_log_probability == pytest.approx(together[row].mean_log_probability, abs=1e-4)
    assert len({report.text for report in together}) > 2


def test_sampling_tells_the_models_own_probabilities(make_model: Make, batch: Batch) -> None:
    """Temperature and nucleus decide what is written, not how likely it is said to be."""
    model = make_model()
    sharp = GenerationConfig(max_new_tokens=8, do_sample=True, temperature=1e-4, top_p=0.5)
    torch.manual_seed(0)
    greedy = model.generate_detailed(batch, GenerationConfig(max_new_tokens=8))
    assert model.generate_detailed(batch, sharp) == greedy


@torch.no_grad()
@pytest.mark.parametrize(
    "generation",
    [
        GREEDY,
        GenerationConfig(max_new_tokens=20, num_beams=3),
        GenerationConfig(max_new_tokens=20, do_sample=True, temperature=1e-4),
    ],
)
def test_a_special_token_as_end_symbol_ends_a_report(
    make_model: Make, batch: Batch, generation: GenerationConfig
) -> None:
    """As Llama 3, Qwen, Gemma and Phi end a turn: by a token that shows in no text."""
    model = make_model()
    tokenizer = model.llama_tokenizer
    embeds, mask = model._embed_samples(batch)
    row = model.complete(embeds, mask, generation, [])[1][0].tolist()
    known = {tokenizer.eos_token_id, tokenizer.unk_token_id}
    place = next(n for n in range(2, len(row)) if row[n] not in {*known, *row[:n]})
    mark = str(tokenizer.convert_ids_to_tokens(row[place]))
    tokenizer.add_tokens([AddedToken(mark, normalized=False, special=True)])
    tokenizer.add_special_tokens({"extra_special_tokens": [mark]})
    model.end_sym = mark
    report = model.generate_detailed(batch, generation)[0]
    if generation.num_beams == 1:
        text = str(tokenizer.decode(row[:place], skip_special_tokens=True)).strip()
        assert (report.text, report.tokens, report.stop_reason) == (text, place + 1, "end_token")
        assert report.mean_log_probability == pytest.approx(by_hand(model, batch, 0, place + 1)[1], abs=1e-5)
    assert report.text == model.generate(batch, generation)[0]
    assert mark not in report.text
    streamed = list(model.complete_stream(embeds[:1], mask[:1], generation, model.stop_strings))
    assert streamed[-1] == report.text


def test_more_tokens_than_positions_are_refused(make_model: Make, batch: Batch) -> None:
    model = make_model()
    before = model._embed_samples(batch)[0].shape[1]
    room = 256 - before
    message = rf"max_new_tokens is {room + 1} .* {before} positions: 257 .* has 256\..* to {room} at most"
    with pytest.raises(ConfigError, match=message):
        model.generate(batch, GenerationConfig(max_new_tokens=room + 1))
    assert len(model.generate(batch, GenerationConfig(max_new_tokens=room))) == 2
    model.max_txt_len = room + 1
    with pytest.raises(ConfigError, match=r"model\.max_txt_len is"):
        model(batch)
    model.max_txt_len = room
    assert model(batch)["loss"].isfinite()
