"""Claims on trial: paths and their published effects, tested against controls."""
