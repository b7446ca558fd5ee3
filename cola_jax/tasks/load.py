"""`load_questions`: the questions of a task on the Hub, a file, rows in memory or a generator."""

import functools
import itertools
import logging
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from cola_jax.errors import InputError, count, reading, shorten, shown
from cola_jax.question import Question, content, split
from cola_jax.tasks.arithmetic import DEFAULT_LIMIT, arithmetic
from cola_jax.tasks.harness import is_open, load_task
from cola_jax.tasks.readers import SCHEMA, kind_of_row, rank_fail_rates, read_row
from cola_jax.tasks.registry import (
    ARITHMETIC,
    HARNESS,
    HARNESS_OPEN,
    LIBRARY,
    TASKS,
    Task,
    canonical,
    library_name,
)
from cola_jax.tasks.sources import PlacedRow, Source, hub_rows, read_rows

log = logging.getLogger(__name__)
SELECTED = {  # options that select questions, and the metadata that they are compared with
    "level": "math_level",
    "fail_rate_level": "fail_rate_level",
    "subject": "subject",
}


def load_questions(
    source: Source,
    *,
    limit: int | float | str | None = None,
    beside: int = 0,
    split: str | None = None,
    hub: str | None = None,
    subject: str | None = None,
    level: int | None = None,
    fail_rate_level: int | None = None,
    seed: int | None = None,
    num_fewshot: int | None = None,
    rule: str | None = None,
) -> list[Question]:
    """Load the questions of a task, of a file, or of rows in memory.

    Args:
      source: one of `TASKS`; a JSONL, CSV or Parquet file, or a list of dicts, a DataFrame or a
        `datasets.Dataset`, whose first row determines the fields of all; or a task of
        lm-evaluation-harness.
      limit: number of questions, from the first, or a share of them (0.1 or "10%"), rounded up; by
        default all, or 100 of arithmetic.
      beside: number of questions beyond the limit.
      split: of the data set on the Hub.
      hub: id or local directory of a data set of the same layout.
      subject: of MMLU, MATH, DART-Math or a file of multiple choice.
      level: of difficulty, 1 to 5.
      fail_rate_level: likewise, by the failures of a model.
      seed: of arithmetic.
      num_fewshot: shots in the prompts of a task of lm-evaluation-harness.
      rule: the filter of completions of such a task.

    Returns:
      The questions, in order.

    Raises:
      InputError: for an unknown task, an option that the task ignores, a row that does not match
        the schema or has no answer (naming file and line), a duplicate id, or no questions.
    """
    if isinstance(source, Iterator):
        source = list(source)  # read twice
    source = os.fspath(source) if isinstance(source, os.PathLike) else source
    task, limit = find_task(source), read_limit(limit)
    options = {"split": split, "hub": hub, "subject": subject, "level": level}
    options |= {"fail_rate_level": fail_rate_level, "seed": seed}
    options |= {"num_fewshot": num_fewshot, "rule": rule}
    values = check_options(task, {name: x for name, x in options.items() if x is not None})
    unused: dict[str, None] = {}  # names, in order
    every: Iterable[Question]
    if task.kind == ARITHMETIC:
        if isinstance(limit, float):
            raise InputError(
                f"arithmetic generates any number of questions: give one, not the share {limit}."
            )
        limit = DEFAULT_LIMIT if limit is None else limit
        every = arithmetic(level, limit + beside, seed or 0)
    elif task.of_library:
        every = load_task(task.name, hub, rule).questions(num_fewshot)
    else:
        every = select(task, source, values, unused)
    if isinstance(limit, float):
        every = list(every)
        limit = math.ceil(limit * len(every))
    end = None if limit is None else max(0, limit) + beside
    questions = list(itertools.islice(every, end))
    if not questions:
        chosen = "".join(f", {name} {value}" for name, value in values.items())
        raise InputError(f"{task.name} yields no questions (limit {limit}{chosen}).")
    if unused and not task.hub:
        warn(f"{task.name}: not used are the fields {', '.join(map(shown, unused))}.")
    same = [q.id for q in questions if not q.open and q.options.index(q.gold) != q.answer]
    if same:
        warn(
            f"{task.name}: the gold answer of {count(len(same), 'question')} has the text of an "
            f"earlier option ({shorten(same)}), which scorers by likelihood choose in its place."
        )
    return questions


def find_task(source: Source) -> Task:
    """Return the task of a name, of a file of questions, or of rows in memory.

    Raises InputError for an unknown name, with the most similar.
    """
    name, subject = canonical(source) if isinstance(source, str) else ("the questions", None)
    if name in TASKS:
        return TASKS[name]._replace(subject=subject)
    if not isinstance(source, str):
        return Task(name, kind_of(source))
    from etils import epath

    if not name.startswith(LIBRARY) and epath.Path(name).is_file():
        return Task(name, kind_of(name))
    name = library_name(name)
    return Task(name, HARNESS_OPEN if is_open(name) else HARNESS)


def check_task(name: str) -> None:
    """Raise InputError for an unknown task; files in storage are not looked up."""
    if "://" not in name:
        find_task(name)


def kind_of(source: Source) -> str:
    """Determine the kind of a file, or of rows in memory, from the fields of the first row."""
    for where, _, row in read_rows(source):
        if kind := kind_of_row(row):
            return kind
        raise InputError(f"{where}: no kind of row has the fields {sorted(row)}: give {SCHEMA}.")
    name = f"{source} yields" if isinstance(source, str) else "the rows yield"
    raise InputError(f"{name} no questions: nothing is there.")


def check_options(task: Task, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return options with the subject of the task's name; InputError for one without effect."""
    for name, value in values.items():
        if name not in task.options:
            others = [other for other, entry in TASKS.items() if name in entry.options]
            hint = f" (tasks that have one: {', '.join(others)})" if others else ""
            raise InputError(
                f"{task.name} has no {name}, but {name} is {value!r}: leave it out{hint}."
            )
    return dict(values) if task.subject is None else {**values, "subject": task.subject}


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


@functools.cache
def warn(message: str) -> None:
    """Log a warning once."""
    log.warning(message)


def select(
    task: Task, source: Source, values: Mapping[str, Any], unused: dict[str, None]
) -> Iterator[Question]:
    """Yield the questions of the Hub or of rows that have the wanted metadata."""
    place = {name: values.get(name) for name in ("split", "hub", "subject")}
    rows = hub_rows(task, **place) if task.hub else read_rows(source)
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

    Collects the names of ignored fields in `unused`. Raises InputError that names the row.
    """
    seen: dict[str, tuple[str, Question]] = {}
    for where, default_id, row in rows:
        with reading(where):
            question, ignored = read_row(kind, row, default_id)
            if question.id in seen:
                earlier, other = seen[question.id]
                same = (question.text, question.gold) == (other.text, other.gold)
                if same and kind == "dart":
                    continue
                if question == other:
                    raise InputError(f"the row repeats the question of {earlier}: remove it.")
                raise InputError(f"the id {question.id!r} is already used in {earlier}.")
        if unused is not None:
            unused |= dict.fromkeys(ignored)
        seen[question.id] = where, question
        yield question


def hold_out(
    questions: Sequence[Question], held_out: int, seed: int = 0
) -> tuple[list[Question], list[Question]]:
    """Divide questions into those for training and `held_out` others, each part in order.

    A hash of its text and the seed decides where a question belongs. Raises InputError where none
    would be left for training, and for a text in both parts.
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
