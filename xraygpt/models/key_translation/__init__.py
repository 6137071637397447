"""From the keys of published weight files to the keys of this package, and back.

One file for each foreign format; pure functions of dictionaries.
"""

from xraygpt.models.key_translation.eva import translate_eva_keys
from xraygpt.models.key_translation.hf_blip2 import HF_LANGUAGE_MODEL, from_hf_blip2, to_hf_blip2
from xraygpt.models.key_translation.lavis import TEXT_HALF, TIED, select_qformer_keys

__all__ = [
    "HF_LANGUAGE_MODEL",
    "TEXT_HALF",
    "TIED",
    "from_hf_blip2",
    "select_qformer_keys",
    "to_hf_blip2",
    "translate_eva_keys",
]
