"""What a preparation did: counts, examples and a page, from its record of studies."""
