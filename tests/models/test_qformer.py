"""The Q-Former: who sees whom, the two attention paths, the cache, pruning, losses, generation."""

import inspect
import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.tolerance import rounding
from xraygpt.common.errors import ConfigError
from xraygpt.models.bert_lm import SearchSettings
from xraygpt.models.key_translation import TEXT_HALF
from xraygpt.models.Qformer import (
    BertAttention,
    BertForMaskedLM,
    BertLayer,
    BertLMHeadModel,
    BertModel,
    BertSelfAttention,
    QformerConfig,
    QueryModel,
)

CONFIG = QformerConfig(
    vocab_size=50,
    hidden_size=32,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=48,
    max_position_embeddings=24,
    encoder_width=20,
    cross_attention_freq=2,
    query_length=4,
    initializer_range=0.3,
)
B, Q, L, N = 2, 4, 6, 7


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def ids(seed: int = 0, length: int = L) -> Tensor:
    return torch.randint(5, 50, (B, length), generator=torch.Generator().manual_seed(seed))


def model(config: QformerConfig = CONFIG, **kwargs: Any) -> BertModel:
    torch.manual_seed(0)
    return BertModel(config, **kwargs).eval()


def lm(config: QformerConfig = CONFIG) -> BertLMHeadModel:
    torch.manual_seed(0)
    return BertLMHeadModel(config).eval()


def both(**changes: Any) -> dict[str, Any]:
    mask = torch.ones(B, Q + L, dtype=torch.long)
    mask[1, -2:] = 0
    return {
        "input_ids": ids(),
        "query_embeds": draw(1, B, Q, 32),
        "attention_mask": mask,
        "encoder_hidden_states": draw(2, B, N, 20),
        **changes,
    }


def close(found: Tensor, expected: Tensor) -> bool:
    """Compare two ways to the same hidden states or logits: seven matrix products in each layer."""
    terms = 7 * CONFIG.hidden_size * CONFIG.num_hidden_layers
    return torch.allclose(found, expected, atol=rounding(float(expected.abs().max()), terms))


@pytest.mark.parametrize("is_decoder", [False, True])
def test_fast_path_and_map_path_agree(is_decoder: bool) -> None:
    net = model()
    inputs = both(is_decoder=is_decoder, encoder_attention_mask=torch.tensor([[1] * 7, [1] * 5 + [0] * 2]))
    fast, maps = net(**inputs), net(**inputs, output_attentions=True, output_hidden_states=True)
    assert close(fast.last_hidden_state, maps.last_hidden_state)
    assert [a.shape for a in maps.attentions] == [(B, 4, Q + L, Q + L)] * 3
    assert [None if a is None else a.shape for a in maps.cross_attentions] == [
        (B, 4, Q, N),
        None,
        (B, 4, Q, N),
    ]
    assert maps.cross_attentions[0][1, :, :, 5:].abs().max() == 0
    assert len(maps.hidden_states) == 4
    ones = net(**inputs, head_mask=torch.ones(4))
    assert close(fast.last_hidden_state, ones.last_hidden_state)


def test_causal_mask_queries_do_not_see_text_and_text_sees_no_later_text() -> None:
    net = model()
    changed = ids()
    changed[:, 3] = (changed[:, 3] + 1) % 45 + 5
    one = net(**both(is_decoder=True)).last_hidden_state
    two = net(**both(is_decoder=True, input_ids=changed)).last_hidden_state
    assert torch.equal(one[:, : Q + 3], two[:, : Q + 3])
    assert not torch.allclose(one[:, Q + 3 :], two[:, Q + 3 :])
    queries = net(**both(is_decoder=True, query_embeds=draw(9, B, Q, 32))).last_hidden_state
    assert not torch.allclose(one[:, Q:], queries[:, Q:])
    # Without the causal mask the queries do see the text.
    assert not torch.allclose(
        net(**both()).last_hidden_state[:, :Q], net(**both(input_ids=changed)).last_hidden_state[:, :Q]
    )


def test_padding_is_not_seen() -> None:
    net = model()
    padded = ids()
    padded[1, -2:] = 7
    one = net(**both()).last_hidden_state
    two = net(**both(input_ids=padded)).last_hidden_state
    assert torch.equal(one[0], two[0])
    assert torch.allclose(one[1, :-2], two[1, :-2])


