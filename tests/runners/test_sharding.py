"""Two processes that share a model train as one process does; their checkpoints, and what is refused.

As a script, under torchrun, this file makes the runs that a JSON file lists, one after the other.
"""

from __future__ import annotations

import faulthandler
import json
import os
import shutil
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
from transformers import LlamaConfig, LlamaForCausalLM

from xraygpt.common import dist_utils
from xraygpt.common.checkpoint import load_checkpoint
from xraygpt.common.config import Config
from xraygpt.common.errors import CheckpointError, ConfigError, XrayGPTError
from xraygpt.models.llm import load_llm, weights_left_in_files
from xraygpt.runners import launch, runner_base
from xraygpt.runners.train_state import save_training

ROOT = Path(__file__).parents[2]
LLAMA = ROOT / "xraygpt" / "weights" / "tiny" / "llama"
PROMPTED = {
    "prompt_path": str(ROOT / "prompts" / "alignment.txt"),
    "prompt_template": "###Patient: {} ###Doctor: ",
    "max_txt_len": 160,
    "end_sym": "###",
}
ADAPTED = {"arch": "mini_gpt4", "model_type": "tiny", "ckpt": None, "prompt": "", **PROMPTED}
ADAPTED |= {"adapter": {"r": 2, "dropout": 0.0}, "llm_grad_checkpoint": True, "packing": True}
STEPS = {"max_epoch": 1, "iters_per_epoch": 4, "accum_grad_iters": 2}
TRAINED = {"arch": "causal_lm", "llama_model": str(LLAMA), **PROMPTED}
TOLERANCE = 5e-5
"""Of a weight. An update moves it by up to 1e-3, and rounding decides where its gradient is all but 0."""
SHARDED = {"parallel": {"strategy": "fsdp"}, "batch_size_train": 2}


