"""From a source to a folder that trains, in stages that can be interrupted; its page and its check."""
