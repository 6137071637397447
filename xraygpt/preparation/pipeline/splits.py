"""Drawing the split of a study that comes without one."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from xraygpt.preparation.study import Study


@dataclass
class SplitConfig:
    """How splits are drawn where none are published."""

    seed: int = 0
    """Another seed gives other splits."""
    val: float = 0.1
    """Share of the patients (studies, where patients are unknown) in the split ``val``."""
    test: float = 0.2
    """Share in the split ``test``. 0.7, 0.1 and 0.2 are the shares that most work on OpenI uses."""

    def __post_init__(self) -> None:
        for key, value in (("val", self.val), ("test", self.test)):
            if not 0 <= value < 1:
                raise ValueError(f"{key} must be a share from 0 to below 1, not {value}")
        if self.val + self.test >= 1:
            raise ValueError(f"val and test leave nothing to train on: {self.val} + {self.test}")


def split_of(study: Study, config: SplitConfig) -> str:
    """Return the published split of a study, or draw one: ``train``, ``val`` or ``test``.

    The draw depends on the seed and the patient (the study, where the patient is unknown) and on nothing
    else. So a patient is in one split, and a study stays in its split when rules or other studies change;
    the shares are met on average only.
    """
    if study.split is not None:
        return study.split
    name = f"{config.seed}:{study.patient_id or study.study_id}"
    number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64
    if number < config.test:
        return "test"
    return "val" if number < config.test + config.val else "train"
