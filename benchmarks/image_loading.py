"""How fast radiographs are loaded for training, per core: the reference's way against ours.

    python -m benchmarks.image_loading

One full-size 8-bit grey JPEG (2544x3056, as MIMIC-CXR-JPG publishes them) is drawn by the phantom renderer.
It is loaded in three ways, in turns within one process on one thread, so that all see the same machine:

- reference: PIL at full size, to RGB, random resized crop to 224 bicubic, to tensor, normalised;
- unprepared: the same file through this package's data set code;
- prepared: the file that `prepare.py` makes of it (longest side 512) through the same code.

Then both files come in batches through the loader of a training, with 0, 1 and 2 loading processes
(`run.num_workers`), whose batches this process only takes.
"""

from __future__ import annotations

import argparse
import io
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import transforms
from torchvision.transforms.functional import InterpolationMode

from xraygpt.datasets.datasets.annotations import Annotation, Annotations
from xraygpt.datasets.datasets.base_dataset import BaseDataset
from xraygpt.datasets.phantom.render import render_phantom
from xraygpt.datasets.stream import BatchLoader, TrainStream
from xraygpt.pictures.convert import PictureConfig, convert_picture
from xraygpt.pictures.reading import read_image
from xraygpt.processors.blip_processors import CLIP_MEAN, CLIP_STD, Blip2ImageTrainProcessor

WIDTH, HEIGHT = 2544, 3056
GRAIN = 4.0
"""Standard deviation of the noise in grey levels; at quality 95 the file then has 2 to 3 MB, as real ones."""
TARGETS = {"reference": 1.0, "ours, unprepared": 2.5, "ours, prepared": 20.0}

PROCESSES = (0, 1, 2)
"""Loading processes whose batches are taken."""
LOADER_ROUNDS = 3
BATCH, BATCHES = 8, 6
"""Images in a batch, and batches that are timed."""

Load = Callable[[], Tensor]


def full_size_jpeg() -> bytes:
    """Draw a phantom of full size and return it as JPEG."""
    drawn = Image.fromarray(render_phantom(0, 3, 1024)).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
    grain = np.random.default_rng(0).normal(0.0, GRAIN, (HEIGHT, WIDTH))
    pixels = np.clip(np.asarray(drawn) + grain, 0, 255).round().astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def reference(path: Path) -> Load:
    """The reference's `blip2_image_train` on its data sets' ``Image.open(path).convert("RGB")``."""
    process = transforms.Compose(
        [
            transforms.RandomResizedCrop(224, scale=(0.5, 1.0), interpolation=InterpolationMode.BICUBIC),
            transforms.ToTensor(),
            transforms.Normalize(CLIP_MEAN, CLIP_STD),
        ]
    )
    return lambda: process(Image.open(path).convert("RGB"))


def ours(path: Path) -> Load:
    """What `CaptionDataset` does for one sample."""
    process = Blip2ImageTrainProcessor(image_size=224)
    return lambda: process(read_image(path, process.decode_size))


def measure(loads: dict[str, Load], rounds: int) -> dict[str, float]:
    """Return the median seconds per image of each way, measured in turns after a round to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in loads}
    for round_number in range(rounds + 1):
        for name, load in loads.items():
            start = time.perf_counter()
            load()
            if round_number:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


def loader_rate(path: Path, processes: int) -> float:
    """Return the images/s that the loader of a training gives of copies of one file."""
    row = Annotation(path.stem, "The lungs are clear.", "train", path.stem, path.name)
    data = BaseDataset(
        Blip2ImageTrainProcessor(image_size=224), vis_root=path.parent, annotations=Annotations([row])
    )
    batches = iter(BatchLoader(TrainStream([data], [1.0], BATCH, seed=0), num_workers=processes))
    for _ in range(2 * processes + 1):  # until the processes no longer hand over at the same time
        next(batches)
    start = time.perf_counter()
    for _ in range(BATCHES):
        next(batches)
    return BATCH * BATCHES / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Images per second and core: the reference's way against ours."
    )
    parser.add_argument("--rounds", type=int, default=40, help="images loaded in each way (default 40)")
    rounds: int = parser.parse_args().rounds
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        full, prepared = Path(folder) / "full.jpg", Path(folder) / "prepared.jpg"
        full.write_bytes(full_size_jpeg())
        start = time.perf_counter()
        picture = convert_picture(full, full.name, PictureConfig())
        converted = time.perf_counter() - start
        prepared.write_bytes(picture.data)
        loads = dict(zip(TARGETS, (reference(full), ours(full), ours(prepared)), strict=True))
        medians = measure(loads, rounds)
        size = full.stat().st_size
        ways = {"unprepared": full, "prepared": prepared}
        rates = [
            {key: loader_rate(ways[key[0]], key[1]) for key in itertools.product(ways, PROCESSES)}
            for _ in range(LOADER_ROUNDS)
        ]
    base = medians["reference"]
    print(f"{WIDTH}x{HEIGHT} grey JPEG of {size / 1e6:.1f} MB; 1 thread, median of {rounds}\n")
    print("| way | ms per image | images/s per core | ratio | target |")
    print("|---|---|---|---|---|")
    for name, target in TARGETS.items():
        median = medians[name]
        print(f"| {name} | {1000 * median:.1f} | {1 / median:.1f} | {base / median:.1f} | {target:.1f} |")
    print(f"\n| loading processes | {' | '.join(map(str, PROCESSES))} |\n|{'---|' * (len(PROCESSES) + 1)}")
    for way in ways:
        medians_of = [statistics.median(found[way, number] for found in rates) for number in PROCESSES]
        print(f"| {way}, images/s | {' | '.join(f'{rate:.0f}' for rate in medians_of)} |")
    print(f"\nPreparing it once, {picture.width}x{picture.height}, took {1000 * converted:.0f} ms.")


if __name__ == "__main__":
    main()
