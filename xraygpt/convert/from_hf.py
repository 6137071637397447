"""The parts of a model out of a folder of Hugging Face's BLIP-2 or LLaVA.

For folders that `to_hf` wrote and for the public ones, whose text model (OPT, T5) may be of no use here.
"""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from PIL import Image
from torch import Tensor
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_MAPPING, PreTrainedModel

from xraygpt.common.checkpoint import load_weights, save_checkpoint
from xraygpt.common.errors import CheckpointError, ConfigError, MissingFileError
from xraygpt.common.hf_folder import from_folder, read_settings
from xraygpt.common.run_record import write_json
from xraygpt.convert.blip2 import Blip2
from xraygpt.convert.llava import Llava, from_hf_llava_language, head_key
from xraygpt.convert.to_hf import ORIGIN_FILE, TOKENIZER_FOLDER, new_folder, require_new
from xraygpt.models.key_translation import (
    HF_LANGUAGE_MODEL,
    from_hf_blip2,
    translate_projector_keys,
)
from xraygpt.models.llm import check_tokenizer, copy_tokenizer

FAMILIES: dict[str, Blip2 | Llava] = {"blip-2": Blip2(), "llava": Llava()}
"""By the ``model_type`` of config.json."""
LANGUAGE = ("language_model.", "model.language_model.", "lm_head.")
VISION = ("vision_tower.", "model.vision_tower.")
"""Beginnings of keys of the parts that become folders here; BLIP-2's vision encoder does not."""


def import_folder(
    folder: Path, file: Path, llm_folder: Path | None = None, vision_folder: Path | None = None
) -> str:
    """Write the parts of a BLIP-2 or LLaVA folder as a checkpoint of this project.

    Args:
        llm_folder: where to write the language model; None to leave it out.
        vision_folder: where to write LLaVA's vision encoder; None to leave it out. BLIP-2's is in `file`.

    Returns:
        The sections ``model`` and ``preprocess`` of a configuration that reads the file, as YAML.

    Raises:
        MissingFileError, CheckpointError: there is no such model in the folder, or it is damaged; there is no
            tokenizer for the language model.
        ConfigError: a target is there already, cannot be written or is not called ``.pth`` or ``.pt``; the
            text model is no decoder and cannot be written; or the model has what this package has not.
    """
    if file.suffix not in (".pth", ".pt"):
        raise ConfigError(f"{file}: a checkpoint of this project is written; let it end in .pth or .pt")
    for target in (file, llm_folder, vision_folder):
        if target is not None:
            require_new(target)
    family, config = _read_config(folder)
    decoder = getattr(config, "use_decoder_only_language_model", True)
    if llm_folder is not None:
        if not decoder:
            raise ConfigError(f"{folder}: its text model, {config.text_config.model_type}, is no decoder")
        _tokenizer_folder(folder)
    if vision_folder is not None and isinstance(family, Blip2):
        raise ConfigError(f"{folder}: its vision encoder is written to {file}; leave out --vision-folder")
    origin = read_settings(folder / ORIGIN_FILE)
    text = _configuration(folder, family, config, file, llm_folder, vision_folder)

    unread = [keys for keys, target in ((LANGUAGE, llm_folder), (VISION, vision_folder)) if target is None]
    state = load_weights(folder, skip=sum(unread, ()))
    language, vision = (
        {key: state.pop(key) for key in list(state) if key.startswith(keys)} for keys in (LANGUAGE, VISION)
    )
    own = translate_projector_keys(from_hf_blip2(state))  # each leaves the other's keys as they are
    if not decoder:
        own = {name: value for name, value in own.items() if not name.startswith("llama_proj.")}
    if llm_folder is not None:
        _write_llm(folder, family, config.text_config, language, llm_folder, origin)
    if vision_folder is not None:
        _write_vision(folder, config.vision_config, vision, vision_folder)
    manifest = {"imported_from": folder.resolve().name, **origin.get("manifest", {})}
    if isinstance(family, Llava):
        manifest.pop("vit_model", None)  # it is in another folder from now on
    save_checkpoint(file, {"model": own, "manifest": manifest})
    return text


