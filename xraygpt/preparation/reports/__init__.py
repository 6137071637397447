"""From the sections of a published report to the caption of its images."""
