"""Cases of a chat about images: what the language model reads, and what it writes.

The reference's ids begin with a BOS that its generation adds; ours do not, and `min_length` counts it there.
"""

import re
from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList

from tests.parity.golden import Case, cases
from tests.parity.minigpt4 import loaded
from xraygpt.conversation.chat import Chat
from xraygpt.conversation.messages import CONV_VISION, IMAGE_MARK, Conversation
from xraygpt.models.generation import GenerationConfig
from xraygpt.models.mini_gpt4 import MiniGPT4
from xraygpt.models.prompts import IMAGE_SLOT, prompt_row


@torch.no_grad()
def run(case: Case) -> None:
    model = loaded(case)
    contexts = _contexts(case, model)
    embeds = contexts["greedy_free"]
    ones = torch.ones(embeds.shape[:2], dtype=torch.long)
    llm: Any = model.llama_model
    logits = llm(inputs_embeds=embeds, attention_mask=ones).logits
    case.comparison.output("first_step_logits", logits[0, -1])
    for name in case.outputs:
        if re.match(r"(greedy|beam)", name) and not name.endswith("_scores"):
            _generation(case, model, name, contexts.get(name, embeds))
    _answers(case, model)
    case.comparison.differs("chat_answer_window", "Context that is too long")
    case.comparison.differs("postprocess", "End of an answer")
    case.comparison.differs("model_get_context_messages", "Prompt outside a chat")


def _as_it_is(image: Any) -> Any:
    """The images of the cases are processed already."""
    return image


def _contexts(case: Case, model: MiniGPT4) -> dict[str, Tensor]:
    """What the model reads in three chats, by the name of the free generation from it."""
    turns, images, check = _turns(case), case.inputs["images"], case.comparison
    chat, conv, seen = Chat(model, _as_it_is), CONV_VISION.copy(), list[Tensor]()
    check.exact("upload_return", chat.upload_img(images[0], conv, seen), case.values["upload_return"])
    chat.ask(turns[0], conv)
    conv.append_message(conv.roles[1], None)
    check.exact("prompt", conv.get_prompt(), case.values["prompt"])
    _segments(case, model, conv)
    first = chat.get_context_emb(conv, seen)
    conv.messages[-1][1] = turns[1]
    chat.ask(turns[2], conv)
    conv.append_message(conv.roles[1], None)
    second = chat.get_context_emb(conv, seen)
    alone = model.embed_prompt([_own_prompt(case, model)], seen[0])[0]
    both = _two_images(case, chat, turns)
    check.output("context_emb", first)
    check.output("context_emb_turn2", second)
    check.output("context_emb_two_images", both)
    check.output("model_get_context_emb", alone)
    return {"greedy_free": first, "greedy_free_turn2": second, "greedy_free_two_images": both}


def _own_prompt(case: Case, model: MiniGPT4) -> str:
    """The prompt that the reference's model drew: its message repeats what follows the image in it."""
    message = case.values["model_get_context_messages"][-1][1]
    return model.prompt_template.partition("{}")[0] + IMAGE_MARK + message.removeprefix(f"{IMAGE_MARK} ")


def _segments(case: Case, model: MiniGPT4, conv: Conversation) -> None:
    """The ids around the image."""
    row = prompt_row(model.llama_tokenizer, conv.get_prompt(), case.constructor["num_query_token"])
    expected = [token for segment in case.values["segment_ids"] for token in segment]
    case.comparison.exact("segment_ids", [token for token in row if token != IMAGE_SLOT], expected)


def _two_images(case: Case, chat: Chat, turns: list[str]) -> Tensor:
    images, conv, seen = case.inputs["images"], CONV_VISION.copy(), list[Tensor]()
    for image, question in ((images[0], turns[0]), (images[1], turns[2])):
        chat.upload_img(image, conv, seen)
        chat.ask(question, conv)
    conv.append_message(conv.roles[1], None)
    case.comparison.exact("prompt_two_images", conv.get_prompt(), case.values["prompt_two_images"])
    return chat.get_context_emb(conv, seen)


def _turns(case: Case) -> list[str]:
    """Question, answer, question: the conversation case of the same folder has them."""
    for other in cases(case.folder):
        if "turns" in other.values:
            return list(other.values["turns"])
    raise LookupError(f"no case in {case.folder} has the turns of the conversation")


@dataclass
class EndAt:
    """A tokenizer as generation uses it, with another end-of-text token."""

    tokenizer: Any
    eos_token_id: int

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tokenizer, name)


class StopAfterIds(StoppingCriteria):
    """Ends after one of some id sequences was generated."""

    def __init__(self, stops: list[list[int]]) -> None:
        self.stops = stops

    def __call__(self, input_ids: Tensor, scores: Any = None, **kwargs: Any) -> Any:
        row = input_ids[0].tolist()
        done = any(row[-len(stop) :] == stop for stop in self.stops)
        return torch.full((len(input_ids),), done, device=input_ids.device)


