"""``run.parallel.strategy: fsdp``: a model whose processes hold a part each (PyTorch's FSDP2).

Each block of the language model, and of whatever is trained, is a unit whose weights are gathered when it
runs; the rest (embeddings, output layer, projection) is one more. Frozen parts outside the language model are
whole in every process.
"""

import io
import pickle
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from xraygpt.common.dist_utils import (
    barrier,
    get_dist_info,
    get_world_size,
    is_main_process,
    replace_parameters,
    sharded_like,
    whole,
    whole_state,
)
from xraygpt.common.errors import CheckpointError, ConfigError
from xraygpt.common.optims import MuonAdamW
from xraygpt.models.base_model import BaseModel
from xraygpt.models.prompted_model import PromptedModel
from xraygpt.runners.compiling import block_lists
from xraygpt.tasks.steps import gather

OPTIONS = StateDictOptions(ignore_frozen_params=True, flatten_optimizer_state_dict=True, strict=False)


def move_all_but_llm(model: BaseModel, device: torch.device) -> None:
    """Move a model to its device, all but the language model, which is moved when it is sharded.

    Raises:
        ConfigError: it has none.
    """
    if not isinstance(model, PromptedModel):
        raise ConfigError(
            f"run.parallel.strategy is fsdp, which shards a language model, and {type(model).__name__} has "
            "none; set it to ddp"
        )
    llm = model.llama_model
    model._modules["llama_model"] = None  # keeps its place among the others
    model.to(device)
    model.llama_model = llm


def shard_model(model: BaseModel, device: torch.device) -> None:
    """Shard a model over all processes, in place; weights that are still in files are read, one by one.

    Raises:
        CheckpointError: a weight cannot be read.
        ConfigError: what is trained has several number formats, or the language model cannot keep the
            reports of a row apart (`model.packing`).
    """
    assert isinstance(model, PromptedModel)
    named = dict(model.named_parameters())
    ignored = {p for name, p in named.items() if not (p.requires_grad or name.startswith("llama_model."))}
    unread = {name: parameter for name, parameter in named.items() if hasattr(parameter, "read")}
    without_values = {
        name: nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=p.requires_grad)
        for name, p in unread.items()
    }
    replace_parameters(model, without_values)
    formats = {str(p.dtype).removeprefix("torch.") for p in named.values() if p.requires_grad}
    if len(formats) > 1:
        raise ConfigError(
            "run.parallel.strategy is fsdp, which needs one number format for all that is trained, and there "
            f"are {' and '.join(sorted(formats))}; set model.llm_precision to fp32"
        )
    mesh = init_device_mesh(device.type, (get_world_size(),))
    for block in (block for blocks in block_lists(model) for block in blocks):
        if any(parameter not in ignored for parameter in block.parameters()):
            fully_shard(block, mesh=mesh, reshard_after_forward=True, ignored_params=ignored)
    fully_shard(model, mesh=mesh, reshard_after_forward=False, ignored_params=ignored)
    shards = dict(model.named_parameters())
    replace_parameters(
        model,
        {
            name: nn.Parameter(sharded_like(shards[name], whole(old)), requires_grad=old.requires_grad)
            for name, old in unread.items()
        },
    )
    # FSDP takes what runs first as the whole; these are called from outside, as `forward` is.
    for method in ("generate", "generate_detailed", "check_packing"):
        register_fsdp_forward_method(model, method)
    if unread and model.config.packing:
        model.check_packing()
        cast(FSDPModule, model).reshard()  # what ran last stays whole else, and the optimizer would take that


@contextmanager
def unsharded(model: nn.Module) -> Iterator[None]:
    """Hold all weights in every process, for an evaluation: each writes reports of another number and length.

    Nothing is to be exchanged then, so that no process waits for what another one does not do.
    """
    parts = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.reshard()
            part.set_reshard_after_forward(part is not model, recurse=False)


@contextmanager
def gathered(model: nn.Module) -> Iterator[None]:
    """Let process 0 have all weights on the CPU, to write them; all processes have to call this."""
    if not isinstance(model, FSDPModule):
        yield
        return
    shards = {name: value for name, value in model.named_parameters() if isinstance(value, DTensor)}
    values = {
        name: nn.Parameter(value, requires_grad=shards[name].requires_grad)
        for name, value in whole_state(shards).items()
    }
    replace_parameters(model, values)
    try:
        yield
    finally:
        replace_parameters(model, {name: shards[name] for name in values})


def save_shards(folder: Path, checkpoint: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Write what is trained and the optimizer's state to `folder`, each process its part.

    It has a temporary name until it is whole. It counts only once a `checkpoint` that names it is written.
    """
    partial = folder.with_name(f".{folder.name}.part")
    if is_main_process():
        shutil.rmtree(partial, ignore_errors=True)
    barrier()
    save(_state(model, optimizer), checkpoint_id=partial)
    if is_main_process():
        if folder.exists():  # of a training that had come further
            checkpoint.unlink(missing_ok=True)
            shutil.rmtree(folder)
        partial.rename(folder)


def load_shards(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put back what `save_shards` wrote, in this number of processes or in another one.

    Raises:
        CheckpointError: a file of the folder is missing or damaged, or it is of another model or optimizer.
    """
    _check_files(folder)
    state = _state(model, optimizer)
    try:
        load(state, checkpoint_id=folder)
    except CheckpointException as error:
        reason = str(next(iter(error.failures.values()))[0]).strip().splitlines()[0]
        raise CheckpointError(f"{folder}: is of another model or optimizer: {reason}") from error
    set_state_dict(
        model,
        _parts(optimizer),
        model_state_dict=state["model"],
        optim_state_dict=state["optimizer"],
        options=OPTIONS,
    )
    if isinstance(optimizer, MuonAdamW):
        optimizer.share_groups()


def _parts(optimizer: torch.optim.Optimizer) -> list[torch.optim.Optimizer]:
    return list(optimizer.parts.values()) if isinstance(optimizer, MuonAdamW) else [optimizer]


def _state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, dict[str, Any]]:
    weights, moments = get_state_dict(model, _parts(optimizer), options=OPTIONS)
    return {"model": weights, "optimizer": moments}


def _check_files(folder: Path) -> None:
    """Raise CheckpointError, in all processes, unless all files that the folder's table names are whole."""
    try:
        places = FileSystemReader(folder).read_metadata().storage_data.values()
    except (OSError, EOFError, pickle.UnpicklingError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{folder / '.metadata'}: missing or damaged ({error})") from error
    parts: dict[str, list[tuple[int, int]]] = {}
    for place in places:
        parts.setdefault(place.relative_path, []).append((place.offset, place.length))
    rank, processes = get_dist_info()
    problems = [_problem(folder / name, parts[name]) for name in sorted(parts)[rank::processes]]
    if found := list(filter(None, gather(problems))):
        raise CheckpointError(found[0])


def _problem(file: Path, parts: list[tuple[int, int]]) -> str | None:
    """Say what is wrong with a file of shards; each part (offset, length) is an archive with a checksum."""
    try:
        with file.open("rb") as stream:
            for offset, length in parts:
                stream.seek(offset)
                with zipfile.ZipFile(io.BytesIO(stream.read(length))) as archive:
                    if archive.testzip() is not None:
                        raise zipfile.BadZipFile("a checksum does not fit")
    except (OSError, zipfile.BadZipFile) as error:
        return f"{file}: cannot resume from it, it is missing or damaged ({error})"
    return None
