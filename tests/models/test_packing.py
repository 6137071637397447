"""Reports that share a row of a batch: the same losses and gradients as in rows of their own."""

from typing import Any

import pytest
import torch
from transformers import BloomConfig, BloomForCausalLM, OPTConfig, OPTForCausalLM

from tests.models.tiny import CASES, report_model
from xraygpt.common.errors import ConfigError
from xraygpt.models.causal_lm import CausalLM, CausalLMConfig, LlamaSizes
from xraygpt.models.packing import check_packing, separate, share_rows

CAPTIONS = [
    "Clear.",
    "The heart is normal in size. The lungs are clear. " * 4,
    "No effusion.",
    "Normal.",
    "A",
]
SIZES = {"vocab_size": 24, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}


def test_every_sample_has_a_row_and_no_row_is_longer_than_the_longest_sample() -> None:
    lengths = [3, 9, 4, 5, 2, 1]
    rows = share_rows(lengths)
    assert rows == [[1], [3, 2], [0, 4, 5]]
    assert all(sum(lengths[n] for n in row) <= 9 for row in rows)


def test_a_position_sees_its_own_sample_up_to_itself() -> None:
    apart = separate([[2, 1], [1]], torch.device("cpu"))
    assert apart["position_ids"].tolist() == [[0, 1, 0], [0, 0, 0]]
    first, second = apart["attention_mask"].squeeze(1).int().tolist()
    assert first == [[1, 0, 0], [1, 1, 0], [0, 0, 1]]
    assert second == [[1, 0, 0], [0, 1, 0], [0, 1, 1]]  # padding sees padding


@pytest.mark.parametrize(
    "settings", [{}, {"prompt": "", "prompt_template": ""}], ids=["prompt", "image alone"]
)
def test_losses_and_gradients_of_images_and_reports_are_those_of_single_rows(
    settings: dict[str, Any],
) -> None:
    batch = {
        "image": torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(1)),
        "caption": CAPTIONS,
    }
    found = []
    for packing in (False, True):
        model = report_model(packing=packing, **settings)
        output = model(batch)
        output["loss"].backward()
        found.append((output["loss"], output["num_targets"], model.llama_proj.weight.grad))
    (loss, number, gradient), (packed_loss, packed_number, packed_gradient) = found
    assert number == packed_number
    torch.testing.assert_close(packed_loss, loss, rtol=1e-5, atol=0)
    torch.testing.assert_close(packed_gradient, gradient, rtol=1e-4, atol=1e-6)


def test_fewer_positions_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    for packing in (False, True):
        model = report_model(packing=packing)
        run = model.llama_model.forward

        def forward(*, run: Any = run, **inputs: Any) -> Any:
            sizes.append(inputs["inputs_embeds"].shape[:2].numel())
            return run(**inputs)

        monkeypatch.setattr(model.llama_model, "forward", forward)
        model({"image": torch.zeros(5, 3, 16, 16), "caption": CAPTIONS})
    assert sizes[1] < sizes[0]


def test_a_language_model_alone_learns_the_same_without_prompt() -> None:
    losses = []
    for packing in (False, True):
        torch.manual_seed(0)
        config = CausalLMConfig(tokenizer=str(CASES), llama=LlamaSizes(hidden_size=16), packing=packing)
        losses.append(CausalLM.from_config(config)({"caption": CAPTIONS})["loss"])
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-5, atol=0)


def test_a_language_model_that_mixes_the_reports_of_a_row_is_refused() -> None:
    check_packing(OPTForCausalLM(OPTConfig(**SIZES, ffn_dim=32, word_embed_proj_dim=16)))
    with pytest.raises(ConfigError, match="model.packing: the language model, a bloom, does not keep"):
        check_packing(BloomForCausalLM(BloomConfig(vocab_size=24, hidden_size=16, n_layer=2, n_head=2)))
