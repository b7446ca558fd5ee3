"""`load_questions`: the questions of a task on the Hub, of a JSONL file, or of a generator."""

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping

from cola_jax.errors import InputError
from cola_jax.question import Question
from cola_jax.tasks import harness, harness_names
from cola_jax.tasks.arithmetic import DEFAULT_LIMIT, arithmetic
from cola_jax.tasks.harness_grader import load_grader
from cola_jax.tasks.hub import TASKS, Row, interleave, pool_rows, subject_configs, subset_rows
from cola_jax.tasks.kinds import HARNESS, HARNESS_OPEN, KINDS, kind_of
from cola_jax.tasks.names import ARITHMETIC, canonical
from cola_jax.tasks.readers import read_lines


def load_questions(
    task: str,
    *,
    split: str | None = None,
    limit: int | float | None = None,
    beside: int = 0,
    level: int | None = None,
    fail_rate_level: int | None = None,
    subject: str | None = None,
    hub: str | None = None,
    seed: int = 0,
    num_fewshot: int | None = None,
    rule: str | None = None,
) -> list[Question]:
    """Loads the questions of a task.

    Args:
      task: one of `TASKS`, `arithmetic`, a JSONL file, whose first row determines its fields, or
        a task of lm-evaluation-harness.
      split: split of a Hub task; its usual evaluation split when None.
      limit: keep the first so many questions, or a share of them between 0 and 1, rounded up;
        when None all, or 100 of arithmetic.
      beside: keep so many more.
      level: 1 to 5, as assigned by MATH (also for DART-Math) or of arithmetic; all when None.
      fail_rate_level: 1 to 5, for DART-Math: five levels of equal size, by a model's fail rate.
      subject: of MMLU, MATH and DART-Math, as named in their rows.
      hub: Hub id of the data set, or a local directory of the same layout. For DART-Math this is
        the pool; the data set of the same name with the suffix `-query-info` is loaded as well.
      seed: seed of arithmetic.
      num_fewshot: shots in the prompts of a task of lm-evaluation-harness, which has them ready.
      rule: filter of a task of lm-evaluation-harness that decodes its answers.

    Returns:
      The questions, in order.

    Raises:
      ValueError: for an unknown task, a missing split, a row that does not match the schema or
        has no answer (naming file and line), a duplicate id, a level that does not exist, or if
        there are no questions.
    """
    task, of_name = canonical(task)
    subject = of_name or subject
    check_levels(task, level=level, fail_rate_level=fail_rate_level)
    check_source(task, split=split, hub=hub, seed=seed, subject=subject)
    check_limit(task, limit)
    kind = kind_of(task)
    if kind == ARITHMETIC:
        count = DEFAULT_LIMIT if limit is None else int(limit)
        questions = arithmetic(level, count + beside, seed)
        source = ARITHMETIC
    elif kind in (HARNESS, HARNESS_OPEN):
        source = harness_names.find(task) or task
        if kind == HARNESS:
            every = harness.load_task(source, hub).choices(num_fewshot)
        else:
            every = load_grader(source, hub, rule).questions(num_fewshot)
        questions = first(every, limit, beside)
    else:
        source, rows = open_task(task, split, hub, subject)
        wanted = {"math_level": level, "fail_rate_level": fail_rate_level, "subject": subject}
        wanted = {name: str(value) for name, value in wanted.items() if value is not None}
        questions = first(select(kind, source, rows, wanted), limit, beside)
    if not questions:
        raise InputError(f"{source} yields no questions (limit {limit}): there is nothing to do.")
    return questions


def first(questions: Iterable[Question], limit: int | float | None, beside: int) -> list[Question]:
    """Takes the first so many questions, or that share of them, and so many beside."""
    if isinstance(limit, float):
        every = list(questions)
        return every[: math.ceil(limit * len(every)) + beside]
    return list(itertools.islice(questions, None if limit is None else max(0, limit) + beside))


