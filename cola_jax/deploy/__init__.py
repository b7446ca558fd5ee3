"""Using what a search found, without the answer at hand."""
