"""Cases of BLIP-2's first stage."""

from typing import Any

import torch
from torch import Tensor

from tests.parity.golden import Case, plain
from tests.parity.qformer import config
from xraygpt.models.blip2_qformer import Blip2Qformer, Blip2QformerConfig
from xraygpt.models.eva_vit import VisionConfig
from xraygpt.models.generation import GenerationConfig
from xraygpt.tasks.retrieval import compute_sim_matrix

LOSSES = ("loss", "loss_itc", "loss_itm", "loss_lm")


def run(case: Case) -> None:
    model = build(case, freeze_vit=case.constructor["freeze_vit"])
    _start(case, model)
    case.load(model)
    _losses(case, model)
    with torch.no_grad():
        _parts(case, model)
        _features(case, model)
        _retrieval(case, model)
        _captions(case, model)


def build(case: Case, *, freeze_vit: bool) -> Blip2Qformer:
    """The model that the case's constructor arguments describe; its weights are not set."""
    given = case.constructor
    vision = VisionConfig(**plain(given["vit"], VisionConfig))
    bert = given["bert_config"] | {
        "cross_attention_freq": given["cross_attention_freq"],
        "encoder_width": given["vit"]["embed_dim"],
        "query_length": given["num_query_token"],
    }
    settings = Blip2QformerConfig(
        vision=vision,
        qformer=config(bert),
        num_query_token=given["num_query_token"],
        embed_dim=given["embed_dim"],
        max_txt_len=given["max_txt_len"],
        freeze_vit=freeze_vit,
        bert_tokenizer=str(case.folder / "wordpiece_vocab.txt"),
        mask_same_report=False,  # the reference takes a pair's own text alone for its match
    )
    return Blip2Qformer.build(settings)


def _start(case: Case, model: Blip2Qformer) -> None:
    """What a model has before weights are loaded: its special tokens, and copies of its text half."""
    recorded, check = case.values["special_ids"], case.comparison
    own = {name: getattr(model.tokenizer, f"{name}_token_id", None) for name in recorded}
    check.exact("special_ids", own | {"len": len(model.tokenizer)}, recorded)
    copied = all(
        torch.equal(copy, original)
        for layer in model.Qformer.bert.encoder.layers()
        for part, whole in (
            (layer.intermediate_query, layer.intermediate),
            (layer.output_query, layer.output),
        )
        for copy, original in zip(part.parameters(), whole.parameters(), strict=True)
    )
    name = "query_branch_initialised_as_copy"
    check.exact(name, copied, case.values[name])


def _losses(case: Case, model: Blip2Qformer) -> None:
    images, texts, check = case.inputs["images"], case.values["texts"], case.comparison
    (batch,) = case.call_numbers(r"images\[:(\d+)\]")
    out, terms = _losses_and_terms(model, {"image": images[:batch], "caption": texts[:batch]})
    for name in LOSSES:
        check.value(name, out[name], terms[name])
    out["loss"].backward()
    # Of the similarities, which are a cosine over `temp`, over `temp` again.
    check.gradients(model, terms={"temp": float(model.temp.detach()) ** -2})
    model.zero_grad()
    if "image_id.loss" in case.values:
        a, b, c, d = case.call_numbers(r"images\[(\d+):(\d+)\], 'text_input': texts\[(\d+):(\d+)\]")
        samples: dict[str, Any] = {"image": images[a:b], "caption": texts[c:d]}
        samples["image_id"] = [str(number) for number in range(a, b)]
        out, terms = _losses_and_terms(model, samples)
        for name in LOSSES:
            check.value(f"image_id.{name}", out[name], terms[name])


def _losses_and_terms(
    model: Blip2Qformer, samples: dict[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The losses, and how large the logits are whose differences they are; the report's are no larger."""
    matching: list[Tensor] = []
    with model.itm_head.register_forward_hook(lambda _head, _args, logits: matching.append(logits.detach())):
        out = model(samples)
    sizes = {"loss_itc": 1 / model.temp.detach(), "loss_itm": torch.cat(matching).abs().max()}
    sizes["loss_lm"] = out["loss_lm"].detach()
    return out, sizes | {"loss": torch.stack(list(sizes.values()))}


def _parts(case: Case, model: Blip2Qformer) -> None:
    images, check = case.inputs["images"], case.comparison
    tokens = model.tokenize(case.values["texts"], padding="max_length")
    check.output("text_ids", tokens.input_ids)
    check.output("text_mask", tokens.attention_mask)
    hidden, patches = model.forward_image(images)
    check.output("forward_image_hidden", hidden)
    check.output("forward_image_vit", patches)
    check.output("forward_text_cls", model.forward_text(tokens))
    check.output("itm_scores", model.compute_itm(patches, tokens.input_ids, tokens.attention_mask))


def _features(case: Case, model: Blip2Qformer) -> None:
    rows = case.outputs["features_text_ids"]["shape"][0]
    images, texts, check = case.inputs["images"][:rows], case.values["texts"][:rows], case.comparison
    tokens = model.tokenize(texts, max_length=model.max_length)
    check.output("features_text_ids", tokens.input_ids)
    check.output("features_text_mask", tokens.attention_mask)
    for mode in ("image", "text", "multimodal"):
        features = model.extract_features({"image": images, "caption": texts}, mode=mode)
        for field, value in features.items():
            check.optional(f"features_{mode}_{field}", value)


def _retrieval(case: Case, model: Blip2Qformer) -> None:
    images, texts, check = case.inputs["images"], case.values["texts"], case.comparison
    length = case.outputs["sim_text_ids"]["shape"][1]
    tokens = model.tokenizer(
        texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt"
    )
    check.output("sim_text_ids", tokens.input_ids)
    check.output("sim_text_mask", tokens.attention_mask)
    batch = int(case.call_number(r"in batches of (\d+)"))
    loader = [{"image": part} for part in images.split(batch)]
    for name, best in case.numbered(r"sim_i2t_k(\d+)"):
        to_text, to_image = compute_sim_matrix(model, loader, texts=texts, k_test=best, max_txt_len=length)
        check.output(name, to_text)
        check.output(f"sim_t2i_k{best}", to_image)


def _captions(case: Case, model: Blip2Qformer) -> None:
    """Greedy captions; in the reference, beams fail."""
    name = "generate_num_beams1_captions"
    if name not in case.values:
        return
    expected = case.values[name]
    # Counted with the start token in the reference, without it here.
    longest, shortest = (
        int(case.call_number(rf"generate\(.*\b{word}_length=(\d+)")) for word in ("max", "min")
    )
    generation = GenerationConfig(max_new_tokens=longest - 1, min_length=shortest - 1)
    got = model.generate({"image": case.inputs["images"][: len(expected)]}, generation)
    case.comparison.exact(name, got, expected)