def _configuration(
    folder: Path, family: Blip2 | Llava, config: Any, file: Path, llm: Path | None, vision: Path | None
) -> str:
    """The sections that read what is written."""
    images = _image_processor(folder)
    size = images.get("crop_size") or images.get("size") or config.vision_config.image_size
    side = size if isinstance(size, int) else size.get("height", size.get("shortest_edge"))
    processor = {"name": "blip2_image_eval", "image_size": side}
    keys = {"mean": "image_mean", "std": "image_std"}
    processor |= {ours: list(images[theirs]) for ours, theirs in keys.items() if theirs in images}
    if "resample" in images:
        processor["interpolation"] = Image.Resampling(images["resample"]).name.lower()
    model: dict[str, Any] = {"arch": "mini_gpt4", "model_type": "pretrain_vicuna", "image_size": side}
    if isinstance(family, Llava):
        model["vit_model"] = f"hf:{vision or 'FOLDER'}"
    else:
        model |= {"vit_ckpt": str(file), "q_former_model": str(file)}
    model |= family.section(config)
    if getattr(config, "use_decoder_only_language_model", True):
        model["ckpt"] = str(file)
    model |= {"llama_model": str(llm or "FOLDER"), **read_settings(folder / ORIGIN_FILE).get("model", {})}
    preprocess = {"vis_processor": {"train": processor, "eval": copy.deepcopy(processor)}}
    text: str = yaml.safe_dump({"model": model, "preprocess": preprocess}, sort_keys=False)
    cropped = "# Images were cropped to their middle there; blip2_image_eval stretches the whole ones.\n"
    return cropped + text if images.get("do_center_crop") else text


def _read_config(folder: Path) -> tuple[Blip2 | Llava, Any]:
    path = folder / "config.json"
    if not path.is_file():
        raise MissingFileError(
            f"{folder}: no config.json in it, so it is no folder of Hugging Face's BLIP-2 or LLaVA"
        )
    kind = read_settings(path).get("model_type")
    if kind not in FAMILIES:
        raise CheckpointError(f"{path}: a model of type {kind!r}, not {' or '.join(map(repr, FAMILIES))}")
    family = FAMILIES[kind]
    return family, from_folder(family.model_class.config_class, folder, "its configuration")


def _image_processor(folder: Path) -> dict[str, Any]:
    """The settings of the image processor, empty where the folder has none."""
    settings: dict[str, Any] = read_settings(folder / "processor_config.json").get("image_processor", {})
    return settings or read_settings(folder / "preprocessor_config.json")


def _tokenizer_folder(folder: Path) -> Path:
    """Where the tokenizer of the language model lies; raises MissingFileError if there is none."""
    own = folder / TOKENIZER_FOLDER
    place = own if own.is_dir() else folder
    try:
        check_tokenizer(place)
    except MissingFileError as error:
        raise MissingFileError(
            f"{error}\n  Copy the language model's tokenizer there (tokenizer_config.json with "
            "tokenizer.json or tokenizer.model), or leave out --llm-folder."
        ) from error
    return place


def _write_llm(
    folder: Path, family: Blip2 | Llava, config: Any, state: Mapping[str, Tensor], target: Path, origin: Any
) -> None:
    """Write the language model as it was before a row for the image token was added."""
    config.tie_word_embeddings = origin.get("llm_tied", config.tie_word_embeddings)
    cls: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    with torch.device("meta"):
        empty = cls(config)
    if isinstance(family, Llava):
        state = from_hf_llava_language(state, cls.base_model_prefix, head_key(empty))
    llm = _loaded(cls, config, {key.removeprefix(HF_LANGUAGE_MODEL): state[key] for key in state}, folder)
    if "llm_rows" in origin:
        llm.resize_token_embeddings(origin["llm_rows"])
    with new_folder(target):
        llm.save_pretrained(str(target))
        copy_tokenizer(_tokenizer_folder(folder), target)


def _write_vision(folder: Path, config: Any, state: Mapping[str, Tensor], target: Path) -> None:
    """Write the vision encoder, without what makes one answer of all tokens, and how it takes images."""
    if hasattr(config, "vision_use_head"):  # SigLIP
        config.vision_use_head = False
    plain = {key.removeprefix("model.").removeprefix("vision_tower."): value for key, value in state.items()}
    encoder = _loaded(MODEL_MAPPING[type(config)], config, plain, folder)
    with new_folder(target):
        encoder.save_pretrained(str(target))
        write_json(target / "preprocessor_config.json", _image_processor(folder))


def _loaded(cls: Any, config: Any, state: Mapping[str, Tensor], folder: Path) -> PreTrainedModel:
    """A model of transformers with weights of a folder, in their number format, by keys of any version."""
    settings = {"config": config, "state_dict": dict(state), "output_loading_info": True}
    dtype = next((value.dtype for value in state.values()), None)
    model: PreTrainedModel
    model, report = cls.from_pretrained(None, dtype=dtype, **settings)
    missing = sorted(key for key in report["missing_keys"] if not key.startswith(("pooler.", "head.")))
    if missing:
        raise CheckpointError(f"{folder}: the weights do not fit config.json: missing {missing[:8]}")
    return model
