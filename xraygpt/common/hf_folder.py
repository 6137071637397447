"""Folders in Hugging Face's format: fetched, read without running any code of theirs, or refused by name."""

from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from transformers import CONFIG_MAPPING
from transformers.models.auto.tokenization_auto import tokenizer_class_from_name

from xraygpt.common.checkpoint import check_weight_file
from xraygpt.common.errors import CheckpointError, DataError, MissingFileError
from xraygpt.common.files import load_json
from xraygpt.common.paths import HUB_PREFIX


def fetched(name: str, where: str) -> Path:
    """The folder of ``hf://owner/repository``, from the hub or its cache; raises MissingFileError."""
    try:
        return Path(snapshot_download(name.removeprefix(HUB_PREFIX)))
    except Exception as error:  # network, name and access errors share no base class
        raise MissingFileError(
            f"could not fetch {name} ({where}): {error}\n"
            "  look at the name, or download the folder by hand and name it instead"
        ) from error


def read_settings(file: Path) -> dict[str, Any]:
    """The mapping in a JSON file, empty if there is no such file; CheckpointError if it cannot be read."""
    if not file.is_file():
        return {}
    check_weight_file(file)
    try:
        settings = load_json(file)
    except DataError as error:
        raise CheckpointError(str(error)) from error
    if not isinstance(settings, dict):
        raise CheckpointError(f"{file}: expected names with values, found {type(settings).__name__}")
    return settings


def from_folder(cls: Any, folder: Path, what: str, **kwargs: Any) -> Any:
    """``cls.from_pretrained`` of a local folder; every class of transformers reads its folders through this.

    Args:
        what: what is read, for messages, e.g. "the language model".

    Raises:
        CheckpointError: it cannot be read, or only by code in the folder, which is not run.
    """
    refuse_code(folder)
    try:
        return cls.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False, **kwargs)
    except Exception as error:  # the readers of the many formats share no base class of their errors
        if "trust_remote_code" in str(error):
            raise _needs_code(folder) from error
        raise CheckpointError(f"{folder}: {what} cannot be read: {error}") from error


def refuse_code(folder: Path) -> None:
    """Raise CheckpointError if only Python code in the folder could read its model or its tokenizer.

    Many folders hold such code for older versions of a model that transformers knows by now; these pass, and
    transformers' own class reads them.
    """
    config = read_settings(folder / "config.json")
    if "auto_map" in config and config.get("model_type") not in CONFIG_MAPPING:
        raise _needs_code(folder)
    config = read_settings(folder / "tokenizer_config.json")
    if "auto_map" in config and tokenizer_class_from_name(str(config.get("tokenizer_class"))) is None:
        raise _needs_code(folder)


def _needs_code(folder: Path) -> CheckpointError:
    return CheckpointError(
        f"{folder}: can only be read by Python code in it (auto_map in its config.json or "
        "tokenizer_config.json), which is never run; use a model of a type that transformers itself knows"
    )
