"""MIMIC-CXR as prepared by the reference: ``image/<image_id>.jpg`` and summaries of the reports."""

from __future__ import annotations

from xraygpt.datasets.datasets.caption_datasets import CaptionDataset


class MIMICDataset(CaptionDataset):
    """Radiographs and report summaries of MIMIC-CXR."""

    name = "mimic"
    obtained_from = "https://physionet.org/content/mimic-cxr-jpg (access on application)"
    suffixes = (".jpg", ".jpeg", ".png")
