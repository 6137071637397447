"""``run.compile``: the repeated blocks of a model through torch.compile."""

import logging

import torch
from torch import nn

from xraygpt.common.errors import ConfigError

logger = logging.getLogger(__name__)


def compile_blocks(model: nn.Module, device: torch.device, backend: str = "inductor") -> int:
    """Compile the blocks of encoder, Q-Former and language model in place; return how many there are.

    Blocks of one kind share their code, so that it takes far less time than a whole model, and the names of
    weights stay as they are. Code is made when a shape is met for the first time.

    Args:
        device: where the model runs.
        backend: of torch.compile.

    Raises:
        ConfigError: this machine cannot compile.
    """
    _try(device, backend)
    blocks = [block for blocks in _block_lists(model) for block in blocks]
    for block in blocks:
        block.compile(backend=backend)
    logger.info("compiling %d blocks; the first steps take longer", len(blocks))
    return len(blocks)


def _block_lists(model: nn.Module) -> list[nn.ModuleList]:
    """Return the innermost lists of like blocks."""
    lists = [
        module
        for module in model.modules()
        if isinstance(module, nn.ModuleList) and len(module) > 1 and len({*map(type, module)}) == 1
    ]
    return [blocks for blocks in lists if not any(other in lists for other in list(blocks.modules())[1:])]


def _try(device: torch.device, backend: str) -> None:
    """Raise ConfigError unless a function of two numbers can be compiled."""
    try:
        torch.compile(torch.add, backend=backend)(torch.ones(2, device=device), 1)
    except Exception as error:  # of the compiler's own kinds
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"run.compile: this machine cannot compile for {device.type}: {reason}\n"
            "  torch.compile needs a C++ compiler (g++), on a GPU triton too; or set run.compile to false"
        ) from error
