"""`load_questions`: the questions of a task of the Hub, a file, memory or a generator."""

import functools
import itertools
import logging
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Unpack

from cola_jax.errors import InputError, count, reading, shorten, shown
from cola_jax.question import Question, content, split
from cola_jax.tasks.arithmetic import DEFAULT_LIMIT, arithmetic
from cola_jax.tasks.harness import load_task
from cola_jax.tasks.registry import ARITHMETIC, Options, Task, check_options, find_task
from cola_jax.tasks.sources import PlacedRow, Source, hub_rows, read_rows

log = logging.getLogger(__name__)
SELECTED = {  # options that select questions: the metadata that they compare
    "level": "math_level",
    "fail_rate_level": "fail_rate_level",
    "subject": "subject",
}


def load_questions(
    source: Source,
    *,
    limit: int | float | str | None = None,
    beside: int = 0,
    **options: Unpack[Options],
) -> list[Question]:
    """Load the questions of a task, of a file, or of rows in memory.

    Args:
      source: one of `TASKS`; a JSONL, CSV or Parquet file, or a list of dicts, a DataFrame or a
        `datasets.Dataset`, whose first row determines the fields of all; or a task of
        lm-evaluation-harness.
      limit: keep the first so many questions, or a share of them (0.1 or "10%"), rounded up;
        when None all, or 100 of arithmetic.
      beside: keep so many more.
      options: see `Options`; each task takes some of them.

    Returns:
      The questions, in order.

    Raises:
      InputError: for an unknown task, an option that it does not take, a row that does not match
        the schema or has no answer (naming file and line), a duplicate id, or if there are no
        questions.
      TypeError: for an option that does not exist.
    """
    if isinstance(source, Iterator):
        source = list(source)  # read twice
    source = os.fspath(source) if isinstance(source, os.PathLike) else source
    task, limit = find_task(source), read_limit(limit)
    values: dict[str, Any] = check_options(task, options)
    unused: dict[str, None] = {}  # names, in order
    every: Iterable[Question]
    if task.kind == ARITHMETIC:
        if isinstance(limit, float):
            raise InputError(f"arithmetic has no number of questions of which {limit} is a share.")
        limit = DEFAULT_LIMIT if limit is None else limit
        every = arithmetic(values.get("level"), limit + beside, values.get("seed", 0))
    elif task.of_library:
        task_of_library = load_task(task.name, values.get("hub"), values.get("rule"))
        every = task_of_library.questions(values.get("num_fewshot"))
    else:
        every = select(task, source, values, unused)
    questions = first(every, limit, beside)
    if not questions:
        chosen = "".join(f", {name} {value}" for name, value in values.items())
        raise InputError(f"{task.name} yields no questions (limit {limit}{chosen}).")
    if unused and not task.hub:
        warn(f"{task.name}: not used are the fields {', '.join(map(shown, unused))}.")
    check_options_differ(task.name, questions)
    return questions


def read_limit(limit: int | float | str | None) -> int | float | None:
    """Read a number of questions, or a share of them: 0.1 or 10%; InputError for anything else."""
    value = limit
    if isinstance(value, str):
        text = value.strip()
        percent = text.endswith("%")
        try:
            value = float(text.removesuffix("%"))
        except ValueError:
            value = math.nan
        if percent and value == 100:
            return None
        if not percent and value.is_integer():
            return int(value)
        value = value / 100 if percent else value
    if isinstance(value, float) and not 0 < value < 1:
        raise InputError(
            f"a limit of {shown(limit)} is neither a whole number nor a share below 1: give 8, "
            "0.1 or 10%."
        )
    return value


def first(questions: Iterable[Question], limit: int | float | None, beside: int) -> list[Question]:
    """Take the first `limit` questions, or that share of them, and so many beside."""
    if isinstance(limit, float):
        every = list(questions)
        return every[: math.ceil(limit * len(every)) + beside]
    return list(itertools.islice(questions, None if limit is None else max(0, limit) + beside))


@functools.cache
def warn(message: str) -> None:
    """Warn once of a message."""
    log.warning(message)


def check_options_differ(name: str, questions: Sequence[Question]) -> None:
    """Warn of questions whose gold answer is the text of an earlier option as well."""
    same = [q.id for q in questions if not q.open and q.options.index(q.gold) != q.answer]
    if same:
        warn(
            f"{name}: the gold answer of {count(len(same), 'question')} has the text of an earlier "
            f"option ({shorten(same)}), which scorers by likelihood choose in its place."
        )


def select(
    task: Task, source: Source, values: Mapping[str, Any], unused: dict[str, None]
) -> Iterator[Question]:
    """Yield the questions of a data set on the Hub or of rows that have the wanted metadata."""
    from cola_jax.tasks.readers import rank_fail_rates  # imports pydantic

    if task.hub:
        place = {name: values.get(name) for name in ("split", "hub", "subject")}
        rows = hub_rows(task, **place)
    else:
        rows = read_rows(source)
    questions: Iterable[Question] = read_questions(task.kind, rows, unused)
    if task.kind == "dart":
        questions = rank_fail_rates(questions)
    wanted = {SELECTED[key]: str(value) for key, value in values.items() if key in SELECTED}
    for question in questions:
        if all(question.get(name) == value for name, value in wanted.items()):
            yield question


def read_questions(
    kind: str, rows: Iterable[PlacedRow], unused: dict[str, None] | None = None
) -> Iterator[Question]:
    """Read rows, each question once: DART-Math has a row for each response to a query.

    Names of fields that are not read are added to `unused`. Raises InputError that names the row.
    """
    from cola_jax.tasks.readers import read_row  # imports pydantic

    seen: dict[str, tuple[str, Question]] = {}
    for where, default_id, row in rows:
        with reading(where):
            question, extra = read_row(kind, row, default_id)
            if question.id in seen:
                earlier, other = seen[question.id]
                same = (question.text, question.gold) == (other.text, other.gold)
                if same and kind == "dart":
                    continue
                if question == other:
                    raise InputError(f"the row repeats the question of {earlier}: remove it.")
                raise InputError(f"the id {question.id!r} is already used in {earlier}.")
        if unused is not None:
            unused |= dict.fromkeys(extra)
        seen[question.id] = where, question
        yield question


def hold_out(
    questions: Sequence[Question], held_out: int, seed: int = 0
) -> tuple[list[Question], list[Question]]:
    """Divide questions into those for training and `held_out` others, each part in order.

    A hash of its text and the seed decides on which side a question is. Raises InputError where
    none would be left for training, and for a text on both sides.
    """
    if not 0 <= held_out < len(questions):
        raise InputError(
            f"{held_out} questions cannot be held out of {len(questions)}: leave some for training."
        )
    order = split([question.text for question in questions], f"held out {seed}")
    train = [questions[i] for i in sorted(order[held_out:])]
    held = [questions[i] for i in sorted(order[:held_out])]
    check_disjoint(train, held)
    return train, held


def check_disjoint(train: Sequence[Question], held: Sequence[Question]) -> None:
    """Raise InputError that names held-out questions which are training questions as well."""
    ids, texts = {question.id for question in train}, {content(question) for question in train}
    both = [question.id for question in held if question.id in ids or content(question) in texts]
    if both:
        raise InputError(
            f"{len(both)} of {len(held)} held-out questions are training questions as well "
            f"({shorten(both)}): give other files, or a split of one (--held-out)."
        )
