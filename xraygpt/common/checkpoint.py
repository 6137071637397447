"""Reading and writing weight files: one loader, one strict `load_state_dict`, one atomic save.

Nothing here executes code from a file: `.pth` and `.bin` are read with ``weights_only=True``, everything
else as safetensors. A training checkpoint has the layout of the reference,
``{"model", "optimizer", "config", "scaler", "epoch"}``, plus whatever exact resume needs.
"""

import logging
import os
import pickle
import re
import zipfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from xraygpt.common.dist_utils import replace_parameters, stand_in
from xraygpt.common.errors import CheckpointError, DataError, MissingFileError
from xraygpt.common.files import HEAD_BYTES, load_json, mistaken_download
from xraygpt.common.run_record import replacing, writing

logger = logging.getLogger(__name__)

_MAX_LISTED = 12
_WRAPPERS = ("module.", "_orig_mod.")
"""What DataParallel and torch.compile put before every key."""
_REFUSED_CLASS = re.compile(r"(?:GLOBAL|class|instantiate) ([\w.]+\.\w+)")
_SHARD_SUFFIXES = (".safetensors", ".bin", ".pth", ".pt")
_FOLDER_WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


def load_weights(path: str | os.PathLike[str], skip: tuple[str, ...] = ()) -> dict[str, Tensor]:
    """Read the tensors of a weight file onto the CPU, with their stored dtypes.

    `.safetensors` files hold tensors only; `.pth`, `.pt` and `.bin` may hold them directly or under
    ``"model"`` (this project, LAVIS, BLIP-2) or ``"state_dict"``. A Hugging Face folder is read through the
    file in it, or through the ``.index.json`` that names its shards, one after the other. Where all keys
    begin with what a wrapper puts there (``module.``, ``_orig_mod.``), that is taken off.

    Args:
        skip: beginnings of names; such tensors are left out, and not read where the format allows it.

    Raises:
        MissingFileError: no such file, or a folder without weights.
        CheckpointError: a Git-LFS pointer, a web page, a truncated file, a pickle with code in it, a file
            without tensors or with ones that are no weights (see `check_tensor`), an index that names
            anything but files beside it, or an adapter.
    """
    return load_weights_and_manifest(path, skip)[0]


