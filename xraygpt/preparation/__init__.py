"""What is done once, before any training: tokenizers, annotation files, the parts that ship."""
