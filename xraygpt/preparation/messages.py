"""A prepared folder as conversations with images, for training in other frameworks."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from xraygpt.common.errors import DataError
from xraygpt.common.run_record import write_json
from xraygpt.datasets.datasets.annotations import ANNOTATION_FILE, read_annotations
from xraygpt.datasets.datasets.images import IMAGE_FOLDER, LooseImages
from xraygpt.preparation.synthetic.trees import make_new_folder

IMAGE_MARK = "<image>"
"""Where an image stands in a text, for ms-swift and LLaMA-Factory."""
DATASET_INFO = "dataset_info.json"


def write_messages(folder: Path, output: Path, prompt: str) -> dict[str, int]:
    """Write ``<split>.jsonl``, a row for each image with a report, and LLaMA-Factory's ``dataset_info.json``.

    A row is ``{"messages": [{"role": "user", "content": "<image>..."}, {"role": "assistant", "content":
    report}], "images": [path]}``, the path being absolute.

    Args:
        folder: a prepared folder with images in ``image/``.
        output: a new or empty folder.
        prompt: what is said to each image.

    Returns:
        Split -> rows; under "without a report" the number of images that are left out.

    Raises:
        MissingFileError, DataError: the folder is not prepared, or has its images in shards.
    """
    rows = read_annotations(folder / ANNOTATION_FILE)
    if not (folder / IMAGE_FOLDER).is_dir():
        raise DataError(
            f"{folder}: no {IMAGE_FOLDER}/ in it; other frameworks read image files, so prepare it without "
            "--shards and with images"
        )
    images = LooseImages((folder / IMAGE_FOLDER).resolve())
    make_new_folder(output)
    written: Counter[str] = Counter()
    with ExitStack() as stack:
        splits = sorted({row.split for row in rows if row.caption})
        files = {
            split: stack.enter_context((output / f"{split}.jsonl").open("w", encoding="utf-8"))
            for split in splits
        }
        for row in rows:
            if row.caption:
                asked = {"role": "user", "content": IMAGE_MARK + prompt}
                told = {"role": "assistant", "content": row.caption}
                line = {"messages": [asked, told], "images": [images.place(row.image_id)]}
                files[row.split].write(json.dumps(line, ensure_ascii=False) + "\n")
            written[row.split if row.caption else "without a report"] += 1
    write_json(output / DATASET_INFO, {split: _dataset_info(split) for split in splits})
    return dict(written)


def _dataset_info(split: str) -> dict[str, Any]:
    """Return how LLaMA-Factory is to read a split."""
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
    columns = {"messages": "messages", "images": "images"}
    return {"file_name": f"{split}.jsonl", "formatting": "sharegpt", "columns": columns, "tags": tags}
