"""``xraygpt doctor`` on shipped configurations: what it says, and that it agrees with the model itself."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from xraygpt.cli import main
from xraygpt.common.config import Config
from xraygpt.common.errors import ConfigError
from xraygpt.doctor.cli import describe
from xraygpt.doctor.examination import OPTIMIZER, examine
from xraygpt.models.mini_gpt4 import MiniGPT4

ROOT = Path(__file__).parents[2]
QUICKSTART = ROOT / "train_configs/quickstart/alignment.yaml"
SMALL_DATA = ["datasets.phantom.splits={train: {seed: 201, count: 8}}", "run.valid_splits=[]"]


def arguments(path: str | Path, *options: str) -> SimpleNamespace:
    return SimpleNamespace(cfg_path=str(path), options=[*options, "run.device=cpu"])


@pytest.fixture(scope="module")
def quickstart() -> MiniGPT4:
    """The model of the quickstart, with weights."""
    return MiniGPT4.from_config(Config(arguments(QUICKSTART)).model_cfg)


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """Give back the threads that the examination of several processes takes away."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_the_quickstart_is_examined(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], quickstart: MiniGPT4
) -> None:
    file = tmp_path / "doctor.json"
    words = ["doctor", "--cfg-path", str(QUICKSTART), "--seconds", "1", "--json", str(file)]
    words += ["--processes", "2", "--options"]
    assert main([*words, *SMALL_DATA, "run.batch_size_train=4", "run.num_workers=1", "run.device=cpu"]) == 0
    printed = capsys.readouterr().out
    assert "Missing: nothing" in printed
    assert "in all" in printed
    for part in ("visual_encoder", "Qformer", "llama_proj", "llama_model", OPTIMIZER):
        assert f"\n{part} " in printed
    found = json.loads(file.read_text())
    config = Config(arguments(QUICKSTART))
    weights = sum(p.nbytes for p in (*quickstart.parameters(), *quickstart.buffers()))
    trained = sum(p.nbytes for p in quickstart.parameters() if p.requires_grad)
    memory = found["memory"]
    assert sum(part["parameters"] for part in found["parts"]) == quickstart.show_n_params(return_str=False)
    assert memory["weights"] == pytest.approx(weights, rel=0.01)
    assert memory["gradients"] == trained
    assert memory["optimizer"] == pytest.approx(2 * trained, rel=0.01)
    assert found["steps"] == config.run_cfg.max_epoch * (config.run_cfg.iters_per_epoch or 0) > 0
    assert found["flop"] == sum(part["flop"] for part in found["parts"]) > 1e9
    assert found["step_seconds"] >= sum(found["durations"]["parts"].values()) > 0
    assert found["images_per_second"] == pytest.approx(2 * 4 / found["step_seconds"])
    assert found["largest_batch"] > 4


def test_missing_weights_are_all_named_and_the_released_sizes_assumed() -> None:
    recipe = ROOT / "train_configs/xraygpt_mimic_pretrain.yaml"
    found = examine(arguments(recipe, "run.batch_size_train=1", "model.llm_precision=bf16"), budget=0.0)
    problems = "\n".join(found.problems)
    for missing in ("eva_vit_g.pth", "blip2_pretrained_flant5xxl.pth", "Vicuna_Radiology_fp16", "mimic"):
        assert missing in problems
    assert len(found.problems) == 4
    text = describe(found)
    assert "LLaMA-7B" in text
    parameters = {part.name: part.parameters for part in found.parts}
    assert parameters["llama_model"] == 6_738_415_616
    assert found.memory is not None
    assert found.memory.weights == pytest.approx(16.6 * 2**30, rel=0.01)
    # Of the order of 2 x parameters x tokens, in both directions for the language model.
    assert 2e12 < found.flop < 3e12


def test_a_feature_cache_takes_the_frozen_parts_out_of_the_step() -> None:
    options = [*SMALL_DATA, "run.batch_size_train=2", "run.max_epoch=2"]
    path = ROOT / "train_configs/parts/timm_mlp.yaml"
    whole = examine(arguments(path, *options), budget=0.0)
    found = examine(arguments(path, *options, "run.feature_cache={crops: 3, dtype: bf16}"), budget=0.0)
    encoder = {part.name: part for part in found.parts}["visual_encoder"]
    assert encoder.parameters > 0
    assert encoder.flop == 0
    assert 0 < found.flop < whole.flop
    tokens, width = 65, 128
    assert found.cache_bytes == 8 * 3 * tokens * width * 2
    assert found.once["the features are computed"] > 0
    assert whole.cache_bytes is None
    text = describe(found)
    assert "the feature cache needs 390.0 KiB" in text
    assert "the features are computed" in text


