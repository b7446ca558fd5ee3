"""`load_questions`: the questions of a named task, or of a JSONL file."""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from etils import epath

from cola_jax.question import Question
from cola_jax.tasks.arc import read_arc
from cola_jax.tasks.arithmetic import arithmetic
from cola_jax.tasks.dart import rank_fail_rates, read_dart
from cola_jax.tasks.gsm8k import read_gsm8k
from cola_jax.tasks.hub import Row, in_turn, pool_rows, subset_rows
from cola_jax.tasks.mathematics import SUBJECTS, read_math
from cola_jax.tasks.mmlu import read_mmlu
from cola_jax.tasks.plain import read_plain
from cola_jax.tasks.source import read_lines

Reader = Callable[[Mapping[str, Any], str | None], Question]


@dataclasses.dataclass(frozen=True)
class Kind:
    """Rows of the same fields: how they are read, and which levels they may have."""

    read: Reader
    levels: tuple[str, ...] = ()  # names of facts
    repeats: bool = False  # rows of one id are the same question
    # makes facts of what only all questions together tell
    compare: Callable[[Iterable[Question]], Iterable[Question]] = iter


@dataclasses.dataclass(frozen=True)
class Task:
    """A data set of the Hub."""

    kind: str
    hub: str
    configs: tuple[str | None, ...] = (None,)
    split: str = "test"
    pool: bool = False  # of responses, with a table of their questions beside it
    turns: str | None = None  # the field whose values take turns, where a split is sorted by it
    shots: str = "train"  # the split that shots come from


KINDS = {
    "arc": Kind(read_arc),
    "mmlu": Kind(read_mmlu),
    "gsm8k": Kind(read_gsm8k),
    "math": Kind(read_math, levels=("math_level",)),
    "dart": Kind(
        read_dart, ("math_level", "fail_rate_level"), repeats=True, compare=rank_fail_rates
    ),
    "prompt": Kind(read_plain),
    "question": Kind(read_plain),
}
TASKS = {
    "arc-easy": Task("arc", "allenai/ai2_arc", ("ARC-Easy",)),
    "arc-challenge": Task("arc", "allenai/ai2_arc", ("ARC-Challenge",)),
    "mmlu": Task("mmlu", "cais/mmlu", ("all",), shots="dev", turns="subject"),
    "gsm8k": Task("gsm8k", "openai/gsm8k", ("main",)),
    "math": Task("math", "EleutherAI/hendrycks_math", SUBJECTS),
    "math-500": Task("math", "HuggingFaceH4/MATH-500"),
    "dart-math": Task("dart", "hkust-nlp/dart-math-pool-math", split="train", pool=True),
}
ARITHMETIC = "arithmetic"
FIELDS = (
    "ARC's id, question, choices, answerKey; MMLU's question, choices, answer; GSM8K's question, "
    "answer; MATH's problem, solution; DART's query_id, query, gt_ans; or prompt (or question) "
    "and answer"
)


def load_questions(
    task: str,
    *,
    split: str | None = None,
    limit: int | None = None,
    level: int | None = None,
    fail_rate_level: int | None = None,
    subject: str | None = None,
    hub: str | None = None,
    seed: int = 0,
) -> list[Question]:
    """Loads the questions of a task.

    Args:
      task: one of `TASKS`, `arithmetic`, or a JSONL file whose first row tells its fields.
      split: of a Hub task; the one that it is tested on when None.
      limit: keep the first so many; all when None, and 100 of arithmetic.
      level: 1 to 5, of MATH and DART-Math as MATH has it, or of arithmetic; all when None.
      fail_rate_level: 1 to 5, of DART-Math: five levels of one size, by how often a model failed.
      subject: of MMLU, MATH and DART-Math, as their rows name it.
      hub: where the task's data set is: a Hub id, or a local directory of the same layout. That of
        DART-Math is its pool, beside which there is a table of the same name and `-query-info`.
      seed: of arithmetic.

    Raises:
      ValueError: for an unknown task, a split that is not there, a row that breaks the schema or
        has no answer (file and line named), an id that occurs twice, a level that does not exist,
        or no questions at all.
    """
    check_levels(task, level=level, fail_rate_level=fail_rate_level)
    check_source(task, split=split, hub=hub, seed=seed, subject=subject)
    if task == ARITHMETIC:
        questions = arithmetic(level, 100 if limit is None else limit, seed)
        source = ARITHMETIC
    else:
        kind, source, rows = open_task(task, split, hub)
        wanted = {"math_level": level, "fail_rate_level": fail_rate_level, "subject": subject}
        wanted = {name: str(value) for name, value in wanted.items() if value is not None}
        most = None if limit is None else max(0, limit)
        questions = list(itertools.islice(select(kind, source, rows, wanted), most))
    if not questions:
        raise ValueError(f"{source} yields no questions (limit {limit}): there is nothing to do.")
    return questions


