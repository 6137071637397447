"""Cases of the language model alone, and of its tokenizer."""

import hashlib

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.parity.golden import Case
from xraygpt.models.generation import lm_loss
from xraygpt.models.llm import load_tokenizer


def run_model(case: Case) -> None:
    """Logits, hidden states, maps, padding on both sides, the cache and the loss."""
    model = LlamaForCausalLM(LlamaConfig(**case.constructor["config"] | {"attn_implementation": "eager"}))
    case.load(model)
    with torch.no_grad():
        _whole(case, model)
        _padded(case, model)
        _cached(case, model)
    embeds = model.get_input_embeddings()(case.inputs["input_ids"])
    loss = lm_loss(model, embeds, case.inputs["mask_right"], case.inputs["labels"])["loss"]
    loss.backward()
    case.comparison.value("loss", loss)
    case.comparison.gradients(model)


def _whole(case: Case, model: LlamaForCausalLM) -> None:
    out = model(case.inputs["input_ids"], output_hidden_states=True, output_attentions=True, use_cache=True)
    check = case.comparison
    check.output("logits", out.logits)
    for name, number in case.numbered(r"hidden_(\d+)"):
        check.output(name, out.hidden_states[number])
    for name, number in case.numbered(r"attn_(\d+)"):
        check.output(name, out.attentions[number])
    for name, number in case.numbered(r"past_k_(\d+)"):
        check.output(name, out.past_key_values.layers[number].keys)
    for name, number in case.numbered(r"past_v_(\d+)"):
        check.output(name, out.past_key_values.layers[number].values)


def _padded(case: Case, model: LlamaForCausalLM) -> None:
    ids, right, left = (case.inputs[name] for name in ("input_ids", "mask_right", "mask_left"))
    length = case.outputs["logits_right_pad"]["shape"][1]
    logits = model(ids, attention_mask=right).logits
    case.comparison.output("logits_right_pad", logits[:, :length])
    places = (left.cumsum(-1) - 1).masked_fill(left == 0, 1)
    logits = model(ids, attention_mask=left, position_ids=places).logits
    case.comparison.output("logits_left_pad", logits[:, -case.outputs["logits_left_pad"]["shape"][1] :])


def _cached(case: Case, model: LlamaForCausalLM) -> None:
    start = int(case.call_number(r"(\d+) tokens then"))
    ids = case.inputs["input_ids"]
    cache = model(ids[:, :start], use_cache=True).past_key_values
    for name in ("cached_logits", "cached_logits_2"):
        end = start + case.outputs[name]["shape"][1]
        out = model(ids[:, start:end], past_key_values=cache, use_cache=True)
        case.comparison.output(name, out.logits)
        start, cache = end, out.past_key_values


def run_tokenizer(case: Case) -> None:
    """Ids and texts, with special tokens and without, and padded batches."""
    tokenizer, check = load_tokenizer(case.folder), case.comparison
    digest = hashlib.sha256((case.folder / "tokenizer.model").read_bytes()).hexdigest()
    check.exact("sha256_tokenizer_model", digest, case.values["sha256_tokenizer_model"])
    for given in case.values["cases"]:
        text = given["text"]
        ids = tokenizer(text).input_ids
        check.exact(f"ids of {text!r}", tokenizer(text, add_special_tokens=False).input_ids, given["ids"])
        check.exact(f"ids with BOS of {text!r}", ids, given["ids_with_bos"])
        check.exact(f"pieces of {text!r}", tokenizer.convert_ids_to_tokens(given["ids"]), given["pieces"])
        check.exact(f"text of {text!r}", tokenizer.decode(ids), given["decoded"])
        plain_text = tokenizer.decode(ids, skip_special_tokens=True)
        check.exact(f"plain text of {text!r}", plain_text, given["decoded_skip_special"])
    special = case.values["special"]
    own = {name: getattr(tokenizer, f"{name}_token_id") for name in ("unk", "bos", "eos", "pad")}
    own |= {"vocab_size": tokenizer.vocab_size, "len": len(tokenizer)}
    check.exact("special", own, {name: special.get(name) for name in own})
    check.exact("default_padding_side", tokenizer.padding_side, case.values["default_padding_side"])
    longest = int(case.call_number(r"max_length=(\d+)"))
    for side, ending in ((tokenizer.padding_side, ""), ("right", "_right")):
        tokenizer.padding_side = side
        batch = tokenizer(
            case.values["batch_texts"],
            padding="longest",
            truncation=True,
            max_length=longest,
            add_special_tokens=False,
            return_tensors="pt",
        )
        check.output(f"batch_ids{ending}", batch.input_ids)
        check.output(f"batch_mask{ending}", batch.attention_mask)
