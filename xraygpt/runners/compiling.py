"""``run.compile``: the repeated blocks of a model through torch.compile. ``run.kernels``: fused kernels."""

import logging

import torch
from torch import nn

from xraygpt.common.errors import ConfigError
from xraygpt.common.paths import install_hint

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
    blocks = [block for blocks in block_lists(model) for block in blocks]
    for block in blocks:
        block.compile(backend=backend)
    logger.info("compiling %d blocks; the first steps take longer", len(blocks))
    return len(blocks)


def use_liger(model: nn.Module, device: torch.device) -> None:
    """Have norms, feed-forward blocks and rotary positions of the language model computed by liger-kernel.

    Its fused loss is left out, since ours needs the output layer at few positions only. The classes of
    transformers are changed too, so that this process can run no such language model on the CPU any more.

    Raises:
        ConfigError: no GPU, no language model, one that liger-kernel has nothing for, or it is not installed.
    """
    llm = getattr(model, "llama_model", None)
    if device.type != "cuda":
        raise ConfigError(f"run.kernels: liger is for GPUs, and run.device is {device.type}; set it to null")
    if llm is None:
        raise ConfigError(f"run.kernels: {type(model).__name__} has no language model; set it to null")
    try:
        from liger_kernel.transformers import monkey_patch as liger
    except ImportError as error:
        raise ConfigError(f"run.kernels: {error}; run {install_hint('liger')}") from error
    kind, known = llm.config.model_type, sorted(liger.MODEL_TYPE_TO_APPLY_LIGER_FN)
    if kind not in known:
        raise ConfigError(
            f"run.kernels: liger-kernel has nothing for a language model of the type {kind}; set it to null. "
            f"It knows {', '.join(known)}"
        )
    liger._apply_liger_kernel_to_instance(llm, cross_entropy=False, fused_linear_cross_entropy=False)
    logger.info("fused kernels of liger-kernel for the language model")


def block_lists(model: nn.Module) -> list[nn.ModuleList]:
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
