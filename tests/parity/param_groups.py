"""Cases of the optimizer's groups, and of what a checkpoint holds."""

import tempfile
from pathlib import Path
from typing import Any

from torch.optim import AdamW, Optimizer

from tests.parity import blip2
from tests.parity.golden import COMPUTED, Case, cases
from tests.parity.minigpt4 import build
from xraygpt.common.checkpoint import load_checkpoint
from xraygpt.common.optims import param_groups
from xraygpt.models.mini_gpt4 import MiniGPT4
from xraygpt.runners.train_state import TrainProgress, save_training

Groups = dict[tuple[float, float], list[str]]
"""Names of parameters by the factor of their learning rate and their weight decay."""


def run(case: Case) -> None:
    for name, expected in case.values.items():
        if isinstance(expected, dict) and "no_decay" in expected:
            _scenario(case, name, case.values[name])
        elif name.startswith("lavis_"):
            _layers(case, name, case.values[name])


def _scenario(case: Case, name: str, expected: dict[str, Any]) -> None:
    """One choice of what is trained; which one, the recorded names tell."""
    trained, check = expected["decay"] + expected["no_decay"], case.comparison
    model = build(
        case,
        freeze_vit=not any(part.startswith("visual_encoder.") for part in trained),
        freeze_qformer=not any(part.startswith("Qformer.") for part in trained),
    )
    decay, no_decay = expected["weight_decay"]
    groups = param_groups(model, decay)
    names = {id(parameter): key for key, parameter in model.named_parameters()}
    for group, kind, rate in zip(groups, ("decay", "no_decay"), (decay, no_decay), strict=True):
        check.exact(f"{name} {kind}", [names[id(p)] for p in group["params"]], expected[kind])
        check.exact(f"{name} {kind} rate", group["weight_decay"], rate)
    optimizer = AdamW(groups, lr=expected["lr"], betas=tuple(expected["betas"]), eps=expected["eps"])
    layout = [
        {"weight_decay": group["weight_decay"], "params": group["params"]}
        for group in optimizer.state_dict()["param_groups"]
    ]
    recorded = case.values[f"{name}.optimizer_state_layout"]
    check.exact(f"{name}.optimizer_state_layout", layout, recorded["param_groups"])
    check.exact(f"{name}.optimizer_state_layout keys", list(optimizer.state_dict()), recorded["keys"])
    _checkpoint(case, name, model, optimizer)


def _checkpoint(case: Case, name: str, model: MiniGPT4, optimizer: Optimizer) -> None:
    """What a checkpoint of the reference has, ours has too; buffers that are computed may be left out."""
    with tempfile.TemporaryDirectory() as folder:
        path, progress = Path(folder) / "checkpoint.pth", TrainProgress()
        kwargs: dict[str, Any] = {"config": {}, "epoch": 0, "progress": progress, "job_id": ""}
        save_training(path, model=model, optimizer=optimizer, scaler=None, **kwargs)
        payload = load_checkpoint(path)
    recorded = case.values[f"{name}.checkpoint_model_keys"]
    theirs = {key: shape for key, shape in recorded.items() if not COMPUTED.search(key)}
    saved = {key: list(weight.shape) for key, weight in payload["model"].items()}
    ours = {key: shape for key, shape in saved.items() if not COMPUTED.search(key)}
    case.comparison.exact(f"{name}.checkpoint_model_keys", ours, theirs)
    parts = case.values[f"{name}.checkpoint_top_level"]
    kinds = {part: type(payload.get(part)).__name__ for part in parts}
    plain = {part: kind.removeprefix("Ordered").lower() for part, kind in parts.items()}
    kinds = {part: kind.lower() for part, kind in kinds.items()}
    case.comparison.exact(f"{name}.checkpoint_top_level", kinds, plain)


def _layers(case: Case, name: str, recorded: list[dict[str, Any]]) -> None:
    """LAVIS' groups, with a rate for each layer of the ViT, of the first stage's model.

    That model is described by its own case in the same folder. The order of the groups is not compared, and
    a number without dimensions has no weight decay here (``docs/differences.md``, "Weight decay of numbers").
    """
    other = next(
        (c for c in cases(case.folder) if c.spec["reference"]["cls"].startswith("Blip2Qformer")), None
    )
    if other is None:
        case.comparison.problem(name, "no case in the folder has the model")
        return
    trained = [parameter for group in recorded for parameter in group["params"]]
    model = blip2.build(other, freeze_vit=not any(part.startswith("visual_encoder.") for part in trained))
    layer_decay = max((g["lr_scale"] for g in recorded if g["lr_scale"] < 1), default=1.0)
    groups = param_groups(model, max(g["weight_decay"] for g in recorded), layer_decay)
    numbers = {key for key, parameter in model.named_parameters() if parameter.ndim == 0}
    names = {id(parameter): key for key, parameter in model.named_parameters()}
    order = {key: place for place, key in enumerate(names.values())}
    ours: Groups = {}
    for group in groups:
        ours[group.get("lr_scale", 1.0), group["weight_decay"]] = [names[id(p)] for p in group["params"]]
    theirs: Groups = {}
    for group in recorded:
        for key in group["params"]:
            decay = 0.0 if key in numbers else group["weight_decay"]
            theirs.setdefault((group["lr_scale"], decay), []).append(key)
    expected = {kind: sorted(keys, key=lambda key: order.get(key, -1)) for kind, keys in theirs.items()}
    case.comparison.exact(name, _rounded(ours), _rounded(expected))


def _rounded(groups: Groups) -> Groups:
    return {(round(scale, 12), decay): names for (scale, decay), names in groups.items()}
