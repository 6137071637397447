"""Prompts and reports as the language model reads them, in plain templates and in its tokenizer's own."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerBase

from tests.models.tiny import byte_level, change_json, tiny_config
from xraygpt.common.errors import ConfigError
from xraygpt.conversation.chat import Chat
from xraygpt.conversation.chat_template import chat_format, render_chat
from xraygpt.conversation.messages import IMAGE_MARK, trained_conversation
from xraygpt.models.causal_lm import CausalLM, CausalLMConfig, LlamaSizes
from xraygpt.models.llm import end_token_ids, load_tokenizer
from xraygpt.models.mini_gpt4 import MiniGPT4, MiniGPT4Config
from xraygpt.models.prompts import caption_rows, prompt_row

CASES = Path(__file__).resolve().parents[1] / "parity" / "cases"


def test_a_caption_that_is_cut_has_no_end() -> None:
    tokenizer = load_tokenizer(CASES)
    (whole,) = caption_rows(tokenizer, ["The heart is normal."], "###", 100)
    assert tokenizer.decode(whole).endswith("normal.###")
    (cut,) = caption_rows(tokenizer, ["The heart is normal."], "###", len(whole) - 2)
    assert cut == whole[:-2]
    assert "#" not in tokenizer.decode(cut)


# ---- chat templates


@dataclass(frozen=True)
class Family:
    """A chat template as published models have it, and what is to come of it."""

    chat_template: str
    template: str
    end: str
    bos: str | None = None
    eos: str = "</s>"
    special: tuple[str, ...] = ()
    start: str = ""
    later: str = ""
    """The later turns' opening, where it is not the first one's."""
    sentencepiece: bool = False


ALTERNATE = (
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
)
FAMILIES = {
    "llama-2": Family(
        "{% for message in messages %}" + ALTERNATE + "{% if message['role'] == 'user' %}"
        "{{ bos_token + '[INST] ' + message['content'].strip() + ' [/INST]' }}{% else %}"
        "{{ ' '  + message['content'].strip() + ' ' + eos_token }}{% endif %}{% endfor %}",
        template="[INST] {} [/INST]",
        end=" </s>",
        bos="<s>",
        later="<s>[INST] ",
        sentencepiece=True,
    ),
    "vicuna": Family(
        "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
        "{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}"
        "{% set system_message = 'A chat between a curious user and an artificial intelligence assistant.' %}"
        "{% endif %}{{ bos_token + system_message }}{% for message in loop_messages %}" + ALTERNATE + "{% if "
        "message['role'] == 'user' %}{{ ' USER: ' + message['content'].strip() }}{% else %}{{ ' ASSISTANT: ' "
        "+ message['content'].strip() + eos_token }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ ' ASSISTANT:' }}{% endif %}",
        template="A chat between a curious user and an artificial intelligence assistant. "
        "USER: {} ASSISTANT:",
        end="</s>",
        bos="<s>",
        later=" USER: ",
        sentencepiece=True,
    ),
    "llama-3": Family(
        "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = "
        "'<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + "
        "'<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}"
        "{{ content }}{% endfor %}{% if add_generation_prompt %}"
        "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
        template="<|start_header_id|>user<|end_header_id|>\n\n{}<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        end="<|eot_id|>",
        bos="<|begin_of_text|>",
        eos="<|end_of_text|>",
        special=("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    ),
    "llama-3.2": Family(
        "{{- bos_token }}{%- if not date_string is defined %}{%- if strftime_now is defined %}"
        "{%- set date_string = strftime_now('%d %b %Y') %}{%- else %}{%- set date_string = '26 Jul 2024' %}"
        "{%- endif %}{%- endif %}{{- '<|start_header_id|>system<|end_header_id|>\n\nToday Date: ' + "
        "date_string + '\n\n<|eot_id|>' }}{%- for message in messages %}{{- '<|start_header_id|>' + "
        "message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}"
        "{%- endfor %}{%- if add_generation_prompt %}"
        "{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}",
        template="<|start_header_id|>system<|end_header_id|>\n\nToday Date: 26 Jul 2024\n\n<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\n{}<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        end="<|eot_id|>",
        bos="<|begin_of_text|>",
        eos="<|eot_id|>",
        special=("<|start_header_id|>", "<|end_header_id|>"),
        later="<|start_header_id|>user<|end_header_id|>\n\n",
    ),
    "qwen-2": Family(
        "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
        "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
        "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
        template="<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n",
        end="<|im_end|>\n",
        eos="<|im_end|>",
        special=("<|im_start|>", "<|endoftext|>"),
        later="<|im_start|>user\n",
    ),
    "qwen-3": Family(
        "{%- for message in messages %}{%- if message.role == 'user' %}{{- '<|im_start|>user\n' + "
        "message.content + '<|im_end|>\n' }}{%- else %}{{- '<|im_start|>assistant\n' }}{%- if loop.last %}"
        "{{- '<think>\n\n</think>\n\n' }}{%- endif %}{{- message.content + '<|im_end|>\n' }}{%- endif %}"
        "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}"
        "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\n\n</think>\n\n' }}"
        "{%- endif %}{%- endif %}",
        template="<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
        end="<|im_end|>\n",
        eos="<|im_end|>",
        special=("<|im_start|>",),
    ),
    "gemma": Family(
        "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
        "{{ raise_exception('System role not supported') }}{% endif %}{% for message in messages %}"
        + ALTERNATE
        + "{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}"
        "{% set role = message['role'] %}{% endif %}{{ '<start_of_turn>' + role + '\n' + "
        "message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}",
        template="<start_of_turn>user\n{}<end_of_turn>\n<start_of_turn>model\n",
        end="<end_of_turn>\n",
        bos="<bos>",
        eos="<eos>",
        special=("<start_of_turn>", "<end_of_turn>"),
    ),
    "phi-3": Family(
        "{% for message in messages %}{% if message['role'] == 'user' %}{{'<|user|>\n' + message['content'] "
        "+ '<|end|>\n'}}{% elif message['role'] == 'assistant' %}{{'<|assistant|>\n' + message['content'] + "
        "'<|end|>\n'}}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}"
        "{% else %}{{ eos_token }}{% endif %}",
        template="<|user|>\n{}<|end|>\n<|assistant|>\n",
        end="<|end|>\n<|endoftext|>",
        bos="<s>",
        eos="<|endoftext|>",
        special=("<|user|>", "<|assistant|>", "<|end|>"),
    ),
    "vicuna's on a tokenizer without blanks": Family(
        "{% for message in messages %}{{ 'USER: ' + message['content'] + ' ASSISTANT:' if message['role'] == "
        "'user' else ' ' + message['content'] + eos_token }}{% endfor %}",
        template="USER: {} ASSISTANT:",
        end="</s>",
        start=" ",
    ),
}


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> Family:
    return FAMILIES[request.param]


def folder_of(family: Family, tokenizer_folder: Path, tmp_path: Path) -> Path:
    if family.sentencepiece:
        folder = Path(shutil.copytree(tokenizer_folder, tmp_path / "t"))
        change_json(folder / "tokenizer_config.json", chat_template=family.chat_template)
        return folder
    bos = [family.bos] if family.bos else []
    settings = {"bos_token": family.bos, "chat_template": family.chat_template}
    return byte_level(tmp_path / "t", *bos, *family.special, eos=family.eos, **settings)


def written_out(folder: Path, **config: Any) -> tuple[PreTrainedTokenizerBase, tuple[str, str, str]]:
    tokenizer = load_tokenizer(folder)
    return tokenizer, chat_format(tokenizer, MiniGPT4Config(prompt_template="chat", **config), folder)


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def test_a_chat_template_becomes_a_prompt_template_and_an_end(
    family: Family, tokenizer_folder: Path, tmp_path: Path
) -> None:
    folder = folder_of(family, tokenizer_folder, tmp_path)
    tokenizer, found = written_out(folder)
    assert found == (family.template, family.start, family.end)
    turns = [turn("user", "Describe {} it."), turn("assistant", "The heart is normal.")]
    prompt = family.template.replace("{}", "Describe {} it.", 1)
    (report,) = caption_rows(tokenizer, [family.start + "The heart is normal."], family.end, 100)
    whole = load_tokenizer(folder).apply_chat_template(
        turns, tokenize=True, return_dict=False, date_string="26 Jul 2024"
    )
    assert [*prompt_row(tokenizer, prompt, slots=0), *report] == whole
    assert found == chat_format(tokenizer, MiniGPT4Config(prompt_template="chat"), folder)
    llm: Any = SimpleNamespace(generation_config=None)
    end_of_turn = tokenizer.convert_tokens_to_ids(family.end.strip().split("\n")[0])
    assert set(end_token_ids(llm, tokenizer, [family.end])) == {end_of_turn, tokenizer.eos_token_id}


def test_a_conversation_is_the_template_s_own(family: Family, tokenizer_folder: Path, tmp_path: Path) -> None:
    folder = folder_of(family, tokenizer_folder, tmp_path)
    tokenizer, (template, _, end) = written_out(folder)
    conversation = trained_conversation(template, end)
    conversation.render = lambda turns: render_chat(tokenizer, turns)
    user, assistant = conversation.roles
    conversation.append_message(user, f"{IMAGE_MARK} Q1")
    conversation.append_message(assistant, None)
    assert conversation.get_prompt() == template.replace("{}", f"{IMAGE_MARK} Q1")
    conversation.messages[-1][1] = "A1"
    conversation.append_message(user, "Q2")
    wanted = load_tokenizer(folder).apply_chat_template(
        [turn("user", f"{IMAGE_MARK} Q1"), turn("assistant", "A1"), turn("user", "Q2")],
        tokenize=False,
        add_generation_prompt=True,
        date_string="26 Jul 2024",
        enable_thinking=False,
    )
    bos = family.bos if family.bos and str(wanted).startswith(family.bos) else ""
    assert bos + conversation.get_prompt() == wanted
    opening, closing = template.split("{}")
    assert conversation.get_prompt().endswith(f"{family.later or opening}Q2{closing}")
    assert end in conversation.stop_strings()


TURN = "{{ message['role'] + ': ' + message['content'] + eos_token }}"
EACH, ALL = "{% for message in messages %}", "{% endfor %}"


@pytest.mark.parametrize(
    ("chat_template", "problem"),
    [
        (None, "there is none"),
        (
            "{% if messages[0].role != 'system' %}{{ raise_exception('System text first') }}{% endif %}",
            "System text first",
        ),
        (
            "{% if messages | length > 2 %}{{ raise_exception('One turn') }}{% endif %}" + EACH + TURN + ALL,
            "One turn",
        ),
        ("{% for message in messages %}", "endfor"),
        (EACH + TURN.replace("['content']", "['text'] | upper") + ALL, "changes what a question"),
        (EACH + "{{ message['content'] | upper }}" + ALL, "changes what a question"),
        ("Answer in {}. " + EACH + TURN + ALL, "holds {} itself"),
        (EACH + TURN + ALL + "{% if add_generation_prompt %}<think>{% endif %}", "before an answer to come"),
        (EACH + "{{ message['content'] }}" + ALL, "nothing ends an answer"),
    ],
)
def test_a_template_that_cannot_be_used_is_refused_with_its_folder(
    tmp_path: Path, chat_template: str | None, problem: str
) -> None:
    folder = byte_level(tmp_path / "t", chat_template=chat_template)
    where = f"model.prompt_template: chat: .* {re.escape(str(folder))} .*{re.escape(problem)}"
    with pytest.raises(ConfigError, match=where):
        written_out(folder)


def test_the_template_says_what_ends_a_report(tmp_path: Path) -> None:
    opened = "{% if add_generation_prompt %}assistant: {% endif %}"
    folder = byte_level(tmp_path / "t", chat_template=EACH + TURN + ALL + opened)
    assert written_out(folder, end_sym="<|end|>")[1] == written_out(folder)[1]
    with pytest.raises(ConfigError, match=r"model\.end_sym is '###', but .* '<\|end\|>'"):
        written_out(folder, end_sym="###")


@pytest.fixture
def chat_folder(llm_folder: Path, tmp_path: Path) -> Path:
    """A language model whose tokenizer has the chat template of Llama 2, in a file of its own."""
    folder = Path(shutil.copytree(llm_folder, tmp_path / "llm"))
    (folder / "chat_template.jinja").write_text(FAMILIES["llama-2"].chat_template)
    return folder


def test_a_report_model_in_its_chat_template(chat_folder: Path, batch: dict[str, Any]) -> None:
    config = tiny_config(llama_model=str(chat_folder), prompt_template="chat", end_sym="\n")
    model = MiniGPT4.from_config(config)
    assert model.prompt_list == ["[INST] <Img><ImageHere></Img> Describe this chest x-ray. [/INST]"]
    written = {"prompt_template": "[INST] {} [/INST]", "end_sym": " </s>"}
    assert {key: value for key, value in model.manifest().items() if key in written} == written
    wanted = [model.llama_tokenizer(f"{text} </s>").input_ids[1:] for text in batch["caption"]]
    assert [row[-1] for row in wanted] == [2, 2]
    assert model(batch | {"prompt": model.prompt_list[0]})["num_targets"] == sum(map(len, wanted))

    chat, images = Chat(model, lambda image: torch.zeros(3, 16, 16)), list[torch.Tensor]()
    conversation = chat.new_conversation()
    for number in (1, 2):
        chat.upload_img(torch.zeros(3, 16, 16), conversation, images)
        chat.ask(f"Q{number}", conversation)
        chat.answer(conversation, images, max_new_tokens=1, temperature=0)
        conversation.messages[-1][1] = f"A{number}"
    assert conversation.get_prompt() == (
        f"[INST] {IMAGE_MARK} Q1 [/INST] A1 </s><s>[INST] {IMAGE_MARK} Q2 [/INST] A2 </s>"
    )
    conversation.append_message(conversation.roles[0], "")
    conversation.append_message(conversation.roles[0], "Two")
    conversation.append_message(conversation.roles[0], "questions")
    assert conversation.get_prompt().endswith(" A2 </s><s>[INST] Two questions [/INST]")


def language_model(tmp_path: Path, **keys: Any) -> CausalLM:
    """A language model from nothing, in a chat template that puts a blank before an answer and no BOS."""
    template = FAMILIES["vicuna's on a tokenizer without blanks"].chat_template
    folder = byte_level(tmp_path / "t", "<s>", eos="</s>", bos_token="<s>", chat_template=template)
    sizes = LlamaSizes(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    return CausalLM.from_config(
        CausalLMConfig(tokenizer=str(folder), llama=sizes, prompt_template="chat", **keys)
    )


def test_a_language_model_learns_in_its_chat_template(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("See <ImageHere>.\n")
    model = language_model(tmp_path, prompt_path=str(tmp_path / "p.txt"))
    assert model.prompt_list == ["USER: See <ImageHere>. ASSISTANT:"]
    assert (model.manifest()["prompt_template"], model.end_sym) == ("USER: {} ASSISTANT:", "</s>")
    samples = {"caption": ["Clear."], "image_text": ["clear lungs"], "prompt": model.prompt_list[0]}
    ids = torch.tensor([model.llama_tokenizer("USER: See clear lungs. ASSISTANT: Clear.</s>").input_ids])
    start = len("USER: See clear lungs. ASSISTANT:")
    logits = model.llama_model(input_ids=ids).logits[0, start - 1 : -1]
    wanted = torch.nn.functional.cross_entropy(logits, ids[0, start:])
    torch.testing.assert_close(model(samples)["loss"], wanted)


def test_without_prompt_and_bos_there_is_nothing_to_write_behind(tmp_path: Path) -> None:
    model = language_model(tmp_path)
    assert model({"caption": ["Clear."]})["num_targets"] == len(" Clear.")
    with pytest.raises(ConfigError, match=r"nothing to begin a text with.*model\.prompt_path"):
        model.generate({"caption": ["Clear."]})


def test_a_useless_chat_template_is_known_before_the_weights_are_read(
    llm_folder: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(llm_folder, tmp_path / "llm"))
    with pytest.raises(ConfigError, match=r"prompt_template: chat"):
        MiniGPT4.check_files(tiny_config(llama_model=str(folder), prompt_template="chat"))
    with pytest.raises(ConfigError, match=r"prompt_template: chat"):
        CausalLM.check_files(CausalLMConfig(llama_model=str(folder), prompt_template="chat"))
