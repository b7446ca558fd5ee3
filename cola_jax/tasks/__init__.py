"""Tasks: questions from the Hub, a JSONL file or a generator, their prompts and answers."""

from cola_jax.question import Question, open_question
from cola_jax.scoring.answer import Answer, find_answer
from cola_jax.scoring.encode import Encoded, encode
from cola_jax.scoring.grader import Grade, Grader
from cola_jax.tasks.formats import Format, format_of
from cola_jax.tasks.load import kind_of, load_questions
from cola_jax.tasks.shots import load_shots

__all__ = [
    "Answer",
    "Encoded",
    "Format",
    "Grade",
    "Grader",
    "Question",
    "encode",
    "find_answer",
    "format_of",
    "kind_of",
    "load_questions",
    "load_shots",
    "open_question",
]
