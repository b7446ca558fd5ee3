"""The rows of data sets of the Hub, or of directories of the same layout."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

Row = tuple[str, str | None, Mapping[str, Any]]  # where it is, its id by default, its fields
STATISTICS = "-query-info"  # behind the name of a pool: a row per question
# of a pool, what is about a question and not about one response to it
QUERY = ("query_id", "query", "gt_ans", "domain", "query_metadata")


def load_hub(hub: str, config: str | None, split: str) -> Any:
    """Loads one split with the `datasets` library; ValueError where it can't be had."""
    import datasets

    try:
        return datasets.load_dataset(hub, config, split=split)
    except Exception as error:  # the Hub's client and its HTTP library raise many types
        named = hub if config is None else f"{hub} {config}"
        raise ValueError(
            f"{named} (split {split}) could not be loaded: {error} Without a network, "
            "give a JSONL file of the same fields as the task."
        ) from error


def subset_rows(hub: str, config: str | None, split: str) -> Iterator[Row]:
    """Yields the rows of one subset; a row without an id is named by its place."""
    place = f"{config}/{split}" if config else split
    where = " ".join(filter(None, (hub, config, split)))
    for number, row in enumerate(load_hub(hub, config, split), start=1):
        yield f"{where}:{number}", f"{place}/{number}", row


def in_turn(subsets: Sequence[Iterable[Row]], field: str | None) -> Iterator[Row]:
    """Yields a row of each subset in turn, and in each of them of each value of the field.

    In turn, since the first few must not be of MATH's or MMLU's first subject alone.
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
    """Yields the questions of a pool of responses, in order, with what is known of each.

    The pool has text and answer of each question with every response; their number and how many of
    them were right is in the table beside it.
    """
    known = {row["query_id"]: row for row in load_hub(f"{hub}{STATISTICS}", None, split)}
    pool = load_hub(hub, None, split)
    pool = pool.select_columns([name for name in QUERY if name in pool.column_names])
    first: dict[str, int] = {}  # by columns: reading each of a million rows takes minutes
    place = 0
    for some in pool.select_columns("query_id").iter(batch_size=100_000):
        for id in some["query_id"]:
            first.setdefault(id, place)
            place += 1
    for place, row in zip(first.values(), pool.select(first.values()), strict=True):
        yield f"{hub} {split}:{place + 1}", None, known.get(row["query_id"], {}) | row
