"""What two processes that share a language model hold of it while they read it, against one copy in each.

    python -m benchmarks.loading_memory

A language model of 1 GB with random weights is written to a temporary folder; then torchrun starts two
processes, which build the quickstart's model with it. Memory is the largest that a process ever had resident,
mapped files included, beyond what it had with the language model of 2 MB that ships with the package.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import subprocess
import sys
import tempfile
from argparse import Namespace
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from transformers import LlamaConfig, LlamaForCausalLM

from xraygpt.common.config import Config
from xraygpt.common.dist_utils import cleanup, init_distributed_mode, is_main_process
from xraygpt.common.paths import package_root
from xraygpt.models.llm import weights_left_in_files
from xraygpt.runners.sharding import move_all_but_llm, shard_model
from xraygpt.tasks import setup_task
from xraygpt.tasks.steps import gather

SHIPPED = package_root() / "weights" / "tiny" / "llama"
LAYERS = 20
"""Each of 51 MB."""


def write_language_model(folder: Path, layers: int) -> float:
    """Write a LLaMA of random weights with the tokenizer that ships with the package; return its MB."""
    sizes = {"hidden_size": 1024, "intermediate_size": 2816, "num_attention_heads": 16, "vocab_size": 768}
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    model = LlamaForCausalLM(LlamaConfig(num_hidden_layers=layers, **sizes, **ids))
    model.save_pretrained(str(folder))
    for name in ("tokenizer.model", "tokenizer_config.json"):
        shutil.copy(SHIPPED / name, folder)
    return sum(p.numel() * p.element_size() for p in model.parameters()) / 1e6


def peak_with(llm: Path, strategy: str) -> float:
    """Build the model in this process as a training does; return the MB that it had at most so far."""
    options = [f"model.llama_model={llm}", f"run.parallel.strategy={strategy}", "run.device=cpu"]
    cfg = Config(Namespace(cfg_path="train_configs/quickstart/alignment.yaml", options=options))
    device = init_distributed_mode(cfg.run_cfg).device
    sharded = strategy == "fsdp"
    with weights_left_in_files() if sharded else nullcontext():
        model = setup_task(cfg).build_model(cfg)
    if sharded:
        move_all_but_llm(model, device)
        shard_model(model, device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def measure(strategy: str, folder: Path) -> None:
    """Print what each process needs; one of those that torchrun starts."""
    small = peak_with(SHIPPED, strategy)
    found = gather([peak_with(folder, strategy) - small])
    if is_main_process():
        print(f"{strategy}: {', '.join(f'{value:.0f} MB' for value in found)}")
    cleanup()


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure both strategies."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--layers", type=int, default=LAYERS, help="layers of the language model, 51 MB each")
    parser.add_argument("--measure", nargs=2, metavar=("STRATEGY", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.measure:
        measure(args.measure[0], Path(args.measure[1]))
        return
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    with tempfile.TemporaryDirectory() as folder:
        print(f"language model: {write_language_model(Path(folder), args.layers):.0f} MB")
        for strategy in ("ddp", "fsdp"):
            command = [*torchrun, "-m", "benchmarks.loading_memory", "--measure", strategy, folder]
            subprocess.run(command, check=True, timeout=600)


if __name__ == "__main__":
    main()
