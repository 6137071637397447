"""Files of LAVIS' BLIP-2, of MiniGPT-4 and XrayGPT: the keys are this package's own, but there are more."""

from collections.abc import Mapping

from torch import Tensor

TEXT_HALF = (
    r"^Qformer\.cls\.",
    r"^Qformer\.bert\.embeddings\.(word|position)_embeddings\.",
    r"^Qformer\.bert\.encoder\.layer\.\d+\.(intermediate|output)\.",
)
"""Keys of the Q-Former's text half, which a model that feeds it queries only does not build."""

TIED = (r"^Qformer\.cls\.predictions\.decoder\.(weight|bias)$",)
"""Second names of parameters that have another name too; a file need not hold them twice."""

QFORMER_PARTS = ("query_tokens", "Qformer.", "ln_vision.")
"""What a Q-Former weight file is read for; BLIP-2 files hold much more (heads, projections, a ViT)."""


def select_qformer_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The entries of a BLIP-2, MiniGPT-4 or own checkpoint that make up Q-Former, queries and ln_vision."""
    return {key: value for key, value in state.items() if key.startswith(QFORMER_PARTS)}