def test_cache_gives_the_numbers_of_one_pass() -> None:
    net = model()
    inputs = both(is_decoder=True)
    whole = net(**inputs).last_hidden_state[:, Q:]
    cache = net(query_embeds=inputs["query_embeds"], encoder_hidden_states=inputs["encoder_hidden_states"],
                use_cache=True).past_key_values  # fmt: skip
    mask = inputs["attention_mask"]
    at_once = net(ids(), attention_mask=mask, past_key_values=cache, is_decoder=True).last_hidden_state
    assert close(whole, at_once)
    plain = tuple((cache[layer][0], cache[layer][1]) for layer in range(len(cache)))
    as_tuple = net(ids(), attention_mask=mask, past_key_values=plain, is_decoder=True).last_hidden_state
    assert torch.equal(as_tuple, at_once)
    steps = []
    for t in range(L):
        out = net(ids()[:, t : t + 1], attention_mask=mask[:, : Q + t + 1], past_key_values=cache,
                  is_decoder=True, use_cache=True)  # fmt: skip
        cache = out.past_key_values
        steps.append(out.last_hidden_state)
    assert close(whole, torch.cat(steps, 1))


def test_text_alone_can_be_cached_without_queries() -> None:
    net = model()
    whole = net(ids(), is_decoder=True).last_hidden_state
    cache = net(ids()[:, :5], is_decoder=True, use_cache=True).past_key_values
    last = net(ids()[:, 5:], past_key_values=cache, is_decoder=True).last_hidden_state
    assert close(whole[:, 5:], last)


@pytest.mark.parametrize("kind", ["relative_key", "relative_key_query"])
def test_relative_positions_work_with_cache_and_images_of_any_length(kind: str) -> None:
    net = model(replace(CONFIG, position_embedding_type=kind))
    inputs = both(is_decoder=True)
    whole = net(**inputs).last_hidden_state[:, Q:]
    cache = net(query_embeds=inputs["query_embeds"], encoder_hidden_states=inputs["encoder_hidden_states"],
                use_cache=True).past_key_values  # fmt: skip
    rest = net(ids(), attention_mask=inputs["attention_mask"], past_key_values=cache, is_decoder=True)
    assert close(whole, rest.last_hidden_state)
    swapped = net(ids().flip(1)).last_hidden_state.flip(1)
    assert not torch.allclose(net(ids()).last_hidden_state, swapped, atol=1e-3)


def test_saved_attention_maps_and_their_gradients() -> None:
    net = model()
    attention = net.encoder.layers()[0].crossattention.self
    assert attention.get_attention_map() is None
    attention.save_attention = True
    net(**both()).last_hidden_state[:, :Q].square().sum().backward()
    maps, gradients = attention.get_attention_map(), attention.get_attn_gradients()
    assert maps is not None
    assert gradients is not None
    assert maps.shape == gradients.shape == (B, 4, Q, N)
    assert torch.allclose(maps.sum(-1), torch.ones(B, 4, Q))
    assert gradients.abs().sum() > 0


def test_pruned_heads_equal_masked_heads_without_cross_attention() -> None:
    net = model(replace(CONFIG, add_cross_attention=False))
    keep = torch.ones(3, 4)
    keep[0, 1] = keep[2, 0] = keep[2, 3] = 0
    masked = net(ids(), head_mask=keep).last_hidden_state
    net.prune_heads({0: [1], 2: [0]})
    net.prune_heads({2: [0, 3]})
    assert close(net(ids()).last_hidden_state, masked)
    assert net.encoder.layers()[2].attention.self.query.weight.shape == (16, 32)
    with pytest.raises(ValueError, match="do not exist"):
        net.prune_heads({0: [4]})


