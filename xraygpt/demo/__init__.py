"""The demo: a chat about a radiograph in the browser.

``session`` holds one user's conversation and knows no user interface, ``page`` is the gradio page around
it, ``examples`` makes the synthetic radiographs offered on it, ``launch`` goes from a command line to a
served page.
"""
