"""Reading and writing weight files: one loader, one strict `load_state_dict`, one atomic save.

Nothing here executes code from a file: `.pth` and `.bin` are read with ``weights_only=True``, everything
else as safetensors. A training checkpoint has the layout of the reference,
``{"model", "optimizer", "config", "scaler", "epoch"}``, plus whatever exact resume needs.
"""

import json
import os
import pickle
import re
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from xraygpt.common.errors import CheckpointError, MissingFileError
from xraygpt.common.files import HEAD_BYTES, mistaken_download
from xraygpt.common.run_record import writing

_MAX_LISTED = 12
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
    file in it, or through the ``.index.json`` that names its shards, one after the other.

    Args:
        skip: beginnings of names; such tensors are left out, and not read where the format allows it.

    Raises:
        MissingFileError: no such file, or a folder without weights.
        CheckpointError: a Git-LFS pointer, a web page, a truncated file, a pickle with code in it, or a
            file without tensors.
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
        return _load_shards(path, skip), {}
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
    manifest = checkpoint.get("manifest")
    kept = {name: value for name, value in tensors.items() if not name.startswith(skip)}
    return kept, dict(manifest) if isinstance(manifest, Mapping) else {}


def load_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a whole `.pth` checkpoint onto the CPU without executing anything in it.

    Raises:
        MissingFileError: no such file.
        CheckpointError: not a checkpoint, damaged, or it holds objects other than tensors and plain values.
    """
    path = Path(path)
    check_weight_file(path)
    try:
        payload = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Unsupported global" in str(error) or "Unsupported class" in str(error):
            raise CheckpointError(
                f"{path}: holds objects that would run code when read, so it was not read. Only tensors, "
                f"numbers, strings, lists and dictionaries are accepted. ({_first_line(error)})"
            ) from error
        raise CheckpointError(f"{path}: {_damaged(path)} ({_first_line(error)})") from error
    except Exception as error:  # the unpickler fails in any way on bytes that are no pickle
        raise CheckpointError(f"{path}: {_damaged(path)} ({_first_line(error)})") from error
    if not isinstance(payload, dict):
        raise CheckpointError(f"{path}: expected a dictionary, found {type(payload).__name__}.")
    return payload


def save_checkpoint(path: str | os.PathLike[str], payload: Mapping[str, Any]) -> Path:
    """Write `payload` to `path` so that a reader sees the old file or the new one, never half of one.

    The data goes to a temporary name in the same folder, is flushed to the disk and then renamed.

    Raises:
        OSError: the disk is full, or `path` may not be written.
    """
    with writing(path):
        return _save(Path(path), payload)


def _save(path: Path, payload: Mapping[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(descriptor, "wb") as handle:
            torch.save(dict(payload), handle)
            handle.flush()
            os.fsync(handle.fileno())
        # mkstemp creates the file for its owner only; a checkpoint gets the usual permissions.
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    _flush_folder(path.parent)
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
    kept = {name: value for name, value in state.items() if not _matches(name, dropped)}
    own = module.state_dict()
    missing = [name for name in own if name not in kept and not _matches(name, optional)]
    unexpected = [name for name in kept if name not in own]
    shapes = [
        f"{name}: file {tuple(value.shape)}, model {tuple(own[name].shape)}"
        for name, value in kept.items()
        if name in own and value.shape != own[name].shape
    ]
    problems = [
        f"{len(names)} {label}: {_listed(names)}"
        for label, names in (
            ("keys of the model are missing from the file", missing),
            ("keys of the file are unknown to the model", unexpected),
            ("tensors have another size", shapes),
        )
        if names
    ]
    if problems:
        raise CheckpointError(f"{where} does not fit {type(module).__name__}:\n  " + "\n  ".join(problems))
    module.load_state_dict(kept, strict=False)


def _weights_in(folder: Path) -> Path:
    for name in _FOLDER_WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    raise MissingFileError(f"{folder}: no weights in it (none of {', '.join(_FOLDER_WEIGHTS)})")


def _load_safetensors(path: Path, skip: tuple[str, ...]) -> dict[str, Tensor]:
    check_weight_file(path)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            names = list(file.keys())
            tensors = {name: file.get_tensor(name) for name in names if not name.startswith(skip)}
    except Exception as error:  # its header may be any bytes
        raise CheckpointError(f"{path}: {_damaged(path)} ({_first_line(error)})") from error
    if not names:
        raise CheckpointError(_without_tensors(path, names))
    return tensors


def _load_shards(index: Path, skip: tuple[str, ...]) -> dict[str, Tensor]:
    check_weight_file(index)
    try:
        places = json.loads(index.read_text(encoding="utf-8"))["weight_map"].items()
        names = sorted({file for tensor, file in places if not tensor.startswith(skip)})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index}: no index of weight shards ({_first_line(error)}).") from error
    tensors: dict[str, Tensor] = {}
    for name in names:
        tensors |= load_weights(index.parent / name, skip)
    return tensors


def _without_tensors(path: Path, keys: Iterable[Any]) -> str:
    return f"{path}: holds no tensors (its top-level keys: {_listed([*map(str, keys)]) or 'none'})."


def _damaged(path: Path) -> str:
    return f"cannot be read; it is truncated, damaged or of another format ({path.stat().st_size} bytes)."


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def _matches(name: str, patterns: list[re.Pattern[str]]) -> bool:
    return any(pattern.match(name) for pattern in patterns)


def _listed(names: list[str]) -> str:
    more = f", … and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
    return ", ".join(names[:_MAX_LISTED]) + more


def _umask() -> int:
    # The mask can only be read by setting it.
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _flush_folder(folder: Path) -> None:
    """Make the rename itself durable; not every file system can flush a folder, which is no error."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)
