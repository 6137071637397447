"""Cases of the optimizer's groups, and of what a checkpoint holds."""

from typing import Any

from torch.optim import AdamW

from tests.parity.golden import COMPUTED, Case
from tests.parity.minigpt4 import build
from xraygpt.common.optims import param_groups
from xraygpt.models.mini_gpt4 import MiniGPT4
from xraygpt.runners.train_state import trainable_state

OTHER_RECIPE = "LAVIS' own groups, with a rate for each layer of the ViT, are not part of XrayGPT's training"


def run(case: Case) -> None:
    for name, expected in case.values.items():
        if isinstance(expected, dict) and "no_decay" in expected:
            _scenario(case, name, expected)
        elif name.startswith("lavis_"):
            case.comparison.differs(name, OTHER_RECIPE)


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
    recorded = case.values[f"{name}.optimizer_state_layout"]["param_groups"]
    check.exact(f"{name}.optimizer_state_layout", layout, recorded)
    _checkpoint(case, name, model)


def _checkpoint(case: Case, name: str, model: MiniGPT4) -> None:
    """Names and shapes of the saved weights; buffers that are computed may be left out."""
    recorded = case.values[f"{name}.checkpoint_model_keys"]
    theirs = {key: shape for key, shape in recorded.items() if not COMPUTED.search(key)}
    saved = {key: list(weight.shape) for key, weight in trainable_state(model).items()}
    ours = {key: shape for key, shape in saved.items() if not COMPUTED.search(key)}
    case.comparison.exact(f"{name}.checkpoint_model_keys", ours, theirs)
