"""Reading raw data as it is published: every source turns it into `Study` objects."""
