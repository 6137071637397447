"""The shipped parts, put together from small fakes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import sentencepiece
import torch
from safetensors.torch import save_file

from xraygpt.common.checkpoint import load_weights, save_checkpoint
from xraygpt.common.errors import CheckpointError, DataError, MissingFileError
from xraygpt.datasets.builders.image_text_pair_builder import PhantomConfig, PhantomSplit
from xraygpt.datasets.phantom.render import phantom_rng
from xraygpt.datasets.phantom.report import write_report
from xraygpt.datasets.phantom.truth import draw_truth
from xraygpt.preparation import tiny_model
from xraygpt.preparation.cli import main
from xraygpt.preparation.tiny_model import train_bert_vocabulary, train_llama_tokenizer, training_texts

METRICS = (
    {"event": "train", "step": 1, "epoch": 0, "loss": 2.0, "seconds": 1.5},
    {"event": "train", "step": 2, "epoch": 0, "loss": 1.0, "seconds": 3.0},
    {"event": "train", "step": 3, "epoch": 1, "loss": 0.5, "seconds": 2.0},
    {"event": "val", "epoch": 1, "agg_metrics": -0.5, "findings": {"f1": 1.0}},
)


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Finished trainings of all steps, and their YAML files in the current folder."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "trained"
    for step, config in (tiny_model.STEPS | tiny_model.PROJECTION_STEPS).items():
        (folder / step).mkdir(parents=True)
        (folder / step / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in METRICS))
        Path(config).parent.mkdir(parents=True, exist_ok=True)
        Path(config).write_text(f"# {step}\n")
    for name in tiny_model.LLM_FILES[:-1]:
        (folder / "llm" / name).write_text(name)
    state = {"weight": torch.full((2, 2), 1.5), "steps": torch.tensor(3)}
    save_file(state, folder / "llm" / "model.safetensors")
    for name in ("vit/vit.pth", "stage2/qformer.pth", "finetune/projection.pth"):
        save_checkpoint(folder / name, {"model": state})
    (folder / "tokenizers" / "bert").mkdir(parents=True)
    (folder / "tokenizers" / "bert" / "vocab.txt").write_text("[PAD]\n")
    return folder


def test_parts_are_half_precision_and_on_record(trained: Path, tmp_path: Path) -> None:
    target = tmp_path / "parts"
    assert main(["tiny-parts", "--trained", str(trained), "--output", str(target)]) == 0
    for name in ("vit.pth", "qformer.pth", "llama/model.safetensors"):
        state = load_weights(target / name)
        assert state["weight"].dtype is torch.float16
        assert state["weight"].tolist() == [[1.5, 1.5], [1.5, 1.5]]
        assert state["steps"].dtype is torch.int64
    record = json.loads((target / "training" / "record.json").read_text())
    assert {"vit.pth", "qformer.pth", "bert/vocab.txt", "llama/tokenizer.model"} <= set(record["files"])
    assert not any(name.startswith("training") for name in record["files"])
    for name, facts in record["files"].items():
        content = (target / name).read_bytes()
        assert facts == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    assert set(record["trainings"]) == set(tiny_model.STEPS)
    assert record["trainings"]["llm"] == {
        "steps": 3,
        "seconds": 5.0,
        "last_loss": 0.5,
        "validation": {"event": "val", "epoch": 1, "agg_metrics": -0.5},
    }
    assert (target / "training" / "vit.yaml").read_text() == "# vit\n"


def test_the_projection_joins_them(trained: Path, tmp_path: Path) -> None:
    files = tiny_model.add_projection(trained, tmp_path / "parts")
    assert [file.name for file in files] == ["projection.pth", "record.json"]


def test_every_missing_file_is_named(trained: Path, tmp_path: Path) -> None:
    for name in ("stage2/qformer.pth", "vit/metrics.jsonl", "llm/model.safetensors"):
        (trained / name).unlink()
    with pytest.raises(MissingFileError) as caught:
        tiny_model.assemble_parts(trained, tmp_path / "parts")
    for name in ("stage2/qformer.pth", "vit/metrics.jsonl", "llm/model.safetensors"):
        assert name in str(caught.value)
    assert "vocab.txt" not in str(caught.value)
    assert not (tmp_path / "parts").exists()
    (trained / "finetune" / "projection.pth").unlink()
    with pytest.raises(MissingFileError, match=r"projection\.pth"):
        tiny_model.add_projection(trained, tmp_path / "parts")


def test_parts_that_are_too_large_are_refused(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny_model, "SIZE_LIMIT", 100)
    with pytest.raises(CheckpointError, match="100 at most may ship"):
        tiny_model.assemble_parts(trained, tmp_path / "parts")


@pytest.fixture(scope="module")
def texts() -> list[str]:
    generators = [phantom_rng(9, index, "truth") for index in range(200)]
    return [write_report(draw_truth(rng), rng) for rng in generators]


def test_llama_tokenizer_keeps_text_and_symbols(tmp_path: Path, texts: list[str]) -> None:
    path = train_llama_tokenizer(texts, tmp_path / "llama", 420, symbols=["###"])
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(path))
    assert [pieces.unk_id(), pieces.bos_id(), pieces.eos_id(), pieces.pad_id()] == [0, 1, 2, -1]
    for text in (texts[0], "XXXX  two blanks, Ödem 12%", "small left effusion.###"):
        assert pieces.decode(pieces.encode(text)) == text
    assert pieces.encode("none.###", out_type=str)[-1] == "###"
    assert len(pieces.encode(texts[0])) < 0.6 * len(texts[0])
    config = json.loads((path.parent / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "LlamaTokenizer"


def test_bert_vocabulary_is_lower_case_with_specials(tmp_path: Path, texts: list[str]) -> None:
    words = train_bert_vocabulary(texts, tmp_path / "bert", 300).read_text().splitlines()
    assert words[0] == "[PAD]"
    assert {"[UNK]", "[CLS]", "[SEP]", "[MASK]", "effusion"} <= set(words)
    assert len(words) <= 300
    assert "Effusion" not in words


def test_a_data_set_without_train_split_is_named(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("<ImageHere> Describe it.\n")
    cfg = SimpleNamespace(
        model_cfg=SimpleNamespace(prompt_path=str(prompts), prompt_template=""),
        datasets_cfg={"phantom": PhantomConfig(splits={"val": PhantomSplit(seed=9, count=5)})},
    )
    with pytest.raises(DataError, match=r"datasets\.phantom: no split train .* only val"):
        training_texts(cfg, 20)


def test_training_texts_are_reports_keywords_and_prompts(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("<Img><ImageHere></Img> Describe it.\n<Img><ImageHere></Img> What is seen?\n")
    splits = {"train": PhantomSplit(seed=9, count=50), "val": PhantomSplit(seed=8, count=50)}
    cfg = SimpleNamespace(
        model_cfg=SimpleNamespace(prompt_path=str(prompts), prompt_template="###Patient: {} ###Doctor: "),
        datasets_cfg={"phantom": PhantomConfig(data_type="text", splits=splits)},
    )
    texts = training_texts(cfg, 20)
    assert sum(text.startswith("Findings: ") for text in texts) == 20
    assert {"###Patient: <Img>", "</Img> Describe it. ###Doctor: "} <= set(texts)
    assert len(texts) == 60
