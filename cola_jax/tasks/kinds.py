"""Kinds of tasks: rows with the same fields, and the questions of lm-evaluation-harness."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping

from etils import epath

from cola_jax.errors import InputError
from cola_jax.question import Question
from cola_jax.tasks import harness, harness_names, readers
from cola_jax.tasks.hub import TASKS
from cola_jax.tasks.names import ARITHMETIC, LIBRARY
from cola_jax.tasks.readers import Fields, read_lines

HARNESS = "harness"  # the kind of a multiple-choice task of lm-evaluation-harness
HARNESS_OPEN = "harness-open"  # the kind of one that decodes its answers
CHOICE = ("arc", "mmlu", HARNESS)  # kinds of multiple choice
# the scorer and the format of multiple choice by default, and those of kinds with others
USUAL = ("options", "plain")
DEFAULTS = {"mmlu": ("letter", "harness")}
OWN = ("prompt", "question")  # kinds of a user's own file


@dataclasses.dataclass(frozen=True)
class Kind:
    """Rows with the same fields: their reader, and the levels that they may have."""

    read: Callable[[Fields, str | None], Question]
    levels: tuple[str, ...] = ()  # metadata names
    repeats: bool = False  # whether rows with one id are the same question
    # adds metadata that depends on all questions together
    rank: Callable[[Iterable[Question]], Iterable[Question]] = iter


KINDS = {
    "arc": Kind(readers.read_arc),
    "mmlu": Kind(readers.read_mmlu),
    "gsm8k": Kind(readers.read_gsm8k),
    "math": Kind(readers.read_math, levels=("math_level",)),
    "dart": Kind(
        readers.read_dart,
        levels=("math_level", "fail_rate_level"),
        repeats=True,
        rank=readers.rank_fail_rates,
    ),
    "prompt": Kind(readers.read_plain),
    "question": Kind(readers.read_plain),
}
FIELDS = (
    "ARC's id, question, choices, answerKey; MMLU's question, choices, answer; GSM8K's question, "
    "answer; MATH's problem, solution; DART's query_id, query, gt_ans; or prompt (or question) "
    "and answer"
)


def kind_of(task: str) -> str:
    """Returns the kind of a task: a key of KINDS, arithmetic, harness or harness-open."""
    if task == ARITHMETIC:
        return ARITHMETIC
    if task in TASKS:
        return TASKS[task].kind
    if task.startswith(LIBRARY) or not epath.Path(task).is_file():
        name = harness_names.require(task)
        return HARNESS_OPEN if harness.is_open(name) else HARNESS
    for number, row in read_lines(task):
        return kind_of_row(row, f"{task}:{number}")
    raise InputError(f"{task} yields no questions: it is empty.")


def kind_of_row(row: Fields, where: str) -> str:
    """Determines the kind of a row from the names of its fields."""
    if "answerKey" in row or isinstance(row.get("choices"), Mapping):
        return "arc"
    if "choices" in row:
        return "mmlu"
    if "query_id" in row or "query" in row:
        return "dart"
    if "problem" in row:
        return "math"
    if "question" in row and "####" in str(row.get("answer")):
        return "gsm8k"
    for name in ("prompt", "question"):
        if name in row:
            return name
    raise InputError(f"{where}: no kind of row has the fields {sorted(row)}: give {FIELDS}.")
