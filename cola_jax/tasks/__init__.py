"""Tasks: questions from the Hub or a JSONL file, and their prompts."""

from cola_jax.tasks.arc import load_questions
from cola_jax.tasks.prompt import Encoded, encode
from cola_jax.tasks.question import Question

__all__ = ["Encoded", "Question", "encode", "load_questions"]
