"""What a phantom shows: findings drawn at random, in combinations that stay visible on a frontal film."""

from __future__ import annotations

import random
from dataclasses import dataclass

SIDES = ("right", "left")
ZONES = ("upper", "mid", "lower")
SIZES = {"pleural effusion": ("small", "moderate", "large"), "pneumothorax": ("small", "large")}
ZONED = ("consolidation", "nodule")
UNSIDED = (
    "cardiomegaly",
    "pulmonary edema",
    "hyperinflation",
    "pacemaker",
    "central line",
    "sternotomy wires",
)
DEVICES = ("pacemaker", "central line", "sternotomy wires")
FINDING_NAMES = (*UNSIDED, *SIZES, *ZONED)

NORMAL_RATE = 0.15
FINDING_COUNTS = (1, 2, 3, 4)
COUNT_WEIGHTS = (0.3, 0.35, 0.25, 0.1)
SECOND_EFFUSION_RATE = 0.15


@dataclass(frozen=True)
class Finding:
    """One abnormality or device. ``side``, ``zone`` and ``size`` are None where the finding has none."""

    name: str
    side: str | None = None
    zone: str | None = None
    size: str | None = None

    @property
    def sign(self) -> int:
        """-1 for the patient's right (image left), 1 for the left."""
        return -1 if self.side == "right" else 1

    @property
    def label(self) -> str:
        """The finding with its laterality, e.g. ``left pleural effusion``: the unit of scoring."""
        return f"{self.side} {self.name}" if self.side else self.name

    @property
    def phrase(self) -> str:
        """The finding with all its attributes, e.g. ``small left pleural effusion``."""
        zone = f"{self.zone} zone" if self.zone else None
        return " ".join(word for word in (self.size, self.side, zone, self.name) if word)


Truth = tuple[Finding, ...]
"""All findings of one phantom; empty for a normal one."""


def all_findings() -> list[Finding]:
    """Every finding that can be drawn, in a fixed order."""
    sized = [Finding(n, side=s, size=z) for n, sizes in SIZES.items() for s in SIDES for z in sizes]
    zoned = [Finding(n, side=s, zone=z) for n in ZONED for s in SIDES for z in ZONES]
    return [Finding(n) for n in UNSIDED] + sized + zoned


def compatible(one: Finding, other: Finding) -> bool:
    """Whether both can be recognised on one film (an effusion hides a nodule behind it, and so on)."""
    names = {one.name, other.name}
    if one.name == other.name:
        return False
    if "pulmonary edema" in names and names & {"hyperinflation", "consolidation", "nodule"}:
        return False
    for first, second in ((one, other), (other, one)):
        if first.name == "cardiomegaly" and second.side == "left" and second.zone == "lower":
            return False
        if first.side != second.side:
            continue
        if first.name == "pneumothorax" and second.side:
            return False
        if first.name == "pleural effusion" and second.zone:
            hidden = {"small": (), "moderate": ("lower",), "large": ("lower", "mid")}[str(first.size)]
            if second.zone in hidden:
                return False
        if first.zone and first.zone == second.zone:
            return False
    return True


def _draw_finding(name: str, rng: random.Random) -> Finding:
    if name in UNSIDED:
        return Finding(name)
    side = rng.choice(SIDES)
    if name in ZONED:
        return Finding(name, side=side, zone=rng.choice(ZONES))
    return Finding(name, side=side, size=rng.choice(SIZES[name]))


def draw_truth(rng: random.Random) -> Truth:
    """Draw the findings of one phantom: none with probability 0.15, else one to four that go together."""
    if rng.random() < NORMAL_RATE:
        return ()
    wanted = rng.choices(FINDING_COUNTS, COUNT_WEIGHTS)[0]
    findings: list[Finding] = []
    for name in rng.sample(FINDING_NAMES, len(FINDING_NAMES)):
        if len(findings) == wanted:
            break
        finding = _draw_finding(name, rng)
        if all(compatible(finding, other) for other in findings):
            findings.append(finding)
    return tuple(_with_second_effusion(findings, rng))


def _with_second_effusion(findings: list[Finding], rng: random.Random) -> list[Finding]:
    """Make some effusions bilateral, where nothing on the other side forbids it."""
    effusions = [f for f in findings if f.name == "pleural effusion"]
    if not effusions or rng.random() >= SECOND_EFFUSION_RATE:
        return findings
    other_side = "left" if effusions[0].side == "right" else "right"
    second = Finding("pleural effusion", side=other_side, size=rng.choice(SIZES["pleural effusion"]))
    others = [f for f in findings if f.name != "pleural effusion"]
    return [*findings, second] if all(compatible(second, f) for f in others) else findings
