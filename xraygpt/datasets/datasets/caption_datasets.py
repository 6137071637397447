"""Anyone's images with a report each."""

from __future__ import annotations

from xraygpt.datasets.datasets.base_dataset import BaseDataset


class CaptionDataset(BaseDataset):
    """Images and reports of any source."""

    name = "caption"
    obtained_from = "xraygpt prepare (see its --help)"
