"""`load_questions`: the questions of a named task, or of a JSONL file."""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from etils import epath

from cola_jax.tasks.arc import read_arc
from cola_jax.tasks.arithmetic import arithmetic
from cola_jax.tasks.dart import read_dart
from cola_jax.tasks.gsm8k import read_gsm8k
from cola_jax.tasks.mathematics import SUBJECTS, read_math
from cola_jax.tasks.mmlu import read_mmlu
from cola_jax.tasks.plain import read_plain
from cola_jax.tasks.question import Question
from cola_jax.tasks.source import load_hub, read_lines

Reader = Callable[[Mapping[str, Any], str | None], Question]


@dataclasses.dataclass(frozen=True)
class Kind:
    """Rows of the same fields: how they are read, and which levels they may have."""

    read: Reader
    levels: tuple[str, ...] = ()  # names of facts
    repeats: bool = False  # rows of one id are the same question


@dataclasses.dataclass(frozen=True)
class Task:
    """A data set of the Hub."""

    kind: str
    hub: str
    configs: tuple[str | None, ...] = (None,)
    split: str = "test"
    shots: str = "train"  # the split that shots come from


KINDS = {
    "arc": Kind(read_arc),
    "mmlu": Kind(read_mmlu),
    "gsm8k": Kind(read_gsm8k),
    "math": Kind(read_math, levels=("math_level",)),
    "dart": Kind(read_dart, levels=("math_level", "fail_rate_level"), repeats=True),
    "prompt": Kind(read_plain),
    "question": Kind(read_plain),
}
TASKS = {
    "arc-easy": Task("arc", "allenai/ai2_arc", ("ARC-Easy",)),
    "arc-challenge": Task("arc", "allenai/ai2_arc", ("ARC-Challenge",)),
    "mmlu": Task("mmlu", "cais/mmlu", ("all",), shots="dev"),
    "gsm8k": Task("gsm8k", "openai/gsm8k", ("main",)),
    "math": Task("math", "EleutherAI/hendrycks_math", SUBJECTS),
    "math-500": Task("math", "HuggingFaceH4/MATH-500"),
    "dart-math": Task("dart", "hkust-nlp/dart-math-pool-math-query-info", split="train"),
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
    hub: str | None = None,
    seed: int = 0,
) -> list[Question]:
    """Loads the questions of a task.

    Args:
      task: one of `TASKS`, `arithmetic`, or a JSONL file whose first row tells its fields.
      split: of a Hub task; the one that it is tested on when None.
      limit: keep the first so many; all when None, and 100 of arithmetic.
      level: 1 to 5, of MATH and DART-Math as MATH has it, or of arithmetic; all when None.
      fail_rate_level: 1 to 5, of DART-Math: bins of 0.2 of the share of wrong answers.
      hub: where the task's data set is: a Hub id, or a local directory of the same layout.
      seed: of arithmetic.

    Raises:
      ValueError: for an unknown task, a split that is not there, a row that breaks the schema or
        has no answer (file and line named), an id that occurs twice, a level that does not exist,
        or no questions at all.
    """
    check_levels(task, level=level, fail_rate_level=fail_rate_level)
    if task == ARITHMETIC:
        if fail_rate_level is not None:
            raise ValueError("the arithmetic task has no fail-rate levels: use its level, 1 to 5.")
        questions = arithmetic(level, 100 if limit is None else limit, seed)
        source = ARITHMETIC
    else:
        kind, source, rows = open_task(task, split, hub)
        wanted = {"math_level": level, "fail_rate_level": fail_rate_level}
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


def open_task(
    task: str, split: str | None, hub: str | None
) -> tuple[str, str, Iterator[tuple[str, str | None, Mapping[str, Any]]]]:
    """Returns the kind, the source by name, and rows as (where, default id, row)."""
    kind = kind_of(task)
    if task in TASKS:
        known = TASKS[task]
        split, hub = split or known.split, hub or known.hub
        named = " ".join([hub, *(c for c in known.configs[:1] if c), split])
        return kind, named, hub_rows(hub, known.configs, split)
    return kind, task, ((f"{task}:{number}", None, row) for number, row in read_lines(task))


def hub_rows(
    hub: str, configs: Iterable[str | None], split: str
) -> Iterator[tuple[str, str | None, Mapping[str, Any]]]:
    """Yields the rows of all configs in turn; a row without an id is named by its place.

    In turn, since the first few must not be of MATH's first subject alone.
    """
    streams = [config_rows(hub, config, split) for config in configs]
    for rows in itertools.zip_longest(*streams):
        yield from filter(None, rows)


def config_rows(
    hub: str, config: str | None, split: str
) -> Iterator[tuple[str, str | None, Mapping[str, Any]]]:
    """Yields the rows of one config."""
    place = f"{config}/{split}" if config else split
    where = " ".join(filter(None, (hub, config, split)))
    for number, row in enumerate(load_hub(hub, config, split), start=1):
        yield f"{where}:{number}", f"{place}/{number}", row


def select(
    kind: str,
    source: str,
    rows: Iterable[tuple[str, str | None, Mapping[str, Any]]],
    wanted: Mapping[str, str],
) -> Iterator[Question]:
    """Reads rows, each question once, and yields those of the wanted levels."""
    seen: dict[str, str] = {}
    levels: dict[str, set[str]] = {name: set() for name in wanted}
    some = False
    for where, default, row in rows:
        try:
            question = KINDS[kind].read(row, default)
            if question.id in seen and not KINDS[kind].repeats:
                line = seen[question.id].rpartition(":")[2]
                raise ValueError(f"the id {question.id!r} is that of line {line} too.")
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        if question.id in seen:
            continue
        seen[question.id] = where
        for name in wanted:
            if level := question.fact(name):
                levels[name].add(level)
        if all(question.fact(name) == level for name, level in wanted.items()):
            some = True
            yield question
    if seen and not some:
        found = "; ".join(f"{name}: {', '.join(sorted(x)) or 'none'}" for name, x in levels.items())
        asked = ", ".join(f"{name} {level}" for name, level in wanted.items())
        raise ValueError(f"{source} has no question of {asked}; what it has is {found}.")


def check_levels(task: str, **levels: int | None) -> None:
    """Raises ValueError for a level out of range, and for one that the task does not have."""
    for name, level in levels.items():
        if level is None:
            continue
        if isinstance(level, bool) or level not in range(1, 6):
            raise ValueError(f"{name} must be one of 1, 2, 3, 4, 5, it is {level}.")
        if task == ARITHMETIC:
            continue
        fact = "math_level" if name == "level" else name
        kind = kind_of(task)
        if fact not in KINDS[kind].levels:
            having = "math, math-500, dart-math and arithmetic" if name == "level" else "dart-math"
            raise ValueError(f"{task} has no {name}: {having} have; leave it out.")
