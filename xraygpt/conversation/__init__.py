"""Conversations about radiographs: `Conversation` is plain data, `Chat` joins it to a model."""
