"""Rows of data sets on the Hub, or in local directories of the same layout."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from cola_jax.tasks.readers import Fields

Row = tuple[str, str | None, Fields]  # location for messages, default id, fields
STATISTICS = "-query-info"  # suffix of the data set with one row per question of a pool
# the columns of a pool that describe a question rather than one response to it
QUERY = ("query_id", "query", "gt_ans", "domain", "query_metadata")


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
