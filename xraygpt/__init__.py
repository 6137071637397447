"""XrayGPT: reports and chat on chest radiographs (EVA-ViT, Q-Former, linear projection, LLaMA).

Importing the package is cheap: nothing heavy is loaded until a module that needs it is imported. The
usual entry point of a notebook is ``from xraygpt.models import load_model_and_preprocess``.
"""

__version__ = "0.1.0"
