"""Cases of BLIP's BERT as an encoder: text alone, text with an image, masks, embeddings, the cache."""

from typing import Any

import torch

from tests.parity.golden import Case
from tests.parity.med import image, model
from xraygpt.models.med import BertModel


@torch.no_grad()
def run(case: Case) -> None:
    """Every way the encoder is called; the fast attention path and the one that returns maps."""
    net = model(case)
    for maps in (True, False):
        _text(case, net, maps)
        _both(case, net, maps)
    _masks(case, net)
    _embeddings(case, net)
    _cache(case, net)


def _given(case: Case) -> dict[str, Any]:
    return {"input_ids": case.inputs["text_ids"], "attention_mask": case.inputs["text_mask"]}


def _text(case: Case, net: BertModel, maps: bool) -> None:
    out = net(**_given(case), mode="text", output_attentions=maps, output_hidden_states=True)
    check = case.comparison
    check.output("text_last", out.last_hidden_state)
    check.optional("text_pooler", out.pooler_output)
    for name, number in case.numbered(r"text_hidden_(\d+)"):
        check.output(name, out.hidden_states[number])
    for name, number in case.numbered(r"text_attn_(\d+)") if maps else []:
        check.output(name, out.attentions[number])


def _both(case: Case, net: BertModel, maps: bool) -> None:
    out = net(**_given(case), **image(case), output_attentions=maps)
    check = case.comparison
    check.output("mm_last", out.last_hidden_state)
    check.optional("mm_pooler", out.pooler_output)
    for name, number in case.numbered(r"mm_attn_(\d+)") if maps else []:
        check.output(name, out.attentions[number])


def _masks(case: Case, net: BertModel) -> None:
    given, look, check = _given(case), image(case), case.comparison
    ids, mask = given["input_ids"], given["attention_mask"]
    unmasked = {"encoder_hidden_states": look["encoder_hidden_states"]}
    check.output("mm_noencmask_last", net(**given, **unmasked)[0])
    check.output("mm_headmask_last", net(**given, **look, head_mask=case.inputs["head_mask"])[0])
    check.output("text_nomask_last", net(ids, mode="text")[0])
    check.output("causal_last", net(**given, **look, is_decoder=True)[0])
    check.output("causal_text_last", net(**given, is_decoder=True, mode="text")[0])
    causal = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.long).tril() * mask[:, None, :]
    check.output("mask3d_text_last", net(ids, attention_mask=causal, mode="text")[0])


def _embeddings(case: Case, net: BertModel) -> None:
    given, look, check = _given(case), image(case), case.comparison
    mask = {"attention_mask": given["attention_mask"]}
    embeds = case.inputs["embeds"]
    check.output("encoder_embeds_last", net(encoder_embeds=embeds, **mask, **look)[0])
    before = embeds.clone()
    check.output("inputs_embeds_text_last", net(inputs_embeds=embeds, **mask, mode="text")[0])
    check.exact("inputs_embeds_after_call", torch.equal(embeds, before), True)
    check.differs("inputs_embeds_after_call", "Inputs of BLIP's BERT")
    if "types_text_last" in case.outputs:
        types = case.inputs["token_type_ids"]
        check.output("types_text_last", net(**given, token_type_ids=types, mode="text")[0])
    fused = net(encoder_embeds=embeds, **mask, **look, mode="fusion")
    check.output("fusion_without_fusion_layer", fused[0])


def _cache(case: Case, net: BertModel) -> None:
    look, check = image(case), case.comparison
    ids, mask = case.inputs["text_ids"], case.inputs["text_mask"]
    first = int(case.call_number(r"tokens (\d+):\d+ with"))
    end = int(case.call_number(r"tokens \d+:(\d+) with"))
    prefix = {"attention_mask": mask[:, :first], "is_decoder": True, "use_cache": True}
    out = net(ids[:, :first], **prefix, **look)
    check.output("cache_prefix_last", out[0])
    step: dict[str, Any] = {"attention_mask": mask[:, :end], "is_decoder": True}
    for again in (look, {"encoder_attention_mask": look["encoder_attention_mask"]}):
        next_tokens = net(ids[:, first:end], past_key_values=out.past_key_values, **step, **again)
        check.output("cache_step_last", next_tokens[0])