def open_task(
    task: str, split: str | None, hub: str | None, subject: str | None = None
) -> tuple[str, Iterator[Row]]:
    """Returns the name of the source of a task's rows, and the rows.

    Those of one subject of MMLU come from its own subset, where the data set has one.
    """
    if task not in TASKS:
        return task, ((f"{task}:{number}", None, row) for number, row in read_lines(task))
    entry = TASKS[task]
    split, hub = split or entry.split, hub or entry.hub
    configs = entry.configs
    if task == "mmlu" and subject is not None:
        configs = subject_configs(hub, subject, entry.configs)
    source = " ".join([hub, *(config for config in configs[:1] if config), split])
    if entry.pool:
        return source, pool_rows(hub, split)
    subsets = [subset_rows(hub, config, split) for config in configs]
    return source, interleave(subsets, entry.interleave)


def select(
    kind: str,
    source: str,
    rows: Iterable[Row],
    wanted: Mapping[str, str],
) -> Iterator[Question]:
    """Reads rows, each question once, and yields those with the wanted metadata."""
    present: dict[str, set[str]] = {name: set() for name in wanted}
    any_read = any_selected = False
    for question in KINDS[kind].rank(read_rows(kind, rows)):
        any_read = True
        for name in wanted:
            if value := question.get(name):
                present[name].add(value)
        if all(question.get(name) == value for name, value in wanted.items()):
            any_selected = True
            yield question
    if any_read and not any_selected:
        asked = ", ".join(f"{name} {value}" for name, value in wanted.items())
        have = "; ".join(f"{name}: {', '.join(sorted(x)) or 'none'}" for name, x in present.items())
        raise InputError(f"{source} has no question with {asked}; it has {have}.")


def read_rows(kind: str, rows: Iterable[Row]) -> Iterator[Question]:
    """Reads rows, each question once."""
    seen: dict[str, tuple[str, Question]] = {}
    for where, default_id, row in rows:
        try:
            question = KINDS[kind].read(row, default_id)
            if question.id in seen and not KINDS[kind].repeats:
                earlier, first = seen[question.id]
                line = earlier.rpartition(":")[2]
                if question == first:
                    raise InputError(f"the row repeats the question of line {line}: remove it.")
                raise InputError(f"the id {question.id!r} is already used in line {line}.")
        except ValueError as error:
            raise InputError(f"{where}: {error}") from None
        if question.id not in seen:
            seen[question.id] = where, question
            yield question


def check_limit(task: str, limit: int | float | None) -> None:
    """Raises ValueError for a limit that is neither a number of questions nor a share of them."""
    if isinstance(limit, float) and not 0 < limit < 1:
        raise InputError(f"a limit of {limit} is neither a whole number nor a share below 1.")
    if isinstance(limit, float) and task == ARITHMETIC:
        raise InputError(f"arithmetic has no number of questions of which {limit} is a share.")


def check_levels(task: str, **levels: int | None) -> None:
    """Raises ValueError for a level out of range, or one that the task does not have."""
    for name, level in levels.items():
        if level is None:
            continue
        if isinstance(level, bool) or level not in range(1, 6):
            raise InputError(f"{name} must be one of 1, 2, 3, 4, 5, got {level}.")
        if task == ARITHMETIC:
            if name == "fail_rate_level":
                raise InputError("arithmetic has no fail-rate levels: use its level, 1 to 5.")
            continue
        metadata_name = "math_level" if name == "level" else name
        kind = KINDS.get(kind_of(task))
        if kind is None or metadata_name not in kind.levels:
            tasks = "math, math-500, dart-math and arithmetic" if name == "level" else "dart-math"
            raise InputError(f"{task} has no {name}: leave it out (tasks that have one: {tasks}).")


def check_source(
    task: str, *, split: str | None, hub: str | None, seed: int, subject: str | None
) -> None:
    """Raises ValueError for an argument that the task would ignore."""
    theirs = task not in (*TASKS, ARITHMETIC) and kind_of(task) in (HARNESS, HARNESS_OPEN)
    ignored = {} if task in TASKS else {"split": split} if theirs else {"split": split, "hub": hub}
    for name, value in ignored.items():
        if value is not None:
            raise InputError(
                f"{task} has no {name}, but {name} is {value!r}: only {', '.join(TASKS)} have one."
            )
    if task != ARITHMETIC and seed:
        raise InputError(f"the seed {seed} applies to the arithmetic task only, not to {task}.")
    if task == ARITHMETIC and subject is not None:
        raise InputError(f"arithmetic has no subject {subject!r}: use its level, 1 to 5.")
    if theirs and subject is not None:
        raise InputError(f"{task} has no subject {subject!r}: leave it out.")
