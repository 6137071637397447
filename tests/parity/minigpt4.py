"""Cases of the whole model: image to language-model inputs, loss and gradients."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from tests.parity.golden import Case, plain
from tests.parity.qformer import config
from xraygpt.conversation.messages import IMAGE_PLACEHOLDER
from xraygpt.models import prompted_model
from xraygpt.models.eva_vit import VisionConfig
from xraygpt.models.generation import lm_loss
from xraygpt.models.llm import load_tokenizer
from xraygpt.models.mini_gpt4 import MiniGPT4, MiniGPT4Config
from xraygpt.models.prompts import IMAGE_SLOT, caption_rows, pad_rows, prompt_row


def watching(watch: Callable[..., dict[str, Tensor]]) -> AbstractContextManager[Any]:
    """Let `watch` see what reaches the language model, in place of the loss that models with one compute."""
    return patch.object(prompted_model, "lm_loss", watch)


def build(case: Case, *, freeze_vit: bool, freeze_qformer: bool) -> MiniGPT4:
    """The model that the case's constructor arguments describe; its weights are not set."""
    given = case.constructor
    settings = MiniGPT4Config(
        vision=VisionConfig(**plain(given["vit"], VisionConfig)),
        qformer=config(given["bert_config"]),
        vit_precision="fp32",
        num_query_token=given["num_query_token"],
        max_txt_len=given["max_txt_len"],
        end_sym=given["end_sym"],
        prompt_template=given["prompt_template"],
        freeze_vit=freeze_vit,
        freeze_qformer=freeze_qformer,
    )
    llm = LlamaForCausalLM(LlamaConfig(**given["llama_config"]))
    return MiniGPT4.build(settings, llm=llm, tokenizer=load_tokenizer(case.folder))


def loaded(case: Case, **freezing: bool) -> MiniGPT4:
    """The model with the case's weights; what is frozen follows the case unless `freezing` says."""
    frozen = {name: bool(case.constructor[name]) for name in ("freeze_vit", "freeze_qformer")}
    model = build(case, **(frozen | freezing))
    case.load(model)
    return model


def run(case: Case) -> None:
    model = loaded(case)
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    case.comparison.exact("requires_grad_true", trained, case.values["requires_grad_true"])
    with torch.no_grad():
        _encoding(case, model)
    for name in case.values:
        if name.endswith(".settings"):
            _variant(case, model, name.removesuffix(".settings"))
    _unfrozen(case)


def _encoding(case: Case, model: MiniGPT4) -> None:
    images, check, prompt = case.inputs["images"], case.comparison, case.values["prompt_list"][0]
    check.output("vit_out", model.visual_encoder(images))
    check.output("ln_vision_out", model.embed_image(images))
    check.output("qformer_out", model.encode_queries(images))
    embeds, attention = model.encode_img(images)
    check.output("inputs_llama", embeds)
    check.output("atts_llama", attention)
    wrapped, mask = model.prompt_wrap(embeds, attention, prompt)
    check.output("wrapped_img_embeds", wrapped)
    check.output("wrapped_atts_img", mask)
    check.exact("prompt_before_after", prompt.split(IMAGE_PLACEHOLDER), case.values["prompt_before_after"])
    slots = [IMAGE_SLOT] * case.constructor["num_query_token"]
    row = [*case.values["prompt_before_ids"], *slots, *case.values["prompt_after_ids"]]
    check.exact("prompt ids", list(prompt_row(model.llama_tokenizer, prompt, len(slots), bos=False)), row)


def _set(case: Case, model: MiniGPT4, variant: str) -> dict[str, Any]:
    """Give the model a variant's settings; the batch for it."""
    for name, value in case.values[f"{variant}.settings"].items():
        setattr(model, name, value)
    model.zero_grad()
    return {"image": case.inputs["images"], "caption": case.values["captions"]}


def _variant(case: Case, model: MiniGPT4, variant: str) -> None:
    """What reaches the language model, the loss, and the gradients of the projection."""
    samples, check = _set(case, model, variant), case.comparison
    seen: dict[str, Tensor] = {}

    def watch(llm: Any, embeds: Tensor, mask: Tensor, labels: Tensor) -> dict[str, Tensor]:
        seen.update(inputs_embeds=embeds, attention_mask=mask, labels=labels)
        return lm_loss(llm, embeds, mask, labels)

    with watching(watch):
        loss = model(samples)["loss"]
    loss.backward()
    check.value(f"{variant}.loss", loss)
    for name, value in seen.items():
        check.optional(f"{variant}_{name}", value)
    rows = caption_rows(model.llama_tokenizer, samples["caption"], model.end_sym, model.max_txt_len)
    ids, mask = pad_rows(rows, model.llama_tokenizer.pad_token_id)
    check.output(f"{variant}_caption_ids", ids)
    check.output(f"{variant}_caption_mask", mask)
    check.optional(f"{variant}_grad_llama_proj_weight", model.llama_proj.weight.grad)
    check.optional(f"{variant}_grad_llama_proj_bias", model.llama_proj.bias.grad)
    if f"{variant}.grad_abs_sum" in case.values:
        check.gradients(model, f"{variant}.grad_abs_sum")
    tail = f"{variant}_logits_tail"
    if tail in case.outputs:
        with torch.no_grad():
            llm: Any = model.llama_model
            out = llm(inputs_embeds=seen["inputs_embeds"], attention_mask=seen["attention_mask"])
        check.output(tail, out.logits[:, -case.outputs[tail]["shape"][1] :])


def _unfrozen(case: Case) -> None:
    """Gradients of everything but the language model."""
    model = loaded(case, freeze_vit=False, freeze_qformer=False)
    loss = model(_set(case, model, "prompt"))["loss"]
    loss.backward()
    case.comparison.value("unfrozen.loss", loss)
    case.comparison.gradients(model, "unfrozen.grad_abs_sum")
