"""`load_questions`: the questions of a task on the Hub, of a JSONL file, or of a generator."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from cola_jax.question import Question
from cola_jax.tasks import harness, readers
from cola_jax.tasks.arithmetic import arithmetic
from cola_jax.tasks.names import ARITHMETIC, canonical, nearest
from cola_jax.tasks.readers import Fields, read_lines
from cola_jax.tasks.task import DEFAULT_LIMIT, HARNESS

Row = tuple[str, str | None, Fields]  # location for messages, default id, fields
STATISTICS = "-query-info"  # suffix of the data set with one row per question of a pool
# the columns of a pool that describe a question rather than one response to it
QUERY = ("query_id", "query", "gt_ans", "domain", "query_metadata")


@dataclasses.dataclass(frozen=True)
class Kind:
    """Rows with the same fields: their reader, and the levels that they may have."""

    read: Callable[[Fields, str | None], Question]
    levels: tuple[str, ...] = ()  # metadata names
    repeats: bool = False  # whether rows with one id are the same question
    # adds metadata that depends on all questions together
    rank: Callable[[Iterable[Question]], Iterable[Question]] = iter


@dataclasses.dataclass(frozen=True)
class Task:
    """A data set on the Hub."""

    kind: str
    hub: str
    configs: tuple[str | None, ...] = (None,)
    split: str = "test"
    pool: bool = False  # of responses, with the statistics of its questions in a second data set
    interleave: str | None = None  # the field to interleave by, if the split is sorted by it
    shots: str = "train"  # the split of the shots


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
TASKS = {
    "arc-easy": Task("arc", "allenai/ai2_arc", ("ARC-Easy",)),
    "arc-challenge": Task("arc", "allenai/ai2_arc", ("ARC-Challenge",)),
    "mmlu": Task("mmlu", "cais/mmlu", ("all",), shots="dev", interleave="subject"),
    "gsm8k": Task("gsm8k", "openai/gsm8k", ("main",)),
    "math": Task("math", "EleutherAI/hendrycks_math", readers.MATH_SUBJECTS),
    "math-500": Task("math", "HuggingFaceH4/MATH-500"),
    "dart-math": Task("dart", "hkust-nlp/dart-math-pool-math", split="train", pool=True),
}
FIELDS = (
    "ARC's id, question, choices, answerKey; MMLU's question, choices, answer; GSM8K's question, "
    "answer; MATH's problem, solution; DART's query_id, query, gt_ans; or prompt (or question) "
    "and answer"
)


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
) -> list[Question]:
    """Loads the questions of a task.

    Args:
      task: one of `TASKS`, `arithmetic`, a JSONL file, whose first row determines its fields, or
        a multiple-choice task of lm-evaluation-harness.
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
    if task == ARITHMETIC:
        count = DEFAULT_LIMIT if limit is None else int(limit)
        questions = arithmetic(level, count + beside, seed)
        source = ARITHMETIC
    elif kind_of(task) == HARNESS:
        found, source = harness.harness_questions(task, num_fewshot), task
        questions = first(found, limit, beside)
    else:
        kind, source, rows = open_task(task, split, hub)
        wanted = {"math_level": level, "fail_rate_level": fail_rate_level, "subject": subject}
        wanted = {name: str(value) for name, value in wanted.items() if value is not None}
        questions = first(select(kind, source, rows, wanted), limit, beside)
    if not questions:
        raise ValueError(f"{source} yields no questions (limit {limit}): there is nothing to do.")
    return questions


def first(questions: Iterable[Question], limit: int | float | None, beside: int) -> list[Question]:
    """Takes the first so many questions, or that share of them, and so many beside."""
    if isinstance(limit, float):
        every = list(questions)
        return every[: math.ceil(limit * len(every)) + beside]
    return list(itertools.islice(questions, None if limit is None else max(0, limit) + beside))


def kind_of(task: str) -> str:
    """Returns the kind of a task's rows: a key of KINDS, arithmetic or harness."""
    if task == ARITHMETIC:
        return ARITHMETIC
    if task in TASKS:
        return TASKS[task].kind
    if not epath.Path(task).is_file():
        known = harness.names()
        if task in known:
            return HARNESS
        more = "a task of lm-evaluation-harness"
        if not known:
            more += " (for which: pip install 'cola-jax[lm-eval]')"
        raise ValueError(
            f"task {task!r} is neither one of {', '.join(TASKS)}, {ARITHMETIC}, nor an existing "
            f"JSONL file, nor {more}{nearest(task, known)}."
        )
    for number, row in read_lines(task):
        return kind_of_row(row, f"{task}:{number}")
    raise ValueError(f"{task} yields no questions: it is empty.")


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
    raise ValueError(f"{where}: no kind of row has the fields {sorted(row)}: give {FIELDS}.")