def _settings(case: Case, name: str) -> GenerationConfig:
    """Settings of a generation by its name: ``greedy_rep1p3``, ``beam4_lp2``, ``greedy_eos_min``."""
    beams, repetition = re.match(r"beam(\d+)", name), re.search(r"_rep(\d+)p(\d+)", name)
    penalty = re.search(r"_lp(\d+)(?:p(\d+))?", name)
    shortest = case.call_number(r"eos_token_id, min_length=(\d+)") if "_min" in name else 1
    return GenerationConfig(
        max_new_tokens=int(case.call_number(r"max_new_tokens=(\d+)")),
        min_length=int(shortest) - 1,
        num_beams=int(beams.group(1)) if beams else 1,
        repetition_penalty=float(".".join(repetition.groups())) if repetition else 1.0,
        length_penalty=float(f"{penalty.group(1)}.{penalty.group(2) or 0}") if penalty else 1.0,
    )


def _generation(case: Case, model: MiniGPT4, name: str, embeds: Tensor) -> None:
    bos = torch.tensor([[model.llama_tokenizer.bos_token_id]])
    end = case.values.get(f"eos_for_{name.removesuffix('_min')}")
    if end is not None:
        ended: Any = EndAt(model.llama_tokenizer, int(end))
        model = copy(model)
        model.llama_tokenizer = ended
    settings = _settings(case, name)
    if "_stop_" in name:
        ids = _stopped(case, model, embeds, settings, name.rsplit("_", 1)[1])
    else:
        mask = torch.ones(embeds.shape[:2], dtype=torch.long)
        ids = model.complete(embeds, mask, settings, stops=[])[1]
    case.comparison.output(name, torch.cat([bos, ids], dim=1))
    if f"{name}_scores" in case.outputs:
        score = _score(model, embeds, ids, settings.length_penalty, model.llama_tokenizer.eos_token_id)
        case.comparison.output(f"{name}_scores", score)


def _stopped(case: Case, model: MiniGPT4, embeds: Tensor, settings: GenerationConfig, kind: str) -> Tensor:
    """Generation that ends at id sequences; these need not be whole characters, so not by the text."""
    kinds = ("single", "pair") if kind == "both" else (kind,)
    stops = [stop for part in kinds for stop in case.values[f"stop_{part}"]]
    llm: Any = model.llama_model
    ids: Tensor = llm.generate(
        inputs_embeds=embeds,
        attention_mask=torch.ones(embeds.shape[:2], dtype=torch.long),
        stopping_criteria=StoppingCriteriaList([StopAfterIds(stops)]),
        bos_token_id=model.llama_tokenizer.bos_token_id,
        eos_token_id=model.llama_tokenizer.eos_token_id,
        pad_token_id=model.llama_tokenizer.pad_token_id,
        **settings.as_kwargs(),
    )
    return ids


def _score(model: MiniGPT4, embeds: Tensor, ids: Tensor, penalty: float, end: int) -> Tensor:
    """A beam's score in the reference: summed log-probability / length ** penalty, the end not counted."""
    llm: Any = model.llama_model
    whole = torch.cat([embeds, model.llama_model.get_input_embeddings()(ids)], dim=1)
    logits = llm(inputs_embeds=whole).logits[:, embeds.shape[1] - 1 : -1]
    picked = logits.log_softmax(-1).gather(-1, ids.unsqueeze(-1)).squeeze(-1)
    length = 1 + ids.shape[1] - int(ids[0, -1] == end)
    return picked.sum(dim=1) / length**penalty


def _answers(case: Case, model: MiniGPT4) -> None:
    """Greedy answers in a chat, as long as the recorded ones.

    Ours end at the separator's text, the reference's at ids that the case names; so ours may be a beginning
    of the recorded ids. The text of special tokens, which the reference leaves in, is not part of ours.
    """
    chat, conv, seen = Chat(model, _as_it_is), CONV_VISION.copy(), list[Tensor]()
    chat.upload_img(case.inputs["images"][0], conv, seen)
    for turn, recorded in enumerate(case.values["chat_answer"]):
        chat.ask(recorded["question"], conv)
        length = len(recorded["token_ids"])
        text, ids = chat.answer(conv, seen, max_new_tokens=length, min_length=0, temperature=0.0)
        case.comparison.exact(f"chat_answer {turn} ids", ids, recorded["token_ids"][: len(ids)])
        expected = recorded["text"]
        for special in model.llama_tokenizer.all_special_tokens:
            expected = expected.replace(special, "")
        case.comparison.exact(f"chat_answer {turn}", text, expected.strip())
        case.comparison.exact(f"chat_answer {turn} message", conv.messages[-1], [conv.roles[1], text])
        conv.messages[-1][1] = recorded["conv_message"]
    case.comparison.exact("chat_answer_messages", conv.messages, case.values["chat_answer_messages"])
