"""Cases of the learning-rate schedules."""

import numpy as np
import torch

from tests.parity.golden import Array, Case
from xraygpt.common import optims


def run(case: Case) -> None:
    for name, output in case.outputs.items():
        given, (epochs, steps) = case.constructor[name], output["shape"]
        arguments = {key: value for key, value in given.items() if key != "cls"}
        rates = _rates(given["cls"], arguments, epochs, steps)
        if "Cosine" in given["cls"] and given["warmup_steps"] > steps:
            case.comparison.differs(name, "Warm-up longer than an epoch")
        else:
            case.comparison.output(name, rates)


def _rates(schedule: str, arguments: dict[str, float], epochs: int, steps: int) -> Array:
    optimizer = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = getattr(optims, schedule)(optimizer=optimizer, **arguments)
    rates = np.zeros((epochs, steps))
    for epoch in range(epochs):
        for step in range(steps):
            scheduler.step(cur_epoch=epoch, cur_step=step)
            rates[epoch, step] = optimizer.param_groups[0]["lr"]
    return rates