def open_task(task: str, split: str | None, hub: str | None) -> tuple[str, str, Iterator[Row]]:
    """Returns the kind, the name of the source, and the rows."""
    kind = kind_of(task)
    if task not in TASKS:
        return kind, task, ((f"{task}:{number}", None, row) for number, row in read_lines(task))
    entry = TASKS[task]
    split, hub = split or entry.split, hub or entry.hub
    source = " ".join([hub, *(config for config in entry.configs[:1] if config), split])
    if entry.pool:
        return kind, source, pool_rows(hub, split)
    subsets = [subset_rows(hub, config, split) for config in entry.configs]
    return kind, source, interleave(subsets, entry.interleave)


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
        raise ValueError(f"{source} has no question with {asked}; it has {have}.")


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
                    raise ValueError(f"the row repeats the question of line {line}: remove it.")
                raise ValueError(f"the id {question.id!r} is already used in line {line}.")
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        if question.id not in seen:
            seen[question.id] = where, question
            yield question


def check_limit(task: str, limit: int | float | None) -> None:
    """Raises ValueError for a limit that is neither a number of questions nor a share of them."""
    if isinstance(limit, float) and not 0 < limit < 1:
        raise ValueError(f"a limit of {limit} is neither a whole number nor a share below 1.")
    if isinstance(limit, float) and task == ARITHMETIC:
        raise ValueError(f"arithmetic has no number of questions of which {limit} is a share.")


def check_levels(task: str, **levels: int | None) -> None:
    """Raises ValueError for a level out of range, or one that the task does not have."""
    for name, level in levels.items():
        if level is None:
            continue
        if isinstance(level, bool) or level not in range(1, 6):
            raise ValueError(f"{name} must be one of 1, 2, 3, 4, 5, got {level}.")
        if task == ARITHMETIC:
            if name == "fail_rate_level":
                raise ValueError("arithmetic has no fail-rate levels: use its level, 1 to 5.")
            continue
        metadata_name = "math_level" if name == "level" else name
        kind = KINDS.get(kind_of(task))
        if kind is None or metadata_name not in kind.levels:
            tasks = "math, math-500, dart-math and arithmetic" if name == "level" else "dart-math"
            raise ValueError(f"{task} has no {name}: leave it out (tasks that have one: {tasks}).")


def check_source(
    task: str, *, split: str | None, hub: str | None, seed: int, subject: str | None
) -> None:
    """Raises ValueError for an argument that the task would ignore."""
    if task not in TASKS:
        for name, value in (("split", split), ("hub", hub)):
            if value is not None:
                raise ValueError(
                    f"{task} has no {name}, but {name} is {value!r}: only {', '.join(TASKS)} have "
                    "one."
                )
    if task != ARITHMETIC and seed:
        raise ValueError(f"the seed {seed} applies to the arithmetic task only, not to {task}.")
    if task == ARITHMETIC and subject is not None:
        raise ValueError(f"arithmetic has no subject {subject!r}: use its level, 1 to 5.")


def load_hub(hub: str, config: str | None, split: str) -> Any:
    """Loads one split with the `datasets` library; raises ValueError if that fails."""
    import datasets

    try:
        return datasets.load_dataset(hub, config, split=split)
    except Exception as error:  # the Hub's client and its HTTP library raise many types
        name = hub if config is None else f"{hub} {config}"
        raise ValueError(
            f"{name} (split {split}) could not be loaded: {error} Without a network, "
            "give a JSONL file of the same fields as the task."
        ) from error


def subset_rows(hub: str, config: str | None, split: str) -> Iterator[Row]:
    """Yields the rows of one subset, each with its place in the split as its default id."""
    place = f"{config}/{split}" if config else split
    where = " ".join(filter(None, (hub, config, split)))
    for number, row in enumerate(load_hub(hub, config, split), start=1):
        yield f"{where}:{number}", f"{place}/{number}", row


def interleave(subsets: Sequence[Iterable[Row]], field: str | None) -> Iterator[Row]:
    """Yields one row of each subset in turn, or one for each value of the field.

    Otherwise a small limit would select questions of the first subject of MATH or MMLU only.
    """
    queues = list(subsets)
    if field is not None:
        by_value: dict[Any, list[Row]] = {}
        for row in itertools.chain(*subsets):
            by_value.setdefault(str(row[2].get(field)), []).append(row)
        queues = list(by_value.values())
    for rows in itertools.zip_longest(*queues):
        yield from filter(None, rows)


def pool_rows(hub: str, split: str) -> Iterator[Row]:
    """Yields the questions of a pool of responses, in order, with their statistics.

    The pool repeats the text and gold answer of a question with every response; a second data set
    has the number of responses and how many of them are correct.
    """
    statistics = {row["query_id"]: row for row in load_hub(f"{hub}{STATISTICS}", None, split)}
    pool = load_hub(hub, None, split)
    pool = pool.select_columns([name for name in QUERY if name in pool.column_names])
    first: dict[str, int] = {}  # read by column: a million rows one by one take minutes
    index = 0
    for batch in pool.select_columns("query_id").iter(batch_size=100_000):
        for id in batch["query_id"]:
            first.setdefault(id, index)
            index += 1
    for index, row in zip(first.values(), pool.select(first.values()), strict=True):
        yield f"{hub} {split}:{index + 1}", None, statistics.get(row["query_id"], {}) | row
