"""OpenI (Indiana University) as prepared by the reference: ``image/<image_id>.png`` and summaries."""

from __future__ import annotations

from xraygpt.datasets.datasets.caption_datasets import CaptionDataset


class OpenIDataset(CaptionDataset):
    """Radiographs and report summaries of OpenI."""

    name = "openi"
    obtained_from = "https://openi.nlm.nih.gov (Indiana University chest X-ray collection)"
    suffixes = (".png", ".jpg", ".jpeg")
