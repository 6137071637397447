"""From the tokens that a BERT decoder has written to reports."""

from collections.abc import Callable

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from xraygpt.models.generation import GeneratedReport, ending, mean_log_probabilities


def decode_reports(tokenizer: PreTrainedTokenizerBase, ids: Tensor) -> list[str]:
    """The texts of new tokens (B, n), without end token and padding."""
    return tokenizer.batch_decode(ids, skip_special_tokens=True)


def bert_reports(
    tokenizer: PreTrainedTokenizerBase, ids: Tensor, logits_of: Callable[[slice], Tensor]
) -> list[GeneratedReport]:
    """The reports of new tokens (B, n); `logits_of` as in `mean_log_probabilities`."""
    ends = [ending(row, [tokenizer.sep_token_id], tokenizer.pad_token_id) for row in ids.tolist()]
    means = mean_log_probabilities(logits_of, ids, [length for length, _ in ends])
    return [
        GeneratedReport(text, length, reason, mean)
        for text, (length, reason), mean in zip(decode_reports(tokenizer, ids), ends, means, strict=True)
    ]
