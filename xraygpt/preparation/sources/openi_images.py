"""The images of the OpenI collection, whichever of its forms a user has.

The same image has other names in other places:

- ``CXR1_1_IM-0001-3001`` in the reports and ``CXR1_1_IM-0001-3001.png`` in ``NLMCXR_png.tgz``,
- ``1/1_IM-0001-3001.dcm`` in ``NLMCXR_dcm.tgz``,
- ``1_IM-0001-3001.dcm.png`` in the copy on Kaggle.

Of all other studies the report says ``CXR2_IM-0652-1001``; the DICOM file is ``2_IM-0652-1001.dcm``. What
they have in common is the number before ``_IM`` and what follows it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

from xraygpt.common.errors import DataError
from xraygpt.datasets.datasets.annotations import summarise
from xraygpt.preparation.sources.archives import walk_files
from xraygpt.preparation.sources.names import is_image, stem
from xraygpt.preparation.study import Unusable

_PREFIX = re.compile(r"CXR(?:\d+_(?=\d+_IM))?", re.IGNORECASE)


def image_key(name: str) -> str:
    """Return what all names of an image have in common: ``1_IM-0001-3001``.

    Args:
        name: an image id, or the path of a file.
    """
    return _PREFIX.sub("", stem(name), count=1)


def find_images(folder: Path) -> dict[str, Path]:
    """Return key (see `image_key`) -> file, of all images in a folder and below it. Links are not followed.

    Raises:
        DataError: there are none, or the same image is there more than once.
    """
    found: dict[str, list[Path]] = defaultdict(list)
    for entry in walk_files(folder):
        if not isinstance(entry, Unusable) and is_image(entry[0]):
            found[image_key(entry[0])].append(entry[1])
    if not found:
        raise DataError(f"{folder}: there are no images in this folder")
    several = [", ".join(map(str, files)) for files in found.values() if len(files) > 1]
    if several:
        raise DataError(
            f"{folder}: {summarise('images are there more than once', several)}\n"
            "name the folder that holds the form you want"
        )
    return {key: files[0] for key, files in found.items()}
