"""What a model of BLIP-2's first stage is made of, by configuration."""

from dataclasses import dataclass

from xraygpt.models.blip2 import Blip2Config
from xraygpt.models.pair_training import PairTrainingConfig


@dataclass
class Blip2QformerConfig(PairTrainingConfig, Blip2Config):
    """Settings of the first stage.

    Weights are loaded in this order, each over what was there: `bert_model`, `vit_ckpt` and `q_former_model`,
    `ckpt`. A file is a local path, ``package:…``, a web address or ``hf://owner/repository/file``.
    """

    bert_tokenizer: str = "bert-base-uncased"
    """WordPiece vocabulary file, tokenizer folder or hub name."""
    bert_model: str | None = None
    """Weights of a BERT that text and queries start from, as BLIP-2 does from bert-base-uncased; none:
    random."""
    ckpt: str | None = None
    """Checkpoint of such a training, or BLIP-2's own of its first stage; none: the heads start at random."""
    max_txt_len: int = 32
    """Longest report in tokens; longer ones are cut."""

    def __post_init__(self) -> None:
        super().__post_init__()
        longest = self.qformer.max_position_embeddings
        if not 2 <= self.max_txt_len <= longest:
            raise ValueError(f"max_txt_len must lie between 2 and {longest} (max_position_embeddings)")
