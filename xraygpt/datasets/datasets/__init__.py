"""From an annotation to a sample."""
