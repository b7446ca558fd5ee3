"""Executing paths: `reference` defines what running a path means, `evaluator` does it fast."""
