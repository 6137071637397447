"""Synthetic raw data in the form of the published collections, to try a preparation on."""

from xraygpt.preparation.synthetic.mimic import write_mimic_tree
from xraygpt.preparation.synthetic.trees import write_openi_tree, write_simple_folder

__all__ = ["write_mimic_tree", "write_openi_tree", "write_simple_folder"]
