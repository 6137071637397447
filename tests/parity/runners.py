"""Which runner compares a case: chosen by the reference's file and class that the case names."""

import re
from collections.abc import Callable, Mapping

from tests.parity import (
    blip2,
    chat,
    config_merge,
    conversation,
    eva_vit,
    llama,
    med,
    med_passes,
    minigpt4,
    param_groups,
    processors,
    qformer,
    qformer_passes,
    schedules,
)
from tests.parity.golden import Case

Runner = Callable[[Case], None]

RUNNERS: tuple[tuple[str, str, Runner], ...] = (
    (r"models/eva_vit\.py", r"VisionTransformer", eva_vit.run_forward),
    (r"models/eva_vit\.py", r"interpolate_pos_embed", eva_vit.run_interpolate),
    (r"models/eva_vit\.py", r"convert_weights_to_fp16", eva_vit.run_half_precision),
    (r"models/Qformer\.py", r"BertModel\(", qformer_passes.run),
    (r"models/Qformer\.py", r"BertModel.*save_attention", qformer.run_saved_attention),
    (r"models/Qformer\.py", r"BertModel.*position_embedding_type", qformer.run_relative_positions),
    (r"models/Qformer\.py", r"BertModel\.prune_heads", qformer.run_pruning),
    (r"models/Qformer\.py", r"BertLMHeadModel\.generate", qformer.run_generation),
    (r"models/Qformer\.py", r"BertLMHeadModel$", qformer.run_language_model),
    (r"models/Qformer\.py", r"BertForMaskedLM", qformer.run_masked_language_model),
    (r"models/med\.py", r"BertModel\(config, ", med_passes.run),
    (r"models/med\.py", r"BertModel\(config with fusion_layer", med.run_fusion),
    (r"models/med\.py", r"BertModel position_embedding_type", med.run_relative_positions),
    (r"models/med\.py", r"BertLMHeadModel\.generate", med.run_generation),
    (r"models/med\.py", r"BertLMHeadModel$", med.run_language_model),
    (r"models/med\.py", r"BertForMaskedLM", med.run_masked_language_model),
    (r"blip2_models/blip2_qformer\.py", r"Blip2Qformer", blip2.run),
    (r"models/mini_gpt4\.py", r"transformers\.LlamaTokenizer", llama.run_tokenizer),
    (r"models/mini_gpt4\.py", r"MiniGPT4", minigpt4.run),
    (r"models/modeling_llama\.py", r"LlamaForCausalLM", llama.run_model),
    (r"conversation/conversation\.py", r"Conversation", conversation.run),
    (r"conversation/conversation\.py", r"Chat\(model\)", chat.run),
    (r"common/optims\.py", r"Linear", schedules.run),
    (r"processors/blip_processors\.py", r"Blip", processors.run),
    (r"runners/runner_base\.py", r"RunnerBase\.optimizer", param_groups.run),
    (r"common/config\.py", r"Config", config_merge.run),
)
"""Beginning of a path inside the reference, of a class or function, and what compares them."""


def runner_of(reference: Mapping[str, str]) -> Runner | None:
    """The runner for a case's ``reference`` entry; None if there is none."""
    for file, name, runner in RUNNERS:
        if re.match(rf"(\w+/)*{file}", reference["file"]) and re.match(name, reference["cls"]):
            return runner
    return None
