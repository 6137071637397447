from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import sentencepiece

from xraygpt.common.errors import DataError
from xraygpt.datasets.builders.phantom_builder import PhantomConfig, PhantomSplit
from xraygpt.datasets.phantom.patients import phantom_rng
from xraygpt.datasets.phantom.report import write_report
from xraygpt.datasets.phantom.truth import draw_truth
from xraygpt.preparation.tiny_model.texts import training_texts
from xraygpt.preparation.tiny_model.tokenizers import train_bert_vocabulary, train_llama_tokenizer


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
