"""Cases of BLIP's BERT: fusion, relative positions, losses, the cache, generation."""

from typing import Any

import torch
from torch import Tensor

from tests.parity.golden import Case, plain
from tests.parity.search import search_settings
from xraygpt.models.med import BertForMaskedLM, BertLMHeadModel, BertModel, MedConfig


def config(case: Case) -> MedConfig:
    return MedConfig(**plain(case.constructor["config"], MedConfig))


def model(case: Case) -> BertModel:
    """The case's encoder with its weights."""
    made = BertModel(config(case), add_pooling_layer=case.constructor.get("add_pooling_layer", False))
    case.load(made)
    return made


def image(case: Case) -> dict[str, Any]:
    """Arguments that name what the text looks at."""
    names = {"encoder_hidden_states": "encoder_hidden_states", "encoder_attention_mask": "encoder_mask"}
    return {argument: case.inputs[name] for argument, name in names.items()}


@torch.no_grad()
def run_fusion(case: Case) -> None:
    """Text through the layers below `fusion_layer`, then with the image through those from it on."""
    net, given, check, look = model(case), case.inputs, case.comparison, image(case)
    ids, mask = given["text_ids"], given["text_mask"]
    text = net(ids, attention_mask=mask, mode="text").last_hidden_state
    check.output("text_last", text)
    after: dict[str, Any] = {"encoder_embeds": text, "attention_mask": mask, "mode": "fusion"}
    check.output("fusion_last", net(**after, **look).last_hidden_state)
    check.output("mm_last", net(ids, attention_mask=mask, **look).last_hidden_state)
    images = [given["encoder_hidden_states"], given["encoder_hidden_states_b"]]
    masks = [given["encoder_mask"]] * len(images)
    fused = net(**after, encoder_hidden_states=images, encoder_attention_mask=masks)
    check.output("fusion_list_last", fused.last_hidden_state)


@torch.no_grad()
def run_relative_positions(case: Case) -> None:
    """Positions that act in the attention scores."""
    given = case.inputs
    text = model(case)(given["text_ids"], attention_mask=given["text_mask"], mode="text")
    case.comparison.output("text_last", text.last_hidden_state)


def run_language_model(case: Case) -> None:
    """The decoder's losses and their gradients, and its cache."""
    net, given, check, look = BertLMHeadModel(config(case)), case.inputs, case.comparison, image(case)
    case.load(net)
    text = {"input_ids": given["text_ids"], "attention_mask": given["text_mask"], "labels": given["labels"]}
    out = net(**text, **look)
    check.output("logits", out.logits)
    check.value("loss", out.loss)
    out.loss.backward()
    check.gradients(net)
    with torch.no_grad():
        check.output("loss_none", net(**text, **look, reduction="none").loss)
        check.output("return_logits", net(**text, **look, return_logits=True))
        check.value("loss_text_mode", net(**text, mode="text").loss)
        check.value("loss_bidirectional", net(**text, **look, is_decoder=False).loss)
        soft = {"soft_labels": given["soft_raw"].softmax(-1), "alpha": case.call_number(r"alpha=([\d.]+)")}
        check.output("soft_loss", net(**text, **look, **soft, reduction="none").loss)
        _cache(case, net, look)


def _cache(case: Case, net: BertLMHeadModel, look: dict[str, Any]) -> None:
    ids, mask, check = case.inputs["text_ids"], case.inputs["text_mask"], case.comparison
    length = case.outputs["prefix_logits"]["shape"][1]
    prefix = net(ids[:, :length], attention_mask=mask[:, :length], **look, use_cache=True)
    check.output("prefix_logits", prefix.logits)
    cache = prefix.past_key_values
    for place, part in enumerate("kv"):
        for name, number in case.numbered(rf"past_{part}_(\d+)"):
            check.output(name, cache[number][place])
    seen = torch.cat([mask[:, :length], torch.ones_like(mask[:, :1])], dim=1)
    step = net(ids[:, length : length + 1], attention_mask=seen, past_key_values=cache, **look)
    check.output("step_logits", step.logits)
    reordered = net._reorder_cache(cache, _order(case))
    check.output("reordered_k_0", reordered[0][0])
    check.output("reordered_v_last", reordered[-1][1])


def _order(case: Case) -> Tensor:
    rows = case.call_text(r"_reorder_cache\(past, \[([\d, ]+)\]\)")
    return torch.tensor([int(row) for row in rows.split(",")])


@torch.no_grad()
def run_masked_language_model(case: Case) -> None:
    """The loss of masked words, with a teacher's answer too."""
    net, given, check, look = BertForMaskedLM(config(case)), case.inputs, case.comparison, image(case)
    case.load(net)
    text = {"input_ids": given["text_ids"], "attention_mask": given["text_mask"]}
    labelled = text | {"labels": given["mlm_labels"]}
    out = net(**labelled, **look)
    check.output("logits", out.logits)
    check.value("loss", out.loss)
    soft = {"soft_labels": given["soft_raw"].softmax(-1), "alpha": case.call_number(r"alpha=([\d.]+)")}
    check.value("soft_loss", net(**labelled, **look, **soft).loss)
    check.output("return_logits_text", net(**text, mode="text", return_logits=True))


@torch.no_grad()
def run_generation(case: Case) -> None:
    """Greedy and beam search; an output's name tells its settings, such as ``beam3_min10``."""
    net, check, given = BertLMHeadModel(config(case)), case.comparison, case.inputs
    case.load(net)
    start = given["text_ids"][:, : int(case.call_number(r"text_ids\[:, :(\d+)\]"))]
    for name in case.outputs:
        result = net.generate(start, search_settings(case, name, start.shape[1]), **image(case))
        check.output(name, result.sequences)
