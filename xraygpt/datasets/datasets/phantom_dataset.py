"""Phantoms as samples: a synthetic radiograph, its report, its exact truth."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from xraygpt.common.errors import DataError
from xraygpt.datasets.batch import Sample
from xraygpt.datasets.datasets.base_dataset import ReportDataset
from xraygpt.datasets.phantom.cache import rendered_split, renderer_hash
from xraygpt.datasets.phantom.render import phantom_rng, phantom_truth
from xraygpt.datasets.phantom.report import keywords, write_report
from xraygpt.datasets.phantom.truth import Truth, all_findings
from xraygpt.processors.base_processor import BaseProcessor

PHANTOM_LABELS = (
    *dict.fromkeys(finding.label for finding in all_findings()),
    *dict.fromkeys(finding.phrase for finding in all_findings() if finding.side),
)
"""Names of the K entries of a sample's labels: findings with laterality, then with size or zone too."""


def label_vector(truth: Truth) -> Tensor:
    """The truth as float32 (K,), 1 where the label of that name in ``PHANTOM_LABELS`` holds."""
    present = {finding.label for finding in truth} | {finding.phrase for finding in truth}
    return torch.tensor([float(label in present) for label in PHANTOM_LABELS])


class PhantomDataset(ReportDataset):
    """One split of synthetic radiographs.

    Args:
        vis_processor: grey PIL image -> tensor (3, H, W).
        text_processor: report -> text.
        seed: seed of the split; two splits of different seeds share no phantom.
        count: number of phantoms.
        size: side of the rendered image in pixels.
        images: False for reports without images, which are cheap in any number.
        cache: folder for rendered images; None is ``$XRAYGPT_CACHE`` or ``~/.cache/xraygpt``.
    """

    name = "phantom"
    synthetic = True

    def __init__(
        self,
        vis_processor: BaseProcessor,
        text_processor: BaseProcessor,
        *,
        seed: int,
        count: int,
        size: int,
        images: bool = True,
        cache: Path | None = None,
    ) -> None:
        self.vis_processor = vis_processor
        self.text_processor = text_processor
        self.seed = seed
        self.count = count
        self.identity = f"phantoms of seed {seed}, {size} pixels"
        self.images: np.ndarray | None = rendered_split(seed, count, size, cache) if images else None

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.count:
            raise IndexError(f"phantom {index} of {self.count}")
        truth = phantom_truth(self.seed, index)
        rng = phantom_rng(self.seed, index, "report")
        name = f"phantom-{self.seed}-{index}"
        sample: Sample = {
            "caption": self.text_processor(write_report(truth, rng)),
            "image_id": name,
            "study_id": name,
            "source": self.name,
            "image_text": keywords(truth, rng),
            "labels": label_vector(truth),
        }
        if self.images is not None:
            sample["image"] = self.vis_processor(Image.fromarray(self.images[index]))
        return sample

    def caption(self, index: int) -> str:
        """Return the report of phantom `index`, processed."""
        rng = phantom_rng(self.seed, index, "report")
        return self.text_processor(write_report(phantom_truth(self.seed, index), rng))

    def picture(self, image_id: str) -> Image.Image:
        """Return the rendered image of that id, grey; see `ReportDataset.picture`."""
        prefix, _, index = image_id.rpartition("-")
        known = prefix == f"{self.name}-{self.seed}" and index.isdecimal() and int(index) < self.count
        if self.images is None or not known:
            raise DataError(f"the split of seed {self.seed} has no image '{image_id}'")
        return Image.fromarray(self.images[int(index)])

    def image_stamps(self) -> Iterator[str]:
        """Yield what each phantom is made from: seed, number, size, and the renderer's source."""
        identity = f"{self.identity}, renderer {renderer_hash()}"
        return (f"{index} of {identity}" for index in range(self.count))
