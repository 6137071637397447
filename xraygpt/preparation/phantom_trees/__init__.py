"""Synthetic raw data in the form of the published collections, to try a preparation on."""

from xraygpt.preparation.phantom_trees.folder import write_simple_folder
from xraygpt.preparation.phantom_trees.mimic import write_mimic_tree
from xraygpt.preparation.phantom_trees.openi import write_openi_tree

__all__ = ["write_mimic_tree", "write_openi_tree", "write_simple_folder"]
