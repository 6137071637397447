"""What a MiniGPT4 is made of, by configuration."""

from dataclasses import dataclass
from typing import Literal

from xraygpt.conversation.messages import IMAGE_PLACEHOLDER, check_template, fill_template
from xraygpt.models.blip2 import Blip2Config
from xraygpt.models.prompts import read_prompts


@dataclass
class MiniGPT4Config(Blip2Config):
    """Sizes, pretrained files and prompts of a MiniGPT4.

    A pretrained file is a local path, ``package:…``, a web address or ``hf://owner/repository/file``; null
    means that the part stays as it was initialised, at random, which is said in the log.
    """

    vit_ckpt: str | None = "weights/eva_vit_g.pth"
    """Weights of the vision encoder (EVA-CLIP ViT-g at full size)."""
    q_former_model: str | None = "weights/blip2_pretrained_flant5xxl.pth"
    """Weights of the Q-Former: keys ``Qformer.*``, ``query_tokens`` and ``ln_vision.*``."""
    llama_model: str = "weights/xraygpt_llm"
    """Hugging Face folder of the language model."""
    llm_precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Number format of the frozen language model; auto: fp32 on the CPU, bf16 on a GPU that has
    it, else fp16."""
    ckpt: str | None = None
    """Checkpoint with the trained parts, the projection above all; null: the projection starts at random."""
    vit_precision: str = "fp16"
    """Number format of a frozen vision encoder's weights: fp16 or fp32; on the CPU always fp32."""
    freeze_qformer: bool = True
    """Do not train the Q-Former and its query tokens. `freeze_vit` freezes the norm behind the ViT too."""
    prompt_path: str = ""
    """File with one prompt per line, each with ``<ImageHere>``; empty: no text around the image."""
    prompt_template: str = ""
    """What a prompt is put into, e.g. ``###Patient: {} ###Doctor: ``; empty: used as it is."""
    prompt: str = ""
    """One prompt, instead of a file of them."""
    max_txt_len: int = 32
    """Most tokens of a report; a longer one is cut and loses its end symbol."""
    end_sym: str = "\n"
    """What closes a report, and ends generation."""
    low_resource: bool = False
    """The reference's 8-bit language model, which its demo asks for; not supported: `llm_precision` holds,
    and the log says so."""
    device_8bit: int = 0
    """The reference's GPU for it; accepted and without effect."""

    def __post_init__(self) -> None:
        if self.vit_precision == "fp16" and not self.freeze_vit:
            # The default is fp16 as in the reference, whose ViT is trained in fp32 when it is not frozen.
            self.vit_precision = "fp32"
        super().__post_init__()
        check_template(self.prompt_template)
        if self.prompt and self.prompt.count(IMAGE_PLACEHOLDER) != 1:
            raise ValueError(f"prompt must hold {IMAGE_PLACEHOLDER} exactly once")
        if self.prompt and self.prompt_path:
            raise ValueError("prompt and prompt_path exclude each other")
        if self.max_txt_len < 1:
            raise ValueError("max_txt_len must be at least 1")

    def prompts(self) -> list[str]:
        """The prompts of the training in their template; none: the image alone.

        Raises:
            MissingFileError, ConfigError: there is no prompt file, or nothing that can be used in it.
        """
        if self.prompt:
            return [fill_template(self.prompt_template, self.prompt)]
        return read_prompts(self.prompt_path, self.prompt_template) if self.prompt_path else []
