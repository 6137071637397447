"""Synthetic raw data in the form of the published collections, to try a preparation on."""

from xraygpt.preparation.synthetic.folder import write_simple_folder
from xraygpt.preparation.synthetic.mimic import write_mimic_tree
from xraygpt.preparation.synthetic.openi import write_openi_tree

__all__ = ["write_mimic_tree", "write_openi_tree", "write_simple_folder"]
