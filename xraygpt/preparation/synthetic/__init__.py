"""Synthetic raw data in the form of the published collections, to try a preparation on."""
