"""What every model has in common."""

import torch
from torch import Tensor, nn

from xraygpt.models.base_model import BaseModel, concat_all_gather, freeze, is_frozen
from xraygpt.runners.train_state import trainable_state


class Two(BaseModel):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5))
        self.second = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5))


def test_frozen_parts_stay_in_evaluation_mode() -> None:
    model = Two()
    freeze(model.first)
    assert is_frozen(model.first)
    model.train()
    assert not any(module.training for module in model.first.modules())
    assert all(module.training for module in model.second.modules())
    model.first.requires_grad_(True)
    assert model.train().first.training


def test_what_is_trained_is_what_is_saved() -> None:
    model = Two()
    freeze(model.first)
    assert set(trainable_state(model)) == {"second.0.weight", "second.0.bias"}
    assert model.manifest()["trainable"] == 6
    assert model.show_n_params(return_str=False) == 12


def test_gathering_without_processes_changes_nothing() -> None:
    rows: Tensor = torch.ones(2, 3)
    assert concat_all_gather(rows) is rows
