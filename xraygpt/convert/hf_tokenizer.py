"""The language model's tokenizer in the form that a processor loads, with a token for the image.

A prompt is tokenized piece by piece around its image here, every piece with the tokenizer's own leading
blank and BOS before the whole (`models.prompts`). A tokenizer of the `tokenizers` library does the same by
itself: it cuts the text at special tokens and normalises each piece on its own.
"""

import copy
import json
import re

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.tokenization_utils_base import generate_merges

from xraygpt.common.errors import ConfigError
from xraygpt.conversation.messages import IMAGE_MARK, IMAGE_PLACEHOLDER, TEMPLATE_SLOT
from xraygpt.models.llama_tokenizer import LlamaSentencePieceTokenizer
from xraygpt.models.mini_gpt4 import MiniGPT4
from xraygpt.models.prompts import IMAGE_SLOT, prompt_row

IMAGE_TOKEN = "<image>"
"""One for each image embedding; the processors of Hugging Face name it so."""
BLANK = "▁"

CHAT_TEXTS = """\
{{% set turns = namespace(all=[]) %}}{{% for message in messages %}}{{% set text -%}}
{{% if message.content is string %}}{{{{ message.content }}}}{{% else -%}}
{{% for part in message.content %}}\
{{% if part.type == "text" %}}{{{{ part.text }}}}{{% else %}}{{{{ {} }}}}{{% endif %}}\
{{% endfor %}}{{% endif -%}}
{{% endset %}}{{% set turns.all = turns.all + [{{"role": message.role, "content": text}}] %}}{{% endfor -%}}
{{% set messages = turns.all -%}}
"""
"""Opens a chat template: makes one text of what a message holds, {} for each image in it."""
CHAT_TEMPLATE = """\
{{{{ bos_token }}}}{{% for message in messages -%}}
{{% if message.role == "user" %}}{{{{ {} + message.content + {} }}}}{{% else %}}\
{{{{ message.content + {} }}}}{{% endif %}}{{% endfor %}}"""

PROBES = (
    "The heart is normal in size. No pleural effusion.",
    " two  blanks at  the ends ",
    "line\nbreak\tand tab",
    "a 12.5 mm nodule (37°C, “x”), unchanged.###",
    "###Patient:<Img></Img>###Doctor:",
    "",
)
"""Texts on which the two tokenizers are compared, besides the model's own prompts."""


def processor_tokenizer(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """A tokenizer with the same ids, BOS first, padding on the left, and `IMAGE_TOKEN`.

    Raises:
        ConfigError: a tokenizer that cannot be written down as ``tokenizer.json``.
    """
    if isinstance(tokenizer, LlamaSentencePieceTokenizer):
        backend = _from_sentencepiece(tokenizer)
    elif tokenizer.is_fast:
        backend = copy.deepcopy(tokenizer.backend_tokenizer)
    else:
        raise ConfigError(
            f"the language model's tokenizer ({type(tokenizer).__name__}) cannot be written as tokenizer.json"
        )
    bos = tokenizer.bos_token
    backend.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A" if bos else "$A", special_tokens=[(bos, tokenizer.bos_token_id)] if bos else []
    )
    # The plain class reads tokenizer.json as it is; those of single models set some of it up themselves.
    same = ("bos_token", "eos_token", "unk_token", "pad_token", "clean_up_tokenization_spaces")
    settings = {name: getattr(tokenizer, name) for name in same}
    plain = PreTrainedTokenizerFast(tokenizer_object=backend, padding_side="left", **settings)
    plain.add_tokens([AddedToken(IMAGE_TOKEN, special=True, normalized=False)], special_tokens=True)
    return plain


def image_token_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id of `IMAGE_TOKEN`."""
    number = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    assert isinstance(number, int)
    return number


def processor_prompt(prompt: str, slots: int) -> str:
    """A prompt with ``<ImageHere>`` (empty: the image alone) as the processor has to be given it."""
    return (prompt or IMAGE_PLACEHOLDER).replace(IMAGE_PLACEHOLDER, IMAGE_TOKEN * slots)


def chat_template(model: MiniGPT4) -> str | None:
    """The model's chat or prompt template in Jinja, images as in its first prompt; None if it has none."""
    if not model.prompt_template:
        return None
    mark = re.search(
        rf"(<Img>)?{IMAGE_PLACEHOLDER}(</Img>)?\s*", "".join(model.prompt_list[:1]) or IMAGE_MARK
    )
    texts = CHAT_TEXTS.format(json.dumps(processor_prompt(mark[0] if mark else "", 1)))
    if model.new_conversation().render is not None:
        return texts + str(model.llama_tokenizer.chat_template)
    before, _, after = model.prompt_template.partition(TEMPLATE_SLOT)
    closing = "" if model.prompt_template.startswith(model.end_sym) else model.end_sym
    return texts + CHAT_TEMPLATE.format(*map(json.dumps, (before, after, closing)))


def check_same_ids(
    ours: PreTrainedTokenizerBase, theirs: PreTrainedTokenizerBase, prompts: list[str], slots: int
) -> None:
    """Raise ConfigError unless both tokenizers give the same ids for the prompts and for `PROBES`."""
    image = image_token_id(theirs)
    for text in (*prompts, "", *(f"{probe}{IMAGE_PLACEHOLDER}{probe}" for probe in PROBES)):
        row = prompt_row(ours, text or IMAGE_PLACEHOLDER, slots)
        wanted = [image if number == IMAGE_SLOT else number for number in row]
        if theirs(processor_prompt(text, slots)).input_ids != wanted:
            raise ConfigError(
                "the language model's tokenizer cannot be exported: written as tokenizer.json it cuts "
                f"{text!r} in another way"
            )


def _from_sentencepiece(tokenizer: LlamaSentencePieceTokenizer) -> Tokenizer:
    """The byte-pair encoding of a SentencePiece model."""
    pieces = tokenizer.sp_model
    numbers = range(pieces.get_piece_size())
    vocabulary = {pieces.id_to_piece(number): number for number in numbers}
    scores = {
        pieces.id_to_piece(number): pieces.get_score(number)
        for number in numbers
        if not (pieces.is_control(number) or pieces.is_unknown(number) or pieces.is_byte(number))
    }
    merges = generate_merges(vocabulary, scores)
    merged = {left + right for left, right in merges}
    # A piece that no merge gives is one of the user's symbols, which are never cut.
    symbols = [piece for piece in scores if len(piece) > 1 and piece not in merged]
    backend = Tokenizer(
        models.BPE(
            vocab=vocabulary,
            merges=merges,
            unk_token=tokenizer.unk_token,
            fuse_unk=True,
            byte_fallback=True,
            ignore_merges=bool(symbols),  # a symbol is a piece although no merge gives it
        )
    )
    # Blanks are characters, one stands before every text, bytes stand for what is no piece.
    backend.normalizer = normalizers.Sequence([normalizers.Prepend(BLANK), normalizers.Replace(" ", BLANK)])
    backend.decoder = decoders.Sequence(
        [decoders.Replace(BLANK, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    if symbols:
        longest_first = sorted(symbols, key=len, reverse=True)
        pattern = Regex("|".join(map(re.escape, longest_first)))
        backend.pre_tokenizer = pre_tokenizers.Split(pattern, "isolated")
    # Not normalised: the blank that begins a piece would be looked for before the token.
    backend.add_tokens(
        [
            AddedToken(token.content, special=token.special, normalized=False)
            for number, token in sorted(tokenizer.added_tokens_decoder.items())
            if number not in numbers or pieces.is_control(number)
        ]
    )
    return backend