def test_validation_and_the_writing_of_reports_count_towards_the_run() -> None:
    options = [
        SMALL_DATA[0][:-1] + ", val: {seed: 3, count: 6}}",
        "run.feature_cache=null",
        "run.max_epoch=3",
    ]
    scored = examine(arguments(QUICKSTART, *options, "run.valid_splits=[val]"), budget=0.0)
    assert scored.run_seconds == pytest.approx(
        scored.steps * scored.step_seconds + 3 * scored.each_epoch["validation"]
    )
    options += ["run.task=report_generation", "run.valid_splits=[]", "run.test_splits=[val]"]
    times = {}
    for tokens in (10, 1000):
        found = examine(arguments(QUICKSTART, *options, f"run.generate.max_new_tokens={tokens}"), budget=0.0)
        assert not found.each_epoch
        assert f"taken to be {tokens} tokens" in describe(found)
        times[tokens] = found.once["test"]
    assert times[1000] > times[10] > 0


@pytest.mark.parametrize(
    ("config", "options", "missing"),
    [
        ("tiny/1_llm.yaml", ["model.tokenizer=nowhere/at/all"], "nowhere/at/all"),
        (
            "text/tiny/radiology.yaml",
            ["model.llama_model=package:weights/tiny/llama"],
            "radiology_train.jsonl",
        ),
        ("tiny/2_vit.yaml", [], None),
        (
            "tiny/3_stage1.yaml",
            ["model.bert_tokenizer=package:weights/tiny/bert/vocab.txt"],
            "output/tiny/vit/vit.pth",
        ),
        ("parts/timm_vit.yaml", [], None),  # an encoder of another library
        ("parts/dinov2_qformer.yaml", ["model.vit_model=hf:nowhere/at/all"], "nowhere/at/all"),
        ("quickstart/alignment.yaml", ["model.prompt_path=nowhere.txt"], "nowhere.txt"),
    ],
)
def test_what_is_missing_is_named_and_the_rest_examined(
    config: str, options: list[str], missing: str | None
) -> None:
    options = [*SMALL_DATA, *options, "run.batch_size_train=2", "run.feature_cache=null"]
    found = examine(arguments(ROOT / "train_configs" / config, *options), budget=0.0)
    if missing is None:
        assert not found.problems
    else:
        assert any(missing in problem for problem in found.problems)
        assert "vit.pth" in missing or "Note: " in describe(found)
    assert found.memory is not None
    assert found.memory.activations > 0
    assert found.flop > 0
    parts = {part.name: part for part in found.parts}
    assert sum(part.trained for part in parts.values()) > 0
    if config == "parts/timm_vit.yaml":
        assert {name for name, part in parts.items() if part.trained} >= {"visual_encoder", "head"}
        assert parts["visual_encoder"].flop > 0


@pytest.mark.parametrize(("precision", "bits", "scales"), [("nf4", 4.127, 0), ("int8", 8, 4)])
def test_an_adapter_is_a_trained_part_of_a_quantised_language_model(
    precision: str, bits: float, scales: int, quickstart: MiniGPT4
) -> None:
    options = [*SMALL_DATA, "run.batch_size_train=2", f"model.llm_precision={precision}"]
    options.append("model.adapter={r: 4, alpha: 8}")
    found = examine(arguments(QUICKSTART, *options), budget=0.0)
    llm = {part.name: part for part in found.parts}["llama_model"]
    assert 0 < llm.trained < llm.parameters
    assert found.memory is not None
    assert found.memory.gradients == 4 * sum(part.trained for part in found.parts)
    own = quickstart.llama_model
    assert llm.parameters - llm.trained == sum(weight.numel() for weight in own.parameters())
    layers = [layer.weight for layer in own.model.modules() if isinstance(layer, nn.Linear)]
    wide = sum(weight.nbytes for weight in own.parameters()) - sum(weight.nbytes for weight in layers)
    # Rows of so few weights are rounded up to whole numbers of the wide format.
    narrow = sum(weight.numel() * bits / 8 + len(weight) * scales for weight in layers)
    assert llm.nbytes - 4 * llm.trained == pytest.approx(wide + narrow, rel=0.03)


def test_shards_of_the_language_model_and_of_what_is_trained_are_counted(quickstart: MiniGPT4) -> None:
    sharded = "run.parallel.strategy=fsdp"
    options = [*SMALL_DATA, "run.batch_size_train=2"]
    whole, half = (
        examine(arguments(QUICKSTART, *options, *more), budget=0.0, processes=2).memory
        for more in ([], [sharded])
    )
    assert whole is not None
    assert half is not None
    parts = (quickstart.llama_model, quickstart.llama_proj)
    divided = sum(weight.nbytes for part in parts for weight in part.parameters())
    assert whole.weights - half.weights == divided // 2
    assert whole.gradients == 2 * half.gradients
    assert whole.optimizer == pytest.approx(2 * half.optimizer, abs=1)
    # Blocks that are put together, two at once, the embeddings and the output layer.
    assert 0 < half.activations - whole.activations < divided // 2
    with pytest.raises(ConfigError, match="--processes"):
        examine(arguments(QUICKSTART, sharded))


def test_no_process_is_one_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--cfg-path", str(QUICKSTART), "--processes", "0"]) == 2
    assert "--processes must be at least 1" in capsys.readouterr().err


def test_a_wrong_configuration_is_one_error(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["doctor", "--cfg-path", str(QUICKSTART), "--options", "run.batch_size=3"]
    assert main(words) == 2
    assert "run.batch_size" in capsys.readouterr().err
