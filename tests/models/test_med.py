"""BLIP's BERT: its modes, the cache that keeps the image, losses with a teacher, generation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.tolerance import rounding
from xraygpt.models.bert_lm import SearchSettings
from xraygpt.models.med import BertForMaskedLM, BertLMHeadModel, BertModel, MedConfig

CONFIG = MedConfig(
    vocab_size=50,
    hidden_size=32,
    num_hidden_layers=4,
    num_attention_heads=4,
    intermediate_size=48,
    max_position_embeddings=24,
    encoder_width=20,
    initializer_range=0.3,
)
B, T, N = 2, 6, 7


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def ids() -> Tensor:
    return torch.randint(5, 50, (B, T), generator=torch.Generator().manual_seed(0))


def encoder(config: MedConfig = CONFIG) -> BertModel:
    torch.manual_seed(0)
    return BertModel(config).eval()


def decoder(config: MedConfig = CONFIG) -> BertLMHeadModel:
    torch.manual_seed(0)
    return BertLMHeadModel(config).eval()


def look(**changes: Any) -> dict[str, Any]:
    """An image to look at, the second one shorter."""
    mask = torch.ones(B, N, dtype=torch.long)
    mask[1, -2:] = 0
    return {"encoder_hidden_states": draw(2, B, N, 20), "encoder_attention_mask": mask, **changes}


def close(found: Tensor, expected: Tensor) -> bool:
    """Compare two ways to the same hidden states or logits: seven matrix products in each layer."""
    terms = 7 * CONFIG.hidden_size * CONFIG.num_hidden_layers
    return torch.allclose(found, expected, atol=rounding(float(expected.abs().max()), terms))


@pytest.mark.parametrize("is_decoder", [False, True])
def test_fast_path_and_map_path_agree(is_decoder: bool) -> None:
    net = encoder()
    fast = net(ids(), is_decoder=is_decoder, **look())
    maps = net(ids(), is_decoder=is_decoder, **look(), output_attentions=True, output_hidden_states=True)
    assert close(fast.last_hidden_state, maps.last_hidden_state)
    assert [tuple(a.shape) for a in maps.attentions] == [(B, 4, T, T)] * 4
    assert [tuple(a.shape) for a in maps.cross_attentions] == [(B, 4, T, N)] * 4
    assert maps.cross_attentions[0][1, :, :, 5:].abs().max() == 0
    assert len(maps.hidden_states) == 5


def test_text_mode_never_looks_at_the_image_and_multimodal_does() -> None:
    net = encoder()
    alone = net(ids(), mode="text").last_hidden_state
    assert torch.equal(net(ids(), mode="text", **look()).last_hidden_state, alone)
    seen = net(ids(), **look()).last_hidden_state
    assert not torch.allclose(seen, alone, atol=1e-3)
    other = net(ids(), **look(encoder_hidden_states=draw(3, B, N, 20))).last_hidden_state
    assert not torch.allclose(seen, other, atol=1e-3)


def test_fusion_after_text_is_one_multimodal_pass() -> None:
    net = encoder(replace(CONFIG, fusion_layer=2))
    assert [layer.has_cross_attention for layer in net.encoder.layers()] == [False, False, True, True]
    whole = net(ids(), **look(), output_hidden_states=True)
    text = net(ids(), mode="text").last_hidden_state
    assert torch.equal(text, whole.hidden_states[2])
    fused = net(encoder_embeds=text, mode="fusion", **look())
    assert torch.equal(fused.last_hidden_state, whole.last_hidden_state)


def test_several_images_are_looked_at_in_turn() -> None:
    net = encoder(replace(CONFIG, fusion_layer=2))
    one, two = draw(2, B, N, 20), draw(3, B, N + 2, 20)
    whole = net(ids(), encoder_hidden_states=[one, two], output_hidden_states=True)
    first = net(ids(), encoder_hidden_states=one, output_hidden_states=True)
    assert torch.equal(whole.hidden_states[3], first.hidden_states[3])
    assert not torch.allclose(whole.hidden_states[4], first.hidden_states[4], atol=1e-3)


def test_cache_gives_the_numbers_of_one_pass_and_keeps_the_image() -> None:
    net = decoder()
    whole = net(ids(), **look()).logits
    first = net(ids()[:, :4], **look(), use_cache=True)
    image_mask = {"encoder_attention_mask": look()["encoder_attention_mask"]}
    rest = net(ids()[:, 4:], past_key_values=first.past_key_values, **image_mask)
    assert close(torch.cat([first.logits, rest.logits], 1), whole)
    text_alone = tuple((key, value) for key, value, *_ in first.past_key_values)
    again = net(ids()[:, 4:], past_key_values=text_alone, **look())
    assert torch.equal(again.logits, rest.logits)


def test_reordering_the_cache_reorders_text_and_image() -> None:
    net = decoder()
    cache = net(ids()[:, :4], encoder_hidden_states=draw(2, B, N, 20), use_cache=True).past_key_values
    swap = torch.tensor([1, 0])
    straight = net(ids()[:, 4:], past_key_values=cache).logits
    swapped = net(ids()[swap][:, 4:], past_key_values=net._reorder_cache(cache, swap)).logits
    assert close(swapped, straight[swap])


def test_token_types_count_only_where_they_are_given() -> None:
    net = encoder(replace(CONFIG, add_type_embeddings=True))
    plain = net(ids(), mode="text").last_hidden_state
    types = torch.ones(B, T, dtype=torch.long)
    assert not torch.allclose(net(ids(), token_type_ids=types, mode="text").last_hidden_state, plain)
    with pytest.raises(ValueError, match="add_type_embeddings"):
        encoder()(ids(), token_type_ids=types, mode="text")


def test_inputs_embeds_stand_for_ids_and_are_left_alone() -> None:
    net = encoder()
    words = net.get_input_embeddings()
    assert words is not None
    embeds = words(ids()).detach()
    before = embeds.clone()
    given = net(inputs_embeds=embeds, mode="text").last_hidden_state
    assert torch.equal(given, net(ids(), mode="text").last_hidden_state)
    assert torch.equal(embeds, before)


def test_gradient_checkpointing_does_not_change_gradients() -> None:
    def gradients(checkpointing: bool) -> dict[str, Tensor]:
        config = replace(CONFIG, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
        net = decoder(replace(config, gradient_checkpointing=checkpointing)).train()
        net(ids(), **look(), labels=ids()).loss.backward()
        return {name: p.grad for name, p in net.named_parameters() if p.grad is not None}

    plain, checkpointed = gradients(False), gradients(True)
    assert plain.keys() == checkpointed.keys()
    assert all(torch.equal(plain[name], checkpointed[name]) for name in plain)


def test_pruned_heads_equal_masked_heads() -> None:
    net = encoder()
    keep = torch.ones(4, 4)
    keep[0, 1] = keep[3, 2] = 0
    masked = net(ids(), mode="text", head_mask=keep).last_hidden_state
    net.prune_heads({0: [1], 3: [2]})
    assert close(net(ids(), mode="text").last_hidden_state, masked)


def test_a_teacher_that_is_certain_of_the_labels_is_the_unsmoothed_loss() -> None:
    torch.manual_seed(0)
    net = BertForMaskedLM(CONFIG).eval()
    labels = ids().masked_fill(torch.arange(T) % 2 == 0, -100)
    certain = torch.nn.functional.one_hot(ids(), 50).float()
    hard = net(ids(), **look(), labels=labels).loss
    assert torch.allclose(net(ids(), **look(), labels=labels, soft_labels=certain, alpha=0.7).loss, hard)
    vague = torch.full((B, T, 50), 1 / 50)
    logits = net(ids(), **look()).logits
    expected = -logits.log_softmax(-1).mean(-1)[labels != -100].mean()
    found = net(ids(), **look(), labels=labels, soft_labels=vague, alpha=1.0).loss
    assert torch.allclose(found, expected)


@pytest.mark.parametrize("fusion_layer", [None, 2])
def test_greedy_generation_with_cache_equals_recomputing_everything(fusion_layer: int | None) -> None:
    net = decoder(replace(CONFIG, fusion_layer=fusion_layer))
    sequence = torch.full((B, 2), 3)
    found = net.generate(sequence, SearchSettings(max_new_tokens=8), **look())
    while sequence.shape[1] < 10:
        logits = net(sequence, **look()).logits
        sequence = torch.cat([sequence, logits[:, -1].argmax(-1, keepdim=True)], 1)
    assert torch.equal(found.sequences, sequence)


def test_prepared_inputs_are_those_of_the_next_step() -> None:
    net = decoder()
    text, cache, steps = ids(), None, []
    for length in range(2, T + 1):
        given = net.prepare_inputs_for_generation(text[:, :length], past=cache, **look())
        output = net(**given, use_cache=True)
        cache = output.past_key_values
        steps.append(output.logits[:, -1])
    assert close(torch.stack(steps, 1), net(text, **look()).logits[:, 1:])


def test_beams_are_at_least_as_likely_as_the_greedy_text() -> None:
    net = decoder()
    start = torch.full((B, 1), 3)
    greedy = net.generate(start, SearchSettings(max_new_tokens=5), **look()).sequences
    settings = SearchSettings(max_new_tokens=5, num_beams=8)
    beams = net.generate(start, settings, **look())

    def likelihood(text: Tensor) -> Tensor:
        scores = net(text, **look()).logits.log_softmax(-1)[:, :-1]
        return scores.gather(2, text[:, 1:, None]).sum((1, 2))

    assert (likelihood(beams.sequences) >= likelihood(greedy) - 1e-5).all()
    assert beams.scores is not None
    assert close(likelihood(beams.sequences) / 6, beams.scores)


def test_wrong_calls_say_what_is_missing() -> None:
    net = encoder()
    with pytest.raises(ValueError, match="encoder_hidden_states"):
        net(ids())
    with pytest.raises(ValueError, match="mode must be one of"):
        net(ids(), mode="images")
    with pytest.raises(ValueError, match="input_ids, inputs_embeds or encoder_embeds"):
        net(mode="text")
    with pytest.raises(TypeError, match="query_length"):
        net(ids(), query_embeds=draw(1, B, 3, 32), **look())
    with pytest.raises(ValueError, match="fusion_layer"):
        replace(CONFIG, fusion_layer=5)
