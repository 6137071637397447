"""Cases of the Q-Former alone: losses, saved attention, relative positions, pruning, generation."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tests.parity.arithmetic import in_reference_order
from tests.parity.golden import Case, plain
from tests.parity.search import search_settings
from xraygpt.models.bert_lm import SearchResult, SearchSettings, search
from xraygpt.models.Qformer import BertForMaskedLM, BertLMHeadModel, BertModel, QformerConfig


def config(values: dict[str, Any]) -> QformerConfig:
    return QformerConfig(**plain(values, QformerConfig))


@dataclass
class Inputs:
    """Queries, what they attend to, and the text behind them."""

    queries: dict[str, Any]
    """Arguments of the pass over the queries alone."""
    ids: Tensor
    text_mask: Tensor
    mask: Tensor
    """Of queries and text."""

    @classmethod
    def of(cls, case: Case) -> "Inputs":
        given = case.inputs
        query, text_mask = given["query_embeds"], given["mm_text_mask"]
        queries: dict[str, Any] = {"query_embeds": query}
        if "encoder_hidden_states" in given:
            queries["encoder_hidden_states"] = given["encoder_hidden_states"]
            queries["encoder_attention_mask"] = given["encoder_mask"]
        mask = torch.cat([torch.ones(query.shape[:2], dtype=torch.long), text_mask], dim=1)
        return cls(queries, given["mm_text_ids"], text_mask, mask)

    @property
    def both(self) -> dict[str, Any]:
        """Arguments of the pass over queries and text."""
        return self.queries | {"attention_mask": self.mask}


def run_saved_attention(case: Case) -> None:
    """Attention maps kept for inspection, and their gradients."""
    settings = config(case.constructor["config"])
    model, given, check = BertModel(settings), Inputs.of(case), case.comparison
    case.load(model)
    layers: Any = model.encoder.layer
    crossing = list(range(0, len(layers), settings.cross_attention_freq))
    for number in crossing:
        layers[number].crossattention.self.save_attention = True
    query, states = given.queries["query_embeds"], given.queries["encoder_hidden_states"]
    query.requires_grad_()
    states.requires_grad_()
    hidden = model(given.ids, **given.both)[0]
    terms = hidden[:, : query.shape[1]] * case.inputs["loss_weight"]
    loss = terms.sum()
    loss.backward()
    check.value("loss", loss, terms)
    for number in crossing:
        attention = layers[number].crossattention.self
        check.output(f"attention_map_{number}", attention.get_attention_map())
        check.output(f"attn_gradients_{number}", attention.get_attn_gradients())
    check.output("grad_query_embeds", query.grad)
    check.output("grad_encoder_hidden_states", states.grad)
    check.gradients(model)


@torch.no_grad()
def run_relative_positions(case: Case) -> None:
    """Relative positions, with cross-attention and without."""
    model, given, check = BertModel(config(case.constructor["config"])), case.inputs, case.comparison
    case.load(model)
    ids, mask, query = given["text_ids"], given["text_mask"], given["query_embeds"]
    check.output("text_last", model(ids, attention_mask=mask)[0])
    check.output("text_causal_last", model(ids, attention_mask=mask, is_decoder=True)[0])
    states = given["encoder_hidden_states_same_len"]
    check.output("query_same_len_last", model(query_embeds=query, encoder_hidden_states=states)[0])
    shorter = model(query_embeds=query, encoder_hidden_states=states[:, :-1])[0]
    check.mended("reference_errors", shorter, "Relative positions")
    model = BertModel(config(case.constructor["config_nocross"]))
    case.load(model, "state_dict_nocross")
    both = Inputs.of(case)
    check.output("nocross_mm_last", model(both.ids, **both.both)[0])


def run_language_model(case: Case) -> None:
    """The loss of text after queries, by the cache and directly, and its gradients."""
    model, given, check = (
        BertLMHeadModel(config(case.constructor["config"])),
        Inputs.of(case),
        case.comparison,
    )
    case.load(model)
    labels = given.ids.masked_fill(given.text_mask == 0, -100)
    cache = model.bert(**given.queries, use_cache=True).past_key_values
    after: dict[str, Any] = {"attention_mask": given.mask, "past_key_values": cache}
    out = model(given.ids, **after, labels=labels)
    check.output("logits", out.logits)
    check.value("loss", out.loss)
    out.loss.backward(retain_graph=True)
    check.gradients(model)
    check.output("loss_none", model(given.ids, **after, labels=labels, reduction="none").loss)
    check.output("return_logits", model(given.ids, **after, return_logits=True))
    if "tuple_loss" in case.values:
        check.value("tuple_loss", model(given.ids, **after, labels=labels).loss)
    out = model(given.ids, **given.both, labels=labels)
    check.value("direct_loss", out.loss)
    check.output("direct_logits", out.logits)
    out = model(given.ids, attention_mask=given.text_mask, labels=labels, is_decoder=False)
    check.value("bidirectional_loss", out.loss)


def run_masked_language_model(case: Case) -> None:
    """The loss of masked words behind queries."""
    model, given = BertForMaskedLM(config(case.constructor["config"])), Inputs.of(case)
    case.load(model)
    out = model(given.ids, **given.both, labels=case.inputs["mlm_labels"])
    case.comparison.value("loss", out.loss)
    case.comparison.output("logits", out.logits)
    out.loss.backward()
    case.comparison.gradients(model)
    alone = model(given.ids, attention_mask=given.text_mask, labels=case.inputs["mlm_labels"]).loss
    case.comparison.mended("reference_error_without_query_embeds", alone, "Masked words without queries")


@torch.no_grad()
def run_pruning(case: Case) -> None:
    """Heads taken out, twice."""
    model, given, check = BertModel(config(case.constructor["config"])), Inputs.of(case), case.comparison
    case.load(model)
    check.output("before", model(given.ids, **given.both)[0])
    layers: Any = model.encoder.layer
    for turn, output in (("first", "after"), ("second", "after_second")):
        heads = {int(layer): numbers for layer, numbers in case.values[f"{turn}_prune"].items()}
        model.prune_heads(heads)
        check.output(output, model(given.ids, **given.both)[0])
        own = {name: list(weight.shape) for name, weight in model.state_dict().items()}
        for name, shape in case.values[f"shapes_after_{turn}"].items():
            check.exact(f"{turn} {name}", own.get(name), shape)
    gone = {str(number): sorted(layer.attention.pruned_heads) for number, layer in enumerate(layers)}
    check.exact("pruned_heads", gone, case.values["pruned_heads"])
    gone = {number: heads for number, heads in gone.items() if heads}
    check.exact("config_pruned_heads", gone, case.values["config_pruned_heads"])


@torch.no_grad()
def run_generation(case: Case) -> None:
    """Greedy and beam search; an output's name tells its settings, such as ``beam4_min8``."""
    model, check = BertLMHeadModel(config(case.constructor["config"])), case.comparison
    case.load(model)
    for name in case.outputs:
        if name.endswith("_scores"):
            continue
        result = _generate(case, model, search_settings(case, name, 1))
        check.output(name, result.sequences)
        if f"{name}_scores" in case.outputs:
            assert result.scores is not None
            check.output(f"{name}_scores", result.scores)


