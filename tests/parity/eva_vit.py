"""Cases of the vision encoder."""

import re
from functools import partial
from typing import Any

import torch
from torch import nn

from tests.parity.golden import Case
from xraygpt.models.eva_vit import VisionTransformer, convert_weights_to_fp16, interpolate_pos_embed

NORM_EPS = 1e-6
"""Of the encoder's norms where a case does not say: as in every configuration of the reference."""


def build(constructor: dict[str, Any]) -> VisionTransformer:
    """The encoder that a case's constructor arguments describe."""
    arguments = {k: v for k, v in constructor.items() if k not in ("norm_layer", "ln_eps")}
    if isinstance(arguments["img_size"], list):
        arguments["img_size"] = tuple(arguments["img_size"])
    eps = re.search(r"eps=([\d.e-]+)", constructor.get("norm_layer", ""))
    norm = partial(nn.LayerNorm, eps=float(eps.group(1) if eps else constructor.get("ln_eps", NORM_EPS)))
    return VisionTransformer(**arguments, norm_layer=norm)


def run_forward(case: Case) -> None:
    """Output, intermediate layers, and the gradients where a loss is recorded."""
    model, image, check = build(case.constructor), case.inputs["image"], case.comparison
    case.load(model)
    image.requires_grad_()
    out = model(image)
    check.output("out", out)
    layers = model.get_intermediate_layers(image)
    for name, number in case.numbered(r"intermediate_(\d+)"):
        check.output(name, layers[number])
    if "loss_weight" in case.inputs:
        weight = case.inputs["loss_weight"]
        terms = out * weight / weight.numel()
        loss = terms.sum()
        loss.backward()
        check.value("loss", loss, terms)
        check.gradients(model)
        assert image.grad is not None
        check.output("grad_image", image.grad)


def run_interpolate(case: Case) -> None:
    """A position embedding of another size, fitted and used."""
    for side, constructor in case.constructor.items():
        model, key = build(constructor), f"state_dict_{side}"
        case.check_names(model, key)
        state = case.weights(key) | {"pos_embed": case.inputs[f"ckpt_pos_embed_{side}"]}
        interpolate_pos_embed(model, state)
        case.comparison.output(f"pos_embed_{side}", state["pos_embed"])
        model.load_state_dict(state, strict=False)
        with torch.no_grad():
            case.comparison.output(f"out_{side}", model.eval()(case.inputs[f"image_{side}"]))


def run_half_precision(case: Case) -> None:
    """Which entries the conversion to float16 changes."""
    model = build(case.constructor)
    convert_weights_to_fp16(model)
    found = {name: str(value.dtype).removeprefix("torch.") for name, value in model.state_dict().items()}
    for name, expected in case.values["dtypes"].items():
        case.comparison.exact(f"dtypes {name}", found.get(name), expected)
