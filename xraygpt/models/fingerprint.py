"""A short name for the weights of a model, to tell whether two runs used the same ones."""

import hashlib

import torch
from torch import nn

VALUES = 1024
"""Values taken of each tensor; a training step changes nearly all of them."""


def weights_fingerprint(model: nn.Module) -> str:
    """SHA-256 of names, shapes, number formats and evenly spread values of all tensors of a model.

    Reading all of a language model would take as long as many reports.
    """
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        flat = tensor.detach().flatten()
        picked = flat[:: max(len(flat) // VALUES, 1)][:VALUES]
        digest.update(picked.contiguous().cpu().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
