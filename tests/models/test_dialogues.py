"""A language model that learns conversations: which ids, which of them count, how long ones are cut."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.models.tiny import TEMPLATE, byte_level
from xraygpt.common.errors import ConfigError
from xraygpt.models.adapters import AdapterConfig
from xraygpt.models.causal_lm import CausalLM, CausalLMConfig, LlamaSizes, cut_conversation
from xraygpt.models.generation import IGNORE_INDEX, GenerationConfig

SIZES = LlamaSizes(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)
CHAT = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")


def conversation(*said: str, system: str = "") -> list[dict[str, str]]:
    roles = ("user", "assistant")
    turns = [{"role": roles[number % 2], "content": text} for number, text in enumerate(said)]
    return [*([{"role": "system", "content": system}] if system else []), *turns]


SHORT = conversation("Is it big?", "No.")
LONG = conversation("Heart?", "The heart is normal.", "Lungs?", "Clear.", system="Be brief.")
TALKS = [SHORT, LONG, conversation("Any effusion?", "A small one.", "Side?", "Left.", "Sure?", "Yes.")]


def language_model(folder: Path, chat_template: str | None = None, **settings: Any) -> CausalLM:
    torch.manual_seed(0)
    byte_level(folder, "<s>", *ROLES, bos_token="<s>", chat_template=chat_template)
    return CausalLM.from_config(CausalLMConfig(tokenizer=str(folder), llama=SIZES, **settings))


def learnt(model: CausalLM, turns: list[dict[str, str]]) -> tuple[str, list[str]]:
    """The text of a row, and those stretches of it that are learnt."""
    (row,), (labels,), _ = model._rows({"turns": [turns]})
    assert all(label in (IGNORE_INDEX, number) for number, label in zip(row, labels, strict=True))
    marked = [number if number == label else None for number, label in zip(row, labels, strict=True)]
    stretches: list[list[int]] = [[]]
    for number in marked:
        if number is not None:
            stretches[-1].append(number)
        elif stretches[-1]:
            stretches.append([])
    decode = model.llama_tokenizer.decode
    return decode(row), [decode(part) for part in stretches if part]


def test_a_template_of_one_s_own_is_that_of_the_chat(tmp_path: Path) -> None:
    model = language_model(tmp_path, prompt_template=TEMPLATE)
    text, answers = learnt(model, LONG)
    assert text == (
        "<s>Be brief.###Patient: Heart? ###Doctor: The heart is normal.###"
        "Patient: Lungs? ###Doctor: Clear.###"
    )
    assert answers == ["The heart is normal.###", "Clear.###"]
    chat = model.new_conversation()
    chat.system = "Be brief."
    for turn in LONG[1:-1]:
        chat.append_message(chat.roles[turn["role"] == "assistant"], turn["content"])
    assert text == f"<s>{chat.get_prompt()}Clear.###"


def test_the_tokenizer_s_template_with_a_system_s_turn(tmp_path: Path) -> None:
    model = language_model(tmp_path, CHAT, prompt_template="chat")
    text, answers = learnt(model, LONG)
    wanted = model.llama_tokenizer.apply_chat_template(LONG, tokenize=False)
    assert text == wanted
    assert answers == ["The heart is normal.<|end|>", "Clear.<|end|>"]


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        (
            "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHAT,
            "refuses a conversation: no system",
        ),
        (
            CHAT.replace("m['content'] +", "(m['content'] if loop.index > messages | length - 3 else '-') +"),
            "changes an answer once the conversation goes on",
        ),
    ],
)
def test_a_template_that_does_not_take_conversations_is_refused(
    template: str, problem: str, tmp_path: Path
) -> None:
    model = language_model(tmp_path, template, prompt_template="chat")
    with pytest.raises(ConfigError, match=rf"model\.prompt_template: chat: .*{problem}"):
        model({"turns": [conversation("Q1", "A1", "Q2", "A2", "Q3", "A3", system="S")]})


def test_no_chat_template_is_said_with_its_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"prompt_template: chat: .*{tmp_path}.*there is none"):
        language_model(tmp_path, prompt_template="chat")


def test_the_loss_is_that_of_the_answers(tmp_path: Path) -> None:
    model = language_model(tmp_path, prompt_template=TEMPLATE)
    (row,), (labels,), _ = model._rows({"turns": [LONG]})
    logits = model.llama_model(input_ids=torch.tensor([row])).logits[0, :-1]
    wanted = torch.nn.functional.cross_entropy(logits, torch.tensor(labels[1:]), ignore_index=IGNORE_INDEX)
    found = model({"turns": [LONG]})
    torch.testing.assert_close(found["loss"], wanted)
    assert found["num_targets"] == len("The heart is normal.###Clear.###")


def test_packed_to_full_length_losses_and_gradients_are_those_of_single_rows(tmp_path: Path) -> None:
    found = []
    for packing in (False, True):
        model = language_model(tmp_path, prompt_template=TEMPLATE, packing=packing, max_txt_len=512)
        output = model({"turns": TALKS})
        output["loss"].backward()
        gradients = {name: value.grad for name, value in model.named_parameters()}
        found.append((output, gradients))
    (alone, gradients), (packed, packed_gradients) = found
    assert alone["num_targets"] == packed["num_targets"]
    # All three in one row, longer than the longest of them.
    assert packed["num_positions"] == sum(len(row) for row in model._rows({"turns": TALKS})[0])
    assert packed["num_padded"] == 0
    torch.testing.assert_close(packed["loss"], alone["loss"], rtol=1e-5, atol=0)
    torch.testing.assert_close(packed_gradients, gradients, rtol=1e-4, atol=1e-6)


def test_whole_turns_are_kept_where_they_fit() -> None:
    first, second = ([1, 2, 3], [4, 5]), ([6], [7, 8])
    assert cut_conversation([first, second], 8) == (
        [1, 2, 3, 4, 5, 6, 7, 8],
        [*[IGNORE_INDEX] * 3, 4, 5, IGNORE_INDEX, 7, 8],
    )
    assert cut_conversation([first, second], 7) == ([1, 2, 3, 4, 5], [*[IGNORE_INDEX] * 3, 4, 5])
    # A later one that would fit is not taken in the place of one that does not: it may refer to it.
    assert cut_conversation([first, ([6] * 9, [7]), second], 9)[0] == [1, 2, 3, 4, 5]


def test_a_first_question_or_answer_that_is_too_long_is_cut() -> None:
    ignored = [IGNORE_INDEX] * 2
    # The answer at its end, which loses its end symbol.
    assert cut_conversation([([1, 2], [3, 4, 5, 6])], 4) == ([1, 2, 3, 4], [*ignored, 3, 4])
    # The question behind its first id, so that the whole of a short answer is learnt.
    assert cut_conversation([([1, 2, 3, 4, 5], [6])], 4)[0] == [1, 4, 5, 6]
    assert cut_conversation([([1, 2, 3, 4, 5], [6, 7, 8])], 4) == ([1, 5, 6, 7], [*ignored, 6, 7])


def test_it_answers_the_last_question_and_forgets_the_oldest(tmp_path: Path) -> None:
    model = language_model(tmp_path, prompt_template=TEMPLATE)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        loss = model({"turns": TALKS})["loss"]
        loss.backward()
        optimizer.step()
    generation = GenerationConfig(max_new_tokens=16)
    assert model.generate({"turns": TALKS}, generation) == [turns[-1]["content"] for turns in TALKS]
    model.max_txt_len = 60
    asked = model.llama_tokenizer.decode(model._inputs({"turns": [LONG]})[0][0])
    assert asked == "<s>Be brief.###Patient: Lungs? ###Doctor: "


def test_an_adapter_alone_learns_conversations(tmp_path: Path) -> None:
    language_model(tmp_path / "tokenizer").export(tmp_path / "llm")
    config = CausalLMConfig(
        llama_model=str(tmp_path / "llm"), adapter=AdapterConfig(r=2, alpha=4), prompt_template=TEMPLATE
    )
    model = CausalLM.from_config(config)
    model({"turns": TALKS})["loss"].backward()
    learning = {name for name, value in model.named_parameters() if value.grad is not None}
    assert learning
    assert all("lora_" in name for name in learning)


def test_a_length_beyond_the_model_s_positions_is_refused(tmp_path: Path) -> None:
    model = language_model(tmp_path, prompt_template=TEMPLATE, max_txt_len=513)
    with pytest.raises(ConfigError, match=r"model\.max_txt_len is 513"):
        model({"turns": [SHORT]})