def write_config(folder: Path, name: str, model: dict[str, Any], **run: Any) -> str:
    """Write the configuration of a run whose output goes to a folder of that name; return its path."""
    text = {"data_type": "text"} if model is TRAINED else {}
    steps = {"max_epoch": 2, "iters_per_epoch": 2, "checkpoint_steps": 1} if model is TRAINED else STEPS
    splits = {"train": {"seed": 1, "count": 32}, "val": {"seed": 2, "count": 3}}
    config = {
        "model": model,
        "datasets": {"phantom": {**text, "splits": splits}},
        "run": {
            "task": "report_generation",
            "metrics": ["rouge_l"],
            "generate": {"max_new_tokens": 6},
            "output_dir": str(folder / name),
            "device": "cpu",
            "init_lr": 1e-3,
            "grad_clip": 1.0,
            "batch_size_train": 4,
            "valid_splits": ["val"],
            **steps,
            **run,
        },
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(config))
    return str(path)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """The folder of all runs, and the error of each that two processes made, "" for none."""
    folder = tmp_path_factory.mktemp("sharded")
    for name, model in {"adapted": ADAPTED, "trained": TRAINED}.items():
        launch.launch(Namespace(cfg_path=write_config(folder, f"one_{name}", model), options=[]))
    auto = {"resume_ckpt_path": "auto"}
    plan: list[dict[str, Any]] = [
        {"cfg": write_config(folder, "adapted", ADAPTED, **SHARDED)},
        {"cfg": write_config(folder, "trained", TRAINED, **SHARDED)},
        # Stopped after the validation of an epoch, before the epoch is noted; then before a checkpoint names
        # the shards that are written already.
        {"cfg": write_config(folder, "killed", TRAINED, **SHARDED), "die_at_save": 3},
        {"cfg": write_config(folder, "killed_again", TRAINED, **SHARDED, **auto), "die_at_save": 3},
        {"cfg": write_config(folder, "resumed", TRAINED, **SHARDED, **auto)},
        {"cfg": write_config(folder, "damaged", TRAINED, **SHARDED, **auto)},
        {"cfg": write_config(folder, "whole_before", TRAINED, **SHARDED, **auto)},
        {"cfg": write_config(folder, "no_llm", {"arch": "blip2", "model_type": "tiny"}, **SHARDED)},
    ]
    # Each goes on in the folder of the one before.
    for name in ("killed", "killed_again", "resumed"):
        path = folder / f"{name}.yaml"
        path.write_text(path.read_text().replace(str(folder / name), str(folder / "stopped")))
    shutil.copytree(folder / "one_trained", folder / "whole_before")
    (folder / "plan.json").write_text(json.dumps(plan))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    process = subprocess.run(
        [*torchrun, __file__, str(folder / "plan.json")],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert process.returncode == 0, process.stderr[-5000:]
    return folder, json.loads((folder / "errors.json").read_text())


def metrics(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    kept = [line for line in lines if line["event"] in ("train", "valid")]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in kept]


@pytest.mark.parametrize(("name", "last"), [("adapted", "checkpoint_0"), ("trained", "checkpoint_1")])
def test_two_processes_with_half_a_model_each_are_one(
    runs: tuple[Path, dict[str, str]], name: str, last: str, tmp_path: Path
) -> None:
    folder, errors = runs
    assert errors[name] == ""
    one, two = folder / f"one_{name}", folder / name
    ours, theirs = metrics(two), metrics(one)
    assert len(ours) == len(theirs) >= 5
    for a, b in zip(ours, theirs, strict=True):
        assert a.keys() == b.keys()
        assert a.pop("event") == b.pop("event")
        assert a.pop("split", None) == b.pop("split", None)
        assert a == pytest.approx(b, rel=1e-4, abs=1e-6)  # grad_norm among them
    assert (two / "predictions_val.jsonl").read_text() == (one / "predictions_val.jsonl").read_text()
    saved = [load_checkpoint(place / f"{last}.pth") for place in (two, one)]
    ours, theirs = (payload["model"] for payload in saved)
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        torch.testing.assert_close(ours[key], value, rtol=0, atol=TOLERANCE)
    ours, theirs = (
        {key: value for key, value in payload["manifest"].items() if key not in ("job_id", "git")}
        for payload in saved
    )
    assert ours == theirs
    # Adam's first moments are means of gradients.
    dcp_to_torch_save(two / saved[0]["shards"], tmp_path / "whole.pth")
    moments = torch.load(tmp_path / "whole.pth", weights_only=True)["optimizer"]
    ours = sorted(float(value.double().norm()) for key, value in moments.items() if key.endswith(".exp_avg"))
    theirs = sorted(
        float(state["exp_avg"].double().norm()) for state in saved[1]["optimizer"]["state"].values()
    )
    assert ours == pytest.approx(theirs, rel=1e-3)


def test_the_folders_written_at_the_end_are_those_of_one_process(runs: tuple[Path, dict[str, str]]) -> None:
    folder, _ = runs
    for name, file in (("adapted", "adapter/adapter_model.safetensors"), ("trained", "model.safetensors")):
        ours, theirs = (load_file(folder / place / file) for place in (name, f"one_{name}"))
        assert ours.keys() == theirs.keys()
        for key, value in theirs.items():
            torch.testing.assert_close(ours[key], value, rtol=0, atol=TOLERANCE)


def test_a_run_that_was_stopped_twice_ends_bit_for_bit_as_one_that_was_not(
    runs: tuple[Path, dict[str, str]],
) -> None:
    folder, errors = runs
    assert "killed" in errors["killed"]
    assert "killed" in errors["killed_again"]
    assert errors["resumed"] == ""
    whole, stopped = folder / "trained", folder / "stopped"
    ours, theirs = (load_checkpoint(place / "checkpoint_1.pth")["model"] for place in (stopped, whole))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert metrics(stopped) == metrics(whole)
    left = {path.name for path in stopped.iterdir() if path.name.endswith((".shards", ".part"))}
    named = {load_checkpoint(path).get("shards") for path in stopped.glob("checkpoint_*.pth")} - {None}
    assert left == named


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "damaged",
            "__1_0.distcp: cannot resume from it, it is missing or damaged (a checksum does not fit)",
        ),
        ("whole_before", "run.parallel.strategy: "),
        ("whole_before", "is of a training with ddp, and this is one with fsdp"),
        ("no_llm", "fsdp, which shards a language model, and Blip2Qformer has none"),
    ],
)
def test_what_cannot_be_sharded_or_resumed_is_one_line(
    runs: tuple[Path, dict[str, str]], name: str, words: str
) -> None:
    _, errors = runs
    assert words in errors[name]
    assert len(errors[name].splitlines()) == 1


def test_one_process_resumes_no_sharded_training(runs: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    folder, _ = runs
    checkpoint = folder / "trained" / "checkpoint_1.pth"
    cfg = write_config(tmp_path, "again", TRAINED, resume_ckpt_path=str(checkpoint))
    with pytest.raises(ConfigError, match="is of a training with fsdp, and this is one with ddp"):
        launch.launch(Namespace(cfg_path=cfg, options=[]))


def test_one_process_evaluates_a_sharded_training(runs: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    folder, _ = runs
    options = [f"run.output_dir={tmp_path}", f"run.resume_ckpt_path={folder}/trained/checkpoint_1.pth"]
    cfg = str(folder / "trained.yaml")
    launch.launch(Namespace(cfg_path=cfg, options=[*options, "run.test_splits=[val]"]), evaluate_only=True)
    ours, theirs = (place / "predictions_val.jsonl" for place in (tmp_path, folder / "trained"))
    assert ours.read_text() == theirs.read_text()


def test_one_process_alone_shards_nothing(tmp_path: Path) -> None:
    cfg = write_config(tmp_path, "alone", TRAINED, **SHARDED)
    with pytest.raises(ConfigError, match=r"this is the only one; start more \(torchrun --nproc-per-node\)"):
        launch.launch(Namespace(cfg_path=cfg, options=[]))


def test_quantised_weights_are_not_sharded() -> None:
    with weights_left_in_files(), pytest.raises(ConfigError, match="cannot shard the quantised weights"):
        load_llm(LLAMA, "int8")


def tied_llama(folder: Path) -> LlamaForCausalLM:
    """Write a LLaMA whose output layer is its embedding."""
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=16, tie_word_embeddings=True, **sizes))
    model.save_pretrained(str(folder))
    return model