def _generate(case: Case, model: BertLMHeadModel, settings: SearchSettings) -> SearchResult:
    query = case.inputs["query_embeds"]
    start = torch.full((len(query), 1), case.values["bos_token_id"])
    look = {"query_embeds": query, "encoder_hidden_states": case.inputs["encoder_hidden_states"]}
    look["encoder_attention_mask"] = case.inputs["encoder_mask"]
    if in_reference_order():
        return _generate_uncached(model, start, settings, look)
    return model.generate(start, settings, **look)


@dataclass
class Prefix:
    """In place of a cache: what was written so far, and to which image each row belongs."""

    ids: Tensor
    images: Tensor

    def reorder(self, rows: Tensor) -> "Prefix":
        return Prefix(self.ids[rows], self.images[rows])


def _generate_uncached(
    model: BertLMHeadModel, start: Tensor, settings: SearchSettings, look: dict[str, Tensor]
) -> SearchResult:
    """As the reference, which runs queries and text anew for each token."""

    def step(tokens: Tensor, cache: Any) -> tuple[Tensor, Prefix]:
        ids = torch.cat([cache.ids, tokens], dim=1)
        mask = torch.ones(len(ids), look["query_embeds"].shape[1] + ids.shape[1], dtype=torch.long)
        rows = {name: value[cache.images] for name, value in look.items()}
        out = model(ids, attention_mask=mask, **rows, is_decoder=True)
        return out.logits[:, -1], Prefix(ids, cache.images)

    return search(step, start, Prefix(start[:, :0], torch.arange(len(start))), settings)