def test_gradient_checkpointing_does_not_change_gradients_even_through_the_cache() -> None:
    def gradients(checkpointing: bool) -> dict[str, Tensor]:
        config = replace(CONFIG, gradient_checkpointing=checkpointing)
        config = replace(config, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
        net = lm(config).train()
        inputs = both()
        cache = net.bert(query_embeds=inputs["query_embeds"], use_cache=True,
                         encoder_hidden_states=inputs["encoder_hidden_states"]).past_key_values  # fmt: skip
        net(
            ids(), attention_mask=inputs["attention_mask"], past_key_values=cache, labels=ids()
        ).loss.backward()
        return {name: p.grad for name, p in net.named_parameters() if p.grad is not None}

    plain, checkpointed = gradients(False), gradients(True)
    assert plain.keys() == checkpointed.keys()
    assert all(torch.equal(plain[name], checkpointed[name]) for name in plain)


def test_lm_loss_direct_and_through_the_cache_agree() -> None:
    net = lm()
    inputs = both()
    labels = ids().masked_fill(inputs["attention_mask"][:, Q:] == 0, -100)
    direct = net(**inputs, labels=labels)
    cache = net.bert(query_embeds=inputs["query_embeds"], use_cache=True,
                     encoder_hidden_states=inputs["encoder_hidden_states"]).past_key_values  # fmt: skip
    cached = net(ids(), attention_mask=inputs["attention_mask"], past_key_values=cache, labels=labels)
    assert close(direct.loss, cached.loss)
    assert direct.logits.shape == (B, L, 50)
    per_row = net(**inputs, labels=labels, reduction="none").loss
    assert close(per_row.sum() / (labels[:, 1:] != -100).sum(), direct.loss)
    assert net(**inputs, labels=torch.full_like(labels, -100)).loss == 0


def test_masked_lm_works_with_and_without_queries() -> None:
    torch.manual_seed(0)
    net = BertForMaskedLM(CONFIG).eval()
    labels = torch.full((B, L), -100)
    labels[0, 2] = 11
    output = net(**both(), labels=labels)
    expected = -output.logits[0, 2].log_softmax(-1)[11]
    assert torch.allclose(output.loss, expected)
    assert net(ids(), labels=labels).loss.isfinite()


def greedy_by_hand(net: BertLMHeadModel, start: Tensor, inputs: dict[str, Tensor], length: int) -> Tensor:
    while start.shape[1] < length:
        logits = net(start, **inputs, attention_mask=torch.ones(B, Q + start.shape[1])).logits
        start = torch.cat([start, logits[:, -1].argmax(-1, keepdim=True)], 1)
    return start


def test_greedy_generation_with_cache_equals_recomputing_everything() -> None:
    net = lm()
    inputs = {"query_embeds": draw(1, B, Q, 32), "encoder_hidden_states": draw(2, B, N, 20)}
    start = torch.full((B, 1), 1)
    found = net.generate(start, SearchSettings(max_new_tokens=9), **inputs)
    assert torch.equal(found.sequences, greedy_by_hand(net, start, inputs, 10))


def test_prepared_inputs_are_those_of_the_next_step() -> None:
    net = lm()
    inputs = {"query_embeds": draw(1, B, Q, 32), "encoder_hidden_states": draw(2, B, N, 20)}
    cache = net.bert(**inputs, use_cache=True).past_key_values
    steps = []
    for length in range(1, L + 1):
        given = net.prepare_inputs_for_generation(ids()[:, :length], past=cache, **inputs)
        output = net(**given)
        cache = output.past_key_values
        steps.append(output.logits[:, -1])
    whole = net(ids(), **inputs, attention_mask=torch.ones(B, Q + L)).logits
    assert close(torch.stack(steps, 1), whole)


def test_beam_search_finds_the_best_of_all_short_texts() -> None:
    net = lm(replace(CONFIG, vocab_size=6))
    inputs = {"query_embeds": draw(1, B, Q, 32), "encoder_hidden_states": draw(2, B, N, 20)}
    start = torch.full((B, 1), 1)
    beams = SearchSettings(max_new_tokens=2, num_beams=6, num_return_sequences=2)
    found = net.generate(start, beams, **inputs)
    for row in range(B):
        every = torch.tensor([[1, a, b] for a in range(6) for b in range(6)])
        row_inputs = {name: value[row : row + 1].expand(36, -1, -1) for name, value in inputs.items()}
        logits = net(every, **row_inputs, attention_mask=torch.ones(36, Q + 3)).logits.log_softmax(-1)
        total = logits[:, :2].gather(2, every[:, 1:, None]).sum((1, 2))
        best = total.argsort(descending=True)[:2]
        assert torch.equal(found.sequences[2 * row : 2 * row + 2], every[best])
        assert found.scores is not None
        assert close(found.scores[2 * row : 2 * row + 2], total[best] / 3)


def test_generation_stops_at_the_end_token_and_obeys_the_minimal_length() -> None:
    net = lm()
    inputs = {"query_embeds": draw(1, B, Q, 32), "encoder_hidden_states": draw(2, B, N, 20)}
    start = torch.full((B, 1), 1)
    free = net.generate(start, SearchSettings(max_new_tokens=7), **inputs).sequences
    end = int(free[0, 2])
    cut = net.generate(
        start, SearchSettings(max_new_tokens=7, eos_token_id=end, min_length=0), **inputs
    ).sequences
    after = cut[0, (cut[0] == end).nonzero()[0, 0] + 1 :]
    assert (after == 0).all()
    long = net.generate(
        start, SearchSettings(max_new_tokens=7, eos_token_id=end, min_length=5), **inputs
    ).sequences
    assert (long[:, 1:6] != end).all()
    with pytest.raises(ConfigError, match="not both at once"):
        SearchSettings(eos_token_id=1, num_beams=2, do_sample=True)


def test_sampling_with_a_tiny_top_p_is_greedy() -> None:
    net = lm()
    inputs = {"query_embeds": draw(1, B, Q, 32), "encoder_hidden_states": draw(2, B, N, 20)}
    start = torch.full((B, 1), 1)
    greedy = net.generate(start, SearchSettings(max_new_tokens=7), **inputs)
    sampled = net.generate(start, SearchSettings(max_new_tokens=7, do_sample=True, top_p=1e-6), **inputs)
    assert torch.equal(greedy.sequences, sampled.sequences)


def test_without_text_half_same_numbers_and_a_clear_refusal_of_text() -> None:
    whole = lm()
    torch.manual_seed(1)
    queries_only = QueryModel(CONFIG).eval()
    own = queries_only.state_dict()
    assert not [name for name in own if any(re.match(text, f"Qformer.{name}") for text in TEXT_HALF)]
    queries_only.load_state_dict({k: v for k, v in whole.state_dict().items() if k in own})
    inputs = {"query_embeds": draw(1, B, Q, 32), "encoder_hidden_states": draw(2, B, N, 20)}
    assert torch.equal(queries_only.bert(**inputs).last_hidden_state, whole.bert(**inputs).last_hidden_state)
    with pytest.raises(ValueError, match="without its text half"):
        queries_only.bert(ids())


def test_wrong_calls_say_what_is_missing() -> None:
    net = model()
    with pytest.raises(ValueError, match="input_ids, query_embeds or both"):
        net()
    with pytest.raises(ValueError, match="encoder_hidden_states"):
        net(query_embeds=draw(1, B, Q, 32))
    with pytest.raises(ValueError, match="longer than the limit"):
        net(ids(length=25))
    with pytest.raises(ValueError, match="head_mask"):
        net(ids(), head_mask=torch.ones(2, 4))
    with pytest.raises(TypeError, match="mode"):
        net(ids(), mode="text")
    with pytest.raises(ValueError, match="position_embedding_type"):
        replace(CONFIG, position_embedding_type="rotary")


ATTENTION = (
    "hidden_states attention_mask head_mask encoder_hidden_states encoder_attention_mask past_key_value "
    "output_attentions"
)
INPUTS = (
    "input_ids attention_mask position_ids head_mask query_embeds encoder_hidden_states "
    "encoder_attention_mask"
)
ASKED = "past_key_values use_cache output_attentions output_hidden_states return_dict"


@pytest.mark.parametrize(
    ("module", "names"),
    [
        (BertSelfAttention, ATTENTION),
        (BertAttention, ATTENTION),
        (BertLayer, f"{ATTENTION} query_length"),
        (BertModel, f"{INPUTS} {ASKED} is_decoder"),
        (BertLMHeadModel, f"{INPUTS} labels {ASKED} return_logits is_decoder reduction"),
    ],
)
def test_forward_takes_the_arguments_of_the_reference_in_its_order(module: type, names: str) -> None:
    own = list(inspect.signature(module.forward).parameters)  # type: ignore[attr-defined]
    assert own[1 : 1 + len(names.split())] == names.split()


def test_one_head_at_least_remains() -> None:
    net = model()
    net.prune_heads({1: [0, 1, 2]})
    with pytest.raises(ValueError, match="at least one head"):
        net.prune_heads({1: [3]})
    assert net(**both()).last_hidden_state.isfinite().all()