def load_weights_and_manifest(
    path: str | os.PathLike[str], skip: tuple[str, ...] = ()
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """`load_weights`, and what a checkpoint of this project says about its model (empty in other files)."""
    path = Path(path)
    if path.is_dir():
        path = _weights_in(path)
    if path.name.endswith(".index.json"):
        tensors: dict[str, Tensor] = {}
        for shard in _shards(path, skip):
            tensors |= load_weights(shard, skip)
        return tensors, {}
    if path.suffix == ".safetensors":
        return _load_safetensors(path, skip), {}
    checkpoint = load_checkpoint(path)
    payload: Any = checkpoint
    for key in ("model", "state_dict"):
        if isinstance(payload.get(key), Mapping):
            payload = payload[key]
            break
    tensors = {str(name): value for name, value in payload.items() if isinstance(value, Tensor)}
    if not tensors:
        raise CheckpointError(_without_tensors(path, payload))
    manifest = checkpoint.get("manifest", {})
    if not isinstance(manifest, Mapping) or not is_plain(manifest):
        raise CheckpointError(
            f"{path}: its entry 'manifest' is not a table of names, numbers and lists of them; the file is "
            "damaged, or not one of this project"
        )
    prefix = _wrapper_prefix(tensors, path)
    kept = {name.removeprefix(prefix): value for name, value in tensors.items()}
    kept = {name: value for name, value in kept.items() if not name.startswith(skip)}
    for name, value in kept.items():
        check_tensor(prefix + name, value, path)
    return kept, dict(manifest)


def is_plain(value: object) -> bool:
    """Tell whether something holds nothing but texts, numbers, lists and mappings with texts as keys."""
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and is_plain(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return all(map(is_plain, value))
    return value is None or type(value) in (bool, int, float, str)


def weight_files(folder: Path) -> list[Path]:
    """The files that hold the weights of a Hugging Face folder: one, or all shards that its index names.

    Raises:
        MissingFileError: there are no weights in the folder.
        CheckpointError: an adapter, or an index that names anything but files beside it.
    """
    path = _weights_in(folder)
    return _shards(path) if path.name.endswith(".index.json") else [path]


def refuse_adapter(folder: Path) -> None:
    """Raise CheckpointError if a folder holds an adapter, which says only what changes in another model."""
    file = folder / "adapter_config.json"
    if not file.is_file():
        return
    try:
        base = load_json(file)["base_model_name_or_path"]
    except (DataError, KeyError, TypeError):
        base = "another model"
    raise CheckpointError(
        f"{folder}: an adapter (adapter_config.json; PEFT, e.g. LoRA) for {base}, not a model: name that one "
        "here and the adapter in model.adapter.path, or make them one with `xraygpt merge-adapter`"
    )


def check_tensor(name: str, tensor: Tensor, where: str | os.PathLike[str]) -> None:
    """Raise CheckpointError unless a tensor holds plain numbers, all of them finite.

    The smallest and the largest number tell: this takes 0.15 s for a gigabyte on one core.
    """
    problem = None
    if tensor.is_meta:
        problem = "has a size but no numbers (it was saved from the device meta)"
    elif tensor.layout is not torch.strided or tensor.is_nested:
        problem = "is sparse or nested; save it dense"
    elif tensor.is_complex():
        problem = f"holds complex numbers ({tensor.dtype})"
    elif tensor.is_quantized or (tensor.is_floating_point() and tensor.element_size() == 1):
        problem = f"is quantised ({tensor.dtype}); save the model in float32, float16 or bfloat16"
    elif tensor.is_floating_point() and tensor.numel():
        low, high = tensor.detach().aminmax()
        if not (low.isfinite() and high.isfinite()):
            problem = f"holds NaN or infinity ({tensor.dtype}); take a file from before the training diverged"
    if problem:
        raise CheckpointError(f"{where}: the tensor {name} {problem}")


def load_checkpoint(path: str | os.PathLike[str], mmap: bool = False) -> dict[str, Any]:
    """Read a whole `.pth` checkpoint onto the CPU without executing anything in it.

    Args:
        mmap: read a tensor only when it is used, from the file, which must stay as it is until then.

    Raises:
        MissingFileError: no such file.
        CheckpointError: not a checkpoint, damaged, or it holds objects other than tensors and plain values.
    """
    path = Path(path)
    check_weight_file(path)
    try:
        mmap = mmap and zipfile.is_zipfile(path)
        payload = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # the unpickler fails in any way on bytes that are no pickle
        met = _REFUSED_CLASS.search(str(error)) if isinstance(error, pickle.UnpicklingError) else None
        if met is None:
            raise CheckpointError(f"{path}: {_damaged(path)} ({_first_line(error)})") from error
        raise CheckpointError(
            f"{path}: holds an object of {met[1]}, and reading such objects may run code, so the file "
            "was not read. Save it again with tensors, numbers, texts, lists and dictionaries only."
        ) from error
    if not isinstance(payload, dict):
        raise CheckpointError(f"{path}: expected a dictionary, found {type(payload).__name__}.")
    return payload


def save_checkpoint(path: str | os.PathLike[str], payload: Mapping[str, Any]) -> Path:
    """Write `payload` to `path`, whole or not at all (see `replacing`); its folder is made if need be."""
    path = Path(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        torch.save(dict(payload), file)
    return path


def check_weight_file(path: Path) -> None:
    """Recognise the usual things that are saved under the name of a weight file by mistake.

    Raises:
        MissingFileError: no such file.
        CheckpointError: an empty file, a Git-LFS pointer or a web page.
    """
    if not path.is_file():
        raise MissingFileError(f"{path}: no such file.")
    with path.open("rb") as handle:
        problem = mistaken_download(handle.read(HEAD_BYTES), "the weights")
    if problem:
        raise CheckpointError(f"{path}: {problem}")


def load_state(
    module: nn.Module,
    state: Mapping[str, Tensor],
    *,
    where: str,
    ignore: Iterable[str] = (),
    expect_missing: Iterable[str] = (),
) -> None:
    """Copy `state` into `module`, strictly apart from the named exceptions.

    Args:
        where: the file the state came from, for messages.
        ignore: regular expressions (matched at the start of a key) for keys of `state` that are dropped.
        expect_missing: the same for keys of `module` that `state` need not contain.

    Raises:
        CheckpointError: listing the keys that are missing, unexpected or of another shape. The module is
            unchanged then.
    """
    dropped, optional = [re.compile(p) for p in ignore], [re.compile(p) for p in expect_missing]
    kept = {name: value for name, value in state.items() if not any(p.match(name) for p in dropped)}
    own = module.state_dict()
    found: dict[str, list[str]] = {
        "keys of the model are missing from the file": [
            name for name in own if name not in kept and not any(p.match(name) for p in optional)
        ],
        "keys of the file are unknown to the model": [name for name in kept if name not in own],
        "tensors have another size": [],
        "tensors hold another kind of numbers": [],
    }
    for name, there in kept.items():
        here = own.get(name, there)
        if there.shape != here.shape:
            sizes = f"{name}: file {tuple(there.shape)}, model {tuple(here.shape)}"
            found["tensors have another size"].append(sizes)
        if there.is_floating_point() != here.is_floating_point():
            kinds = f"{name}: file {there.dtype}, model {here.dtype}"
            found["tensors hold another kind of numbers"].append(kinds)
    problems = [f"{len(names)} {label}: {_listed(names)}" for label, names in found.items() if names]
    if problems:
        raise CheckpointError(f"{where} does not fit {type(module).__name__}:\n  " + "\n  ".join(problems))
    unread = {name: p for name, p in module.named_parameters() if hasattr(p, "read") and name in kept}
    replace_parameters(module, {name: stand_in(p, kept.pop(name).detach) for name, p in unread.items()})
    module.load_state_dict(kept, strict=False)


def _weights_in(folder: Path) -> Path:
    refuse_adapter(folder)
    for name in _FOLDER_WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    raise MissingFileError(f"{folder}: no weights in it (none of {', '.join(_FOLDER_WEIGHTS)})")


@contextmanager
def reading_safetensors(path: Path) -> Iterator[Any]:
    """Open a file of safetensors, whose tensors are read one by one; CheckpointError if it is damaged."""
    check_weight_file(path)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            yield file
    except Exception as error:  # its header may be any bytes
        raise CheckpointError(f"{path}: {_damaged(path)} ({_first_line(error)})") from error


def _load_safetensors(path: Path, skip: tuple[str, ...]) -> dict[str, Tensor]:
    with reading_safetensors(path) as file:
        names = list(file.keys())
        prefix = _wrapper_prefix(names, path)
        kept = [name for name in names if not name.removeprefix(prefix).startswith(skip)]
        tensors = {name.removeprefix(prefix): file.get_tensor(name) for name in kept}
    if not names:
        raise CheckpointError(_without_tensors(path, names))
    for name, tensor in tensors.items():
        check_tensor(prefix + name, tensor, path)
    return tensors


def _shards(index: Path, skip: tuple[str, ...] = ()) -> list[Path]:
    """The files that an index of shards names, those left out whose tensors all begin with `skip`."""
    check_weight_file(index)
    try:
        places = load_json(index)["weight_map"]
        names = set(places.values())
        wanted = {file for tensor, file in places.items() if not tensor.startswith(skip)}
        if not names:
            raise ValueError("it names no files")
    except (DataError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index}: no index of weight shards ({_first_line(error)}).") from error
    for name in names:
        parts = Path(name).parts if isinstance(name, str) else ()
        inside = parts and not Path(name).is_absolute() and ".." not in parts
        if not inside or Path(name).suffix not in _SHARD_SUFFIXES or (index.parent / name).is_dir():
            raise CheckpointError(
                f"{index}: names {name!r} as a file of weights; these lie beside the index and end in "
                f"{', '.join(_SHARD_SUFFIXES)}"
            )
    return [index.parent / name for name in sorted(wanted)]


def _wrapper_prefix(names: Collection[str], path: Path) -> str:
    """What wrappers have put before all of `names`, in whatever order."""
    prefix = ""
    while added := next((w for w in _WRAPPERS if names and all(n.startswith(prefix + w) for n in names)), ""):
        prefix += added
    if prefix:
        logger.info("%s: all keys begin with %r, which a wrapper put there; taken off", path, prefix)
    return prefix


def _without_tensors(path: Path, keys: Iterable[Any]) -> str:
    return f"{path}: holds no tensors (its top-level keys: {_listed([*map(str, keys)]) or 'none'})."


def _damaged(path: Path) -> str:
    return f"cannot be read; it is truncated, damaged or of another format ({path.stat().st_size} bytes)."


def _first_line(error: BaseException) -> str:
    """The first line of a message, without terminal codes, which torch writes into some."""
    text = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", str(error)).strip() or type(error).__name__
    return "".join(letter for letter in text.splitlines()[0] if letter.isprintable())[:200]


def _listed(names: list[str]) -> str:
    more = f", … and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
    return ", ".join(names[:_MAX_LISTED]) + more
