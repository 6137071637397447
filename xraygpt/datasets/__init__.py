"""Data sets, their builders, and the stream of batches they are trained from."""