def kind_of(task: str) -> str:
    """Names the kind of a task's rows, which decides its prompts: a key of KINDS, or arithmetic."""
    if task == ARITHMETIC:
        return ARITHMETIC
    if task in TASKS:
        return TASKS[task].kind
    if not epath.Path(task).is_file():
        raise ValueError(
            f"task {task!r} is neither one of {', '.join(TASKS)}, {ARITHMETIC} nor an existing "
            "JSONL file."
        )
    for number, row in read_lines(task):
        return kind_of_row(row, f"{task}:{number}")
    raise ValueError(f"{task} yields no questions: it is empty.")


def kind_of_row(row: Mapping[str, Any], where: str) -> str:
    """Tells the kind from the names of the fields."""
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
    raise ValueError(f"{where}: no kind of row has the fields {sorted(row)}: give {FIELDS}.")


def open_task(task: str, split: str | None, hub: str | None) -> tuple[str, str, Iterator[Row]]:
    """Returns the kind, the source by name, and rows as (where, default id, row)."""
    kind = kind_of(task)
    if task in TASKS:
        known = TASKS[task]
        split, hub = split or known.split, hub or known.hub
        named = " ".join([hub, *(c for c in known.configs[:1] if c), split])
        if known.pool:
            return kind, named, pool_rows(hub, split)
        subsets = [subset_rows(hub, config, split) for config in known.configs]
        return kind, named, in_turn(subsets, known.turns)
    return kind, task, ((f"{task}:{number}", None, row) for number, row in read_lines(task))


def select(
    kind: str,
    source: str,
    rows: Iterable[Row],
    wanted: Mapping[str, str],
) -> Iterator[Question]:
    """Reads rows, each question once, and yields those with the wanted facts."""
    found: dict[str, set[str]] = {name: set() for name in wanted}
    any_read = any_wanted = False
    for question in KINDS[kind].compare(read_rows(kind, rows)):
        any_read = True
        for name in wanted:
            if fact := question.fact(name):
                found[name].add(fact)
        if all(question.fact(name) == fact for name, fact in wanted.items()):
            any_wanted = True
            yield question
    if any_read and not any_wanted:
        has = "; ".join(f"{name}: {', '.join(sorted(x)) or 'none'}" for name, x in found.items())
        asked = ", ".join(f"{name} {fact}" for name, fact in wanted.items())
        raise ValueError(f"{source} has no question of {asked}; what it has is {has}.")


def read_rows(kind: str, rows: Iterable[Row]) -> Iterator[Question]:
    """Reads rows, each question once."""
    seen: dict[str, tuple[str, Question]] = {}
    for where, default, row in rows:
        try:
            question = KINDS[kind].read(row, default)
            if question.id in seen and not KINDS[kind].repeats:
                earlier, first = seen[question.id]
                line = earlier.rpartition(":")[2]
                if question == first:
                    raise ValueError(f"the row asks what that of line {line} asks: leave it out.")
                raise ValueError(f"the id {question.id!r} is that of line {line} too.")
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        if question.id not in seen:
            seen[question.id] = where, question
            yield question


def check_levels(task: str, **levels: int | None) -> None:
    """Raises ValueError for a level out of range, and for one that the task does not have."""
    for name, level in levels.items():
        if level is None:
            continue
        if isinstance(level, bool) or level not in range(1, 6):
            raise ValueError(f"{name} must be one of 1, 2, 3, 4, 5, it is {level}.")
        if task == ARITHMETIC:
            if name == "fail_rate_level":
                raise ValueError("arithmetic has no fail-rate levels: use its level, 1 to 5.")
            continue
        fact = "math_level" if name == "level" else name
        kind = kind_of(task)
        if fact not in KINDS[kind].levels:
            having = "math, math-500, dart-math and arithmetic" if name == "level" else "dart-math"
            raise ValueError(f"{task} has no {name}: {having} have; leave it out.")


def check_source(
    task: str, *, split: str | None, hub: str | None, seed: int, subject: str | None
) -> None:
    """Raises ValueError for what a task has no use for, so that nobody takes it for used."""
    if task not in TASKS:
        for name, value in (("split", split), ("hub", hub)):
            if value is not None:
                raise ValueError(
                    f"{task} has no {name}, it is {value!r}: that is of {', '.join(TASKS)}."
                )
    if task != ARITHMETIC and seed:
        raise ValueError(f"the seed {seed} is of the arithmetic task alone; {task} draws nothing.")
    if task == ARITHMETIC and subject is not None:
        raise ValueError(f"arithmetic has no subject {subject!r}: use its level, 1 to 5.")
