"""Cases of the Q-Former's `BertModel`: queries, text, both, masks and the cache."""

import torch

from tests.parity.golden import Case
from tests.parity.qformer import Inputs, config
from xraygpt.models.Qformer import BertModel


@torch.no_grad()
def run(case: Case) -> None:
    """Every way the encoder is called; the fast attention path and the one that returns maps."""
    model = BertModel(config(case.constructor["config"]), add_pooling_layer=True)
    case.load(model)
    given = Inputs.of(case)
    for maps in (True, False):
        _queries(case, model, given, maps)
        _both(case, model, given, maps)
    nomask = {name: value for name, value in given.queries.items() if name != "encoder_attention_mask"}
    case.comparison.output("query_nomask_last", model(**nomask)[0])
    _text(case, model)
    _cache(case, model, given)


def _queries(case: Case, model: BertModel, given: Inputs, maps: bool) -> None:
    out = model(**given.queries, output_attentions=maps, output_hidden_states=True, return_dict=True)
    check = case.comparison
    check.output("query_last", out.last_hidden_state)
    check.optional("query_pooler", out.pooler_output)
    for name, number in case.numbered(r"query_hidden_(\d+)"):
        check.output(name, out.hidden_states[number])
    if maps:
        for name, number in case.numbered(r"query_attn_(\d+)"):
            check.output(name, out.attentions[number])
        for name, number in case.numbered(r"query_cross_attn_(\d+)"):
            check.output(name, out.cross_attentions[number])


def _both(case: Case, model: BertModel, given: Inputs, maps: bool) -> None:
    out = model(given.ids, **given.both, output_attentions=maps, return_dict=True)
    check = case.comparison
    check.output("mm_last", out.last_hidden_state)
    if maps:
        for name, number in case.numbered(r"mm_attn_(\d+)"):
            check.output(name, out.attentions[number])
        for name, number in case.numbered(r"mm_cross_attn_(\d+)"):
            check.output(name, out.cross_attentions[number])
    check.optional("mm_unilm_last", model(given.ids, **given.both, is_decoder=True)[0])
    # The calls add the head mask to the causal pass, the recorded numbers tell which pass was meant.
    heads = case.inputs["head_mask"]
    for name, mask in (("mm_headmask_last", heads), ("mm_headmask1d_last", heads[0])):
        check.optional(name, model(given.ids, **given.both, head_mask=mask)[0])


def _text(case: Case, model: BertModel) -> None:
    ids, mask, check = case.inputs["text_ids"], case.inputs["text_mask"], case.comparison
    out = model(ids, attention_mask=mask)
    check.output("text_last", out[0])
    check.optional("text_pooler", out.pooler_output)
    check.output("text_nomask_last", model(ids)[0])
    places = case.inputs["position_ids"]
    check.output("text_posids_last", model(ids, attention_mask=mask, position_ids=places)[0])
    check.output("text_causal_last", model(ids, attention_mask=mask, is_decoder=True)[0])
    causal = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.long).tril() * mask[:, None, :]
    check.output("text_mask3d_last", model(ids, attention_mask=causal)[0])


def _cache(case: Case, model: BertModel, given: Inputs) -> None:
    cache = model(**given.queries, use_cache=True).past_key_values
    check, slots = case.comparison, given.queries["query_embeds"].shape[1]
    for place, part in enumerate("kv"):
        for name, number in case.numbered(rf"past_{part}_(\d+)"):
            check.output(name, cache[number][place])
    after = {"is_decoder": True, "use_cache": True}
    out = model(given.ids, attention_mask=given.mask, past_key_values=cache, **after)
    check.output("decode_last", out[0])
    steps = []
    for step in range(case.outputs["decode_steps_last"]["shape"][1]):
        mask = given.mask[:, : slots + step + 1]
        out = model(given.ids[:, step : step + 1], attention_mask=mask, past_key_values=cache, **after)
        cache = out.past_key_values
        steps.append(out[0])
    check.output("decode_steps_last", torch.cat(steps, dim=1))
