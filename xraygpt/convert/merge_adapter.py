"""A language model and its adapter made one: a Hugging Face folder that needs neither."""

from pathlib import Path

from peft import PeftModel

from xraygpt.common.errors import CheckpointError, ConfigError
from xraygpt.common.run_record import writing
from xraygpt.convert.to_hf import require_new
from xraygpt.models.adapters import check_adapter_folder
from xraygpt.models.llm import check_llm, copy_tokenizer, load_llm, require_llm


def merge(base: str, adapter: str, folder: Path) -> None:
    """Write the language model in `base` with `adapter` added to its weights, in their number format.

    Args:
        base: its folder, or ``hf://owner/repository``.
        adapter: folder of peft's, of any kind that can be merged.
        folder: new or empty.

    Raises:
        MissingFileError, CheckpointError, ConfigError: something is missing, or does not fit.
    """
    require_new(folder)
    check_llm(base, "LLM_FOLDER")
    source, changes = require_llm(base, "LLM_FOLDER"), check_adapter_folder(adapter, "ADAPTER_FOLDER")
    llm = load_llm(source, "stored")
    if getattr(llm, "is_quantized", False):
        raise ConfigError(f"{source}: quantised; merge into the model that it was made from")
    try:
        merged = PeftModel.from_pretrained(llm, str(changes)).merge_and_unload()
    except Exception as error:  # peft raises whatever its many kinds of adapters do
        raise CheckpointError(f"{changes}: does not fit {source}: {str(error).splitlines()[0]}") from error
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        merged.save_pretrained(str(folder))
        copy_tokenizer(source, folder)
