"""Vision encoder, Q-Former, projection and language model out of a folder of Hugging Face's BLIP-2.

For folders that `to_hf` wrote and for the public ones, whose text model (OPT, T5) may be of no use here.
"""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import Blip2Config, Blip2ForConditionalGeneration, PreTrainedModel

from xraygpt.common.checkpoint import load_weights, save_checkpoint
from xraygpt.common.errors import CheckpointError, ConfigError, MissingFileError
from xraygpt.convert.hf_config import model_section
from xraygpt.convert.to_hf import ORIGIN_FILE, TOKENIZER_FOLDER, new_folder, require_new
from xraygpt.models.hf_folder import from_folder, read_settings
from xraygpt.models.key_translation import HF_LANGUAGE_MODEL, from_hf_blip2
from xraygpt.models.llm import check_tokenizer, copy_tokenizer

PROJECTION = "llama_proj."
SUFFIXES = (".pth", ".pt")


def import_blip2(folder: Path, file: Path, llm_folder: Path | None = None) -> str:
    """Write the parts of a BLIP-2 folder as a checkpoint of this project.

    Args:
        llm_folder: where to write the language model; None to leave it out.

    Returns:
        The sections ``model`` and ``preprocess`` of a configuration that reads the file, as YAML.

    Raises:
        MissingFileError, CheckpointError: there is no such model in the folder, or it is damaged; there is no
            tokenizer for the language model.
        ConfigError: a target is there already, cannot be written or is not called ``.pth`` or ``.pt``, or the
            text model is no decoder and cannot be written.
    """
    if file.suffix not in SUFFIXES:
        raise ConfigError(f"{file}: a checkpoint of this project is written; let it end in .pth or .pt")
    require_new(file)
    config = _read_config(folder)
    decoder = config.use_decoder_only_language_model
    if llm_folder is not None:
        require_new(llm_folder)
        if not decoder:
            text_config: Any = config.text_config
            raise ConfigError(f"{folder}: its text model, {text_config.model_type}, is no decoder")
        _require_tokenizer(folder)
    state = from_hf_blip2(load_weights(folder, skip=(HF_LANGUAGE_MODEL,)))
    if not decoder:
        state = {name: value for name, value in state.items() if not name.startswith(PROJECTION)}
    origin = read_settings(folder / ORIGIN_FILE)
    manifest = {"imported_from": folder.resolve().name, **origin.get("manifest", {})}
    text = _configuration(folder, config, file, llm_folder, texts=origin.get("model", {}))
    if llm_folder is not None:
        _write_llm(folder, getattr(config.text_config, "dtype", None) or "auto", llm_folder)
    save_checkpoint(file, {"model": state, "manifest": manifest})
    return text


def _configuration(
    folder: Path, config: Blip2Config, file: Path, llm_folder: Path | None, texts: Mapping[str, Any]
) -> str:
    """The sections that read what is written; `texts` are the keys about prompts, if the folder has them."""
    model: dict[str, Any] = {"arch": "mini_gpt4", "model_type": "pretrain_vicuna", **model_section(config)}
    model |= {"vit_ckpt": str(file), "q_former_model": str(file)}
    model |= {"ckpt": str(file)} if config.use_decoder_only_language_model else {}
    model |= {"llama_model": "FOLDER" if llm_folder is None else str(llm_folder), **texts}
    processor = {"name": "blip2_image_eval", "image_size": model["image_size"], **_normalisation(folder)}
    preprocess = {"vis_processor": {"train": processor, "eval": copy.deepcopy(processor)}}
    return yaml.safe_dump({"model": model, "preprocess": preprocess}, sort_keys=False)


def _read_config(folder: Path) -> Blip2Config:
    path = folder / "config.json"
    if not path.is_file():
        raise MissingFileError(f"{folder}: no config.json in it, so it is no folder of Hugging Face's BLIP-2")
    kind = read_settings(path).get("model_type")
    if kind != "blip-2":
        raise CheckpointError(f"{path}: a model of type {kind!r}, not 'blip-2'")
    config: Blip2Config = from_folder(Blip2Config, folder, "its configuration")
    return config


def _normalisation(folder: Path) -> dict[str, list[float]]:
    """Mean and standard deviation of the image processor, where the folder has one."""
    settings = read_settings(folder / "processor_config.json").get("image_processor", {})
    settings = settings or read_settings(folder / "preprocessor_config.json")
    keys = {"mean": "image_mean", "std": "image_std"}
    return {ours: list(settings[theirs]) for ours, theirs in keys.items() if theirs in settings}


def _tokenizer_folder(folder: Path) -> Path:
    own = folder / TOKENIZER_FOLDER
    return own if own.is_dir() else folder


def _require_tokenizer(folder: Path) -> None:
    try:
        check_tokenizer(_tokenizer_folder(folder))
    except MissingFileError as error:
        raise MissingFileError(
            f"{error}\n  Copy the language model's tokenizer there (tokenizer_config.json with "
            "tokenizer.json or tokenizer.model), or leave out --llm-folder."
        ) from error


def _write_llm(folder: Path, dtype: torch.dtype | str, target: Path) -> None:
    """Write the language model as it was before a row for the image token was added."""
    loaded = from_folder(
        Blip2ForConditionalGeneration, folder, "the language model", dtype=dtype, output_loading_info=True
    )
    llm: PreTrainedModel = loaded[0].language_model
    if missing := sorted(loaded[1]["missing_keys"]):
        raise CheckpointError(f"{folder}: the weights do not fit config.json: missing {missing[:8]}")
    rows = read_settings(folder / ORIGIN_FILE).get("llm_rows")
    if rows is not None:
        llm.resize_token_embeddings(rows)
    with new_folder(target):
        llm.save_pretrained(str(target))
        copy_tokenizer(_tokenizer_folder(folder), target)
