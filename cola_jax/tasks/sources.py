"""Sources: the rows of files, of memory and of data sets on the Hub, in order."""

import csv
import io
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from cola_jax.errors import InputError, first_line, reading, shown
from cola_jax.files import parse_object, read_bytes, read_text

# a file (JSONL, CSV or Parquet), or rows in memory: dicts, a DataFrame or a `datasets.Dataset`
Source = Any
Row = tuple[str, str | None, Mapping[str, Any]]  # place for messages, default id, fields
STATISTICS = "-query-info"  # suffix of the data set with one row per question of a pool
# the columns of a pool that describe a question rather than one response to it
QUERY = ("query_id", "query", "gt_ans", "domain", "query_metadata")


def read_rows(source: Source) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the rows of a file or of memory, each with its place for messages."""
    if isinstance(source, str):
        suffix = PurePath(source).suffix.lower()
        read = {".csv": read_csv, ".parquet": read_parquet}.get(suffix, read_lines)
        yield from ((f"{source}:{number}", row) for number, row in read(source))
        return
    if hasattr(source, "to_dict") and hasattr(source, "notna"):  # a DataFrame
        source = source.astype(object).where(source.notna(), None).to_dict("records")
    if isinstance(source, Mapping) or not isinstance(source, Iterable):
        raise InputError(f"questions are a file, a list of dicts or a table, not {shown(source)}.")
    for number, row in enumerate(source):
        if not isinstance(row, Mapping):
            raise InputError(f"row {number}: a dict belongs here, not {shown(row)}.")
        yield f"row {number}", plain_value(row)


def plain_value(value: Any) -> Any:
    """Return a value of numpy as Python has it, also in a dict."""
    if isinstance(value, Mapping):
        return {str(name): plain_value(inner) for name, inner in value.items()}
    return value.tolist() if hasattr(value, "tolist") else value


def read_csv(file: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the rows of a CSV file and their line numbers; an empty cell has no value."""
    with reading(file):
        lines = csv.DictReader(io.StringIO(read_text(file), newline=""))
        try:
            for row in lines:
                if None in row:
                    raise InputError(f"line {lines.line_num} has more cells than the first line.")
                yield lines.line_num, {name: value or None for name, value in row.items()}
        except csv.Error as error:
            raise InputError(f"line {lines.line_num}: {error}.") from error


def read_parquet(file: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the rows of a Parquet file and their numbers, from 1."""
    import pyarrow.parquet

    with reading(file):
        rows = pyarrow.parquet.read_table(io.BytesIO(read_bytes(file))).to_pylist()
    yield from enumerate(rows, 1)


def read_lines(file: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the rows of a JSONL file and their line numbers; blank lines are skipped."""
    for number, line in enumerate(read_text(file).split("\n"), 1):
        if line.strip():
            yield number, parse_object(line, f"{file}:{number}")


def load_hub(hub: str, config: str | None, split: str) -> Any:
    """Load one split with the `datasets` library; raise InputError if that fails."""
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
    """Return the subset of a subject where a data set has one, or else the `whole` of it."""
    import datasets

    try:
        names = datasets.get_dataset_config_names(hub)
    except Exception:  # loading it says what is wrong
        return whole
    return (subject,) if subject in names else whole


def subset_rows(hub: str, config: str | None, split: str) -> Iterator[Row]:
    """Yield the rows of one subset, each with its place in the split as its default id."""
    place = f"{config}/{split}" if config else split
    where = " ".join(filter(None, (hub, config, split)))
    for number, row in enumerate(load_hub(hub, config, split), start=1):
        yield f"{where}:{number}", f"{place}/{number}", row


def interleave(subsets: Sequence[Iterable[Row]], field: str | None) -> Iterator[Row]:
    """Yield one row of each subset in turn, or one for each value of the field.

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
    """Yield the questions of a pool of responses, in order, with their statistics.

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
