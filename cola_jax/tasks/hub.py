"""Data sets on the Hub: where each task's questions are, and their rows in order."""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from cola_jax.errors import InputError, first_line
from cola_jax.tasks.readers import MATH_SUBJECTS, Fields

Row = tuple[str, str | None, Fields]  # location for messages, default id, fields
STATISTICS = "-query-info"  # suffix of the data set with one row per question of a pool
# the columns of a pool that describe a question rather than one response to it
QUERY = ("query_id", "query", "gt_ans", "domain", "query_metadata")


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


TASKS = {
    "arc-easy": Task("arc", "allenai/ai2_arc", ("ARC-Easy",)),
    "arc-challenge": Task("arc", "allenai/ai2_arc", ("ARC-Challenge",)),
    "mmlu": Task("mmlu", "cais/mmlu", ("all",), shots="dev", interleave="subject"),
    "gsm8k": Task("gsm8k", "openai/gsm8k", ("main",)),
    "math": Task("math", "EleutherAI/hendrycks_math", MATH_SUBJECTS),
    "math-500": Task("math", "HuggingFaceH4/MATH-500"),
    "dart-math": Task("dart", "hkust-nlp/dart-math-pool-math", split="train", pool=True),
}


def load_hub(hub: str, config: str | None, split: str) -> Any:
    """Loads one split with the `datasets` library; raises ValueError if that fails."""
    import datasets

    try:
        return datasets.load_dataset(hub, config, split=split)
    except Exception as error:  # the Hub's client and its HTTP library raise many types
        name = hub if config is None else f"{hub} {config}"
        raise InputError(
            f"{name} (split {split}) could not be loaded: {first_line(error)}. Without a network, "
            "give a JSONL file of the same fields as the task."
        ) from error


def subject_configs(hub: str, subject: str, whole: Sequence[str | None]) -> Sequence[str | None]:
    """Returns the subset of a subject where a data set has one, or else the `whole` of it."""
    import datasets

    try:
        names = datasets.get_dataset_config_names(hub)
    except Exception:  # loading it says what is wrong
        return whole
    return (subject,) if subject in names else whole


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
