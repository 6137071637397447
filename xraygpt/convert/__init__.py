"""Models of this project as folders of Hugging Face's, and back: ``python -m xraygpt.convert``.

`Blip2ForConditionalGeneration` with a decoder as its text model is the same network as `MiniGPT4` with a
Q-Former, and `LlavaForConditionalGeneration` the same as one with an MLP bridge.
"""
