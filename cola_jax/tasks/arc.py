"""ARC-Easy and ARC-Challenge from the Hub, and any JSONL file of the same fields."""

import json
from collections.abc import Iterable, Iterator
from typing import Any, cast

from etils import epath

from cola_jax.tasks.question import Question, read_question

HUB = "allenai/ai2_arc"
CONFIGS = {"arc-easy": "ARC-Easy", "arc-challenge": "ARC-Challenge"}


def load_questions(
    task: str, *, split: str = "test", limit: int | None = None, hub: str = HUB
) -> list[Question]:
    """Loads the questions of a task.

    Args:
      task: `arc-easy`, `arc-challenge`, or a JSONL file with ARC's fields.
      split: of a Hub task: train, validation or test.
      limit: keep the first so many; all when None.
      hub: where the ARC data sets are: a Hub id, or a local directory of the same layout.

    Raises:
      ValueError: for an unknown task, a split that is not there, a row that breaks the schema
        (file and line named), an id that occurs twice, or no questions at all.
    """
    if task in CONFIGS:
        source = f"{hub} {CONFIGS[task]} {split}"
        rows = enumerate(load_hub(hub, CONFIGS[task], split), start=1)
    elif epath.Path(task).is_file():
        source, rows = task, read_lines(task)
    else:
        raise ValueError(
            f"task {task!r} is neither one of {', '.join(CONFIGS)} nor an existing JSONL file."
        )
    questions = list(read_rows(source, rows, limit))
    if not questions:
        raise ValueError(f"{source} yields no questions (limit {limit}): there is nothing to do.")
    return questions


def read_rows(
    source: str, rows: Iterable[tuple[int, Any]], limit: int | None
) -> Iterator[Question]:
    """Reads numbered rows up to the limit; errors name the source and the row."""
    seen: dict[str, int] = {}
    for number, row in rows:
        if limit is not None and len(seen) >= limit:
            return
        try:
            question = read_question(row)
            if question.id in seen:
                raise ValueError(f"the id {question.id!r} is that of line {seen[question.id]} too.")
        except ValueError as error:
            raise ValueError(f"{source}:{number}: {error}") from None
        seen[question.id] = number
        yield question


def read_lines(file: str) -> Iterator[tuple[int, dict]]:
    """Yields the rows of a JSONL file with their line numbers; blank lines are passed over."""
    with epath.Path(file).open("r", encoding="utf-8") as lines:
        try:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield number, parse_line(file, number, line)
        except UnicodeDecodeError as error:
            raise ValueError(f"{file} is not UTF-8 text ({error}).") from None


def parse_line(file: str, number: int, line: str) -> dict:
    """Parses one line; ValueError where it is not a JSON object."""
    try:
        row = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{file}:{number}: not JSON ({error}).") from None
    if not isinstance(row, dict):
        raise ValueError(
            f"{file}:{number}: a row must be a JSON object, it is {line.strip()[:60]}."
        )
    return row


def load_hub(hub: str, config: str, split: str) -> Iterable[dict]:
    """Loads one split with the `datasets` library; ValueError where it can't be had."""
    import datasets

    try:
        return cast(Iterable[dict], datasets.load_dataset(hub, config, split=split))
    except Exception as error:  # the Hub's client and its HTTP library raise many types
        raise ValueError(
            f"{hub} {config} (split {split}) could not be loaded: {error} Without a network, "
            "give a JSONL file of the same fields as the task."
        ) from error
