"""Uses of the paths that a search found, where the correct answer is not known."""
