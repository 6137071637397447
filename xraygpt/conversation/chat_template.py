"""The chat template of a tokenizer, as a prompt template of the training and as a conversation's text."""

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from xraygpt.common.errors import ConfigError
from xraygpt.conversation.messages import CHAT, IMAGE_PLACEHOLDER, TEMPLATE_SLOT
from xraygpt.datasets.batch import Turn


def chat_format(tokenizer: PreTrainedTokenizerBase, config: Any, folder: object) -> tuple[str, str, str]:
    """Write a tokenizer's chat template out: prompt template, what comes before a report, what ends it.

    The BOS that the template begins with is left to `prompt_row`; where there is none, the tokenizer loses
    its own. Before a report comes a blank or nothing; most tokenizers of SentencePiece put it there anyway.

    Args:
        config: its `end_sym`, unless it is the default, has to be that of the template.
        folder: of the tokenizer, for messages.

    Raises:
        ConfigError: there is no template, or none that a prompt with an image and a report fit into.
    """
    try:
        template, start, end = _written_out(tokenizer)
    except Exception as error:  # a template is a program, which may raise anything
        raise ConfigError(
            f"model.prompt_template: {CHAT}: the chat template of the tokenizer in {folder} cannot be used: "
            f"{error}; set a template of your own that holds {TEMPLATE_SLOT}, and end_sym"
        ) from error
    if config.end_sym not in (type(config).end_sym, end):
        raise ConfigError(
            f"model.end_sym is {config.end_sym!r}, but with prompt_template: {CHAT} the template ends a "
            f"report, with {end!r}: leave end_sym out, or set it to this"
        )
    return template, start, end


def _written_out(tokenizer: PreTrainedTokenizerBase) -> tuple[str, str, str]:
    question, answer = f"{IMAGE_PLACEHOLDER} What's in <it>?", 'A "small" effusion.'
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    if not tokenizer.chat_template:
        raise ValueError("there is none")
    whole = tokenizer.apply_chat_template(turns, tokenize=False)
    if tokenizer.bos_token and not str(whole).startswith(tokenizer.bos_token):
        tokenizer.bos_token = None
    asked, told = render_chat(tokenizer, turns[:1]), render_chat(tokenizer, turns)
    render_chat(tokenizer, [*turns, *turns])  # it may refuse to go on
    template = asked.replace(question, TEMPLATE_SLOT)
    start, found, end = told.removeprefix(asked).partition(answer)
    if asked.count(question) != 1 or template.count(TEMPLATE_SLOT) != 1 or not found:
        raise ValueError(f"it changes what a question or an answer says, or holds {TEMPLATE_SLOT} itself")
    if not told.startswith(asked) or start.strip():
        raise ValueError("it puts other words before an answer to come than before one that is there")
    if not end:
        raise ValueError("nothing ends an answer")
    blank = tokenizer.convert_ids_to_tokens(tokenizer(answer, add_special_tokens=False).input_ids)[0]
    return template, "" if str(blank).startswith("▁") else start, end


def render_chat(tokenizer: PreTrainedTokenizerBase, turns: Sequence[Turn]) -> str:
    """Turns in the tokenizer's chat template, without the BOS at its start; after a user's turn it opens the
    answer."""
    text = tokenizer.apply_chat_template(
        list(turns),
        tokenize=False,
        add_generation_prompt=turns[-1]["role"] == "user",
        enable_thinking=False,  # reports are written without reasoning before them
        date_string="26 Jul 2024",  # Llama 3's own; else it prints the day's, and no two runs are the same
    )
    return str(text).removeprefix(tokenizer.bos_token or "")
