"""What the Q-Former hands to a language model, and features as Hugging Face's `Blip2Model` gives them.

Shapes: B images or texts, N image tokens, V their width, Q query tokens, H width of the Q-Former, T text
tokens, D width of the language model.
"""

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from xraygpt.models.base_model import is_frozen
from xraygpt.models.blip2 import Blip2Base


class Blip2Features(Blip2Base):
    """A model with a language model behind the Q-Former, and access to what its three parts give."""

    llama_model: PreTrainedModel

    def encode_queries(self, image: Tensor) -> Tensor:
        """Images (B, 3, height, width) -> output of the Q-Former (B, Q, H), float32.

        No gradient is kept through parts that are frozen.
        """
        patches = self.embed_image(image).float()  # (B, N, V)
        frozen = is_frozen(self.Qformer) and not (patches.requires_grad or self.query_tokens.requires_grad)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
            return self.run_queries(patches)

    def get_image_features(self, pixel_values: Tensor) -> BaseModelOutputWithPooling:
        """Images (B, 3, height, width) -> `last_hidden_state` (B, N, V) of the vision encoder, normalised.

        `pooler_output` (B, V) is the class token, normalised once more, as there.
        """
        tokens = self.embed_image(pixel_values)
        return BaseModelOutputWithPooling(
            last_hidden_state=tokens, pooler_output=self.ln_vision(tokens[:, 0])
        )

    def get_qformer_features(self, pixel_values: Tensor) -> Tensor:
        """Images (B, 3, height, width) -> what the queries read off them, (B, Q, H) float32."""
        return self.encode_queries(pixel_values)

    def get_text_features(
        self, input_ids: Tensor, attention_mask: Tensor | None = None
    ) -> BaseModelOutputWithPooling:
        """Texts (B, T) int64 -> `last_hidden_state` (B, T, D) of the language model, without output layer."""
        output = self.llama_model.base_model(input_ids=input_ids, attention_mask=attention_mask)
        return BaseModelOutputWithPooling(last_hidden_state=output.last_hidden_state)