def test_weights_left_in_their_files_are_read_as_they_are(tmp_path: Path) -> None:
    model = tied_llama(tmp_path)
    with weights_left_in_files():
        left = load_llm(tmp_path, "bf16")
    assert left.lm_head.weight is left.model.embed_tokens.weight
    assert [name for name, _ in left.named_parameters()] == [name for name, _ in model.named_parameters()]
    for (name, ours), theirs in zip(left.named_parameters(), model.parameters(), strict=True):
        assert ours.untyped_storage().nbytes() == 2, name
        assert torch.equal(dist_utils.whole(ours), theirs.bfloat16()), name
    assert torch.equal(left.model.rotary_emb.inv_freq, model.model.rotary_emb.inv_freq)


def test_a_weight_that_does_not_fit_or_is_no_number_is_named(tmp_path: Path) -> None:
    tied_llama(tmp_path)
    file = tmp_path / "model.safetensors"
    state = load_file(file)
    name = "model.layers.1.mlp.up_proj.weight"
    save_file(state | {name: torch.full((8, 8), float("nan"))}, file, metadata={"format": "pt"})
    with weights_left_in_files():
        left = load_llm(tmp_path)
        with pytest.raises(CheckpointError, match=f"model.safetensors: the tensor {name} holds NaN"):
            dist_utils.whole(left.get_parameter(name))
        save_file(state | {name: torch.zeros(8, 9)}, file, metadata={"format": "pt"})
        with pytest.raises(CheckpointError, match=f"do not fit config.json: of another size .*{name}"):
            load_llm(tmp_path)


def test_what_has_other_names_in_its_files_is_read_whole_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = tied_llama(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with weights_left_in_files():
        read = load_llm(tmp_path)
    assert "cannot be read weight by weight: every process reads all of them" in caplog.text
    assert torch.equal(read.get_parameter("model.norm.weight"), model.model.norm.weight)


def test_the_slurm_job_is_a_shell_script() -> None:
    subprocess.run(["bash", "-n", str(ROOT / "examples" / "slurm" / "train_fsdp.sh")], check=True)


def main(plan: Path) -> None:
    """Make the runs of a plan, in this process as one of several."""
    faulthandler.dump_traceback_later(80, exit=True)  # where the processes wait for one another
    errors: dict[str, str] = {}
    for step in json.loads(plan.read_text()):
        name = Path(step["cfg"]).stem
        args = Namespace(cfg_path=step["cfg"], options=[])
        if name == "damaged":
            _damage(plan.parent, args)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(launch, "cleanup", lambda: None)  # the next run needs the other process
            _die_at_save(patch, step.get("die_at_save", 0))
            try:
                launch._launch(args, False, time.time(), last=False, audit=False)
                errors[name] = ""
            except (XrayGPTError, RuntimeError) as error:
                errors[name] = str(error)
    if dist_utils.is_main_process():
        (plan.parent / "errors.json").write_text(json.dumps(errors))
    dist_utils.cleanup()


def _damage(folder: Path, args: Namespace) -> None:
    """Copy a run, with one byte of a shard changed."""
    dist_utils.init_distributed_mode(Config(args).run_cfg)
    if dist_utils.is_main_process():
        shutil.copytree(folder / "trained", folder / "damaged")
        (file,) = (folder / "damaged").glob("checkpoint_1_*.shards/__1_0.distcp")
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    dist_utils.barrier()


def _die_at_save(patch: pytest.MonkeyPatch, number: int) -> None:
    """Stop before the file of this checkpoint is written; its shards are, and others are half written."""
    saves = 0

    def save(path: Path, **kwargs: Any) -> None:
        nonlocal saves
        saves += 1
        if saves == number:
            begun = path.with_name(".checkpoint_last_4.shards.part")
            begun.mkdir(exist_ok=True)
            (begun / "__0_0.distcp").write_bytes(b"begun")
            raise RuntimeError("killed")
        save_training(path, **kwargs)

    patch.setattr(runner_base, "save_training", save)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
