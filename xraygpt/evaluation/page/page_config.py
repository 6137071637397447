"""Settings of the HTML page about an evaluation."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class PageConfig:
    """The section ``run.page`` of a configuration."""

    enabled: bool = False
    """Write ``report.html`` beside the scores once the first test split is scored."""
    runs: list[str] = field(default_factory=list)
    """Output folders of the trainings that led to the model: their loss curves are shown, and their wall
    time counts towards ``seconds`` in ``scores.json``."""
    compare_runs: list[str] = field(default_factory=list)
    """Output folders of trainings, or their ``metrics.jsonl``, whose loss curves are laid over each other in
    one chart; each is called by the name of its folder."""
    untrained: str | None = None
    """Output folder of an evaluation of the same model before training; gives ``f1_untrained`` and its wall
    time."""
    examples: int = 24
    """Images shown with both reports, half of them with an error if there are as many."""

    def __post_init__(self) -> None:
        if self.examples < 0:
            raise ValueError(f"examples must not be negative, got {self.examples}")
