"""Models of this project as folders of Hugging Face's BLIP-2, and back: ``python -m xraygpt.convert``.

`Blip2ForConditionalGeneration` with a decoder as its text model is the same network as `MiniGPT4`.
"""
