"""The demo's questions, a JSONL file of ARC's fields inside the package."""

from pathlib import Path


def demo_questions() -> Path:
    """Returns the file."""
    return Path(__file__).with_name("questions.jsonl")
