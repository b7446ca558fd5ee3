"""Sources: the rows of files, of memory and of data sets on the Hub, in order."""

import csv
import io
import itertools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePath
from typing import Any

from cola_jax.errors import InputError, first_line, reading, shown
from cola_jax.files import parse_object, read_bytes, read_text
from cola_jax.tasks.registry import Task

# a file (JSONL, CSV or Parquet), or rows in memory: dicts, a DataFrame or a `datasets.Dataset`
Source = Any
PlacedRow = tuple[str, str | None, Mapping[str, Any]]  # place for messages, default id, fields
STATISTICS = "-query-info"  # suffix of the data set with one row per question of a pool
# the columns of a pool that describe a question rather than one response to it
QUERY = ("query_id", "query", "gt_ans", "domain", "query_metadata")


def read_rows(source: Source) -> Iterator[PlacedRow]:
    """Yield the rows of a file or of memory."""
    if isinstance(source, str):
        suffix = PurePath(source).suffix.lower()
        read = {".csv": read_csv, ".parquet": read_parquet}.get(suffix, read_lines)
        yield from ((f"{source}:{number}", None, row) for number, row in read(source))
        return
    if hasattr(source, "to_dict") and hasattr(source, "notna"):  # a DataFrame
        source = source.astype(object).where(source.notna(), None).to_dict("records")
    if isinstance(source, Mapping) or not isinstance(source, Iterable):
        raise InputError(f"questions are a file, a list of dicts or a table, not {shown(source)}.")
    for number, row in enumerate(source):
        if not isinstance(row, Mapping):
            raise InputError(f"row {number}: a dict belongs here, not {shown(row)}.")
        yield f"row {number}", None, plain_value(row)


def plain_value(value: Any) -> Any:
    """Convert numpy values to Python's, also in a dict."""
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


def hub_rows(
    task: Task, split: str | None, hub: str | None, subject: str | None
) -> Iterator[PlacedRow]:
    """Yield the rows of a data set on the Hub; of one subject of MMLU from its own subset, if any.

    Subjects of MATH and MMLU are interleaved: otherwise a small limit would select one alone.
    """
    split, hub, configs = split or task.split, hub or task.hub, task.configs
    if task.kind == "dart":
        return pool_rows(hub, split)
    if task.kind == "mmlu" and subject is not None and subject in config_names(hub):
        configs = (subject,)
    queues: Iterable[Iterable[PlacedRow]] = [subset_rows(hub, each, split) for each in configs]
    if task.kind == "mmlu":  # whose split is sorted by subject
        of_subject: dict[str, list[PlacedRow]] = {}
        for row in itertools.chain(*queues):
            of_subject.setdefault(str(row[2].get("subject")), []).append(row)
        queues = of_subject.values()
    return filter(None, itertools.chain.from_iterable(itertools.zip_longest(*queues)))


def subset_rows(hub: str, config: str | None, split: str) -> Iterator[PlacedRow]:
    """Yield the rows of one subset, each with its place in the split as its default id."""
    place = f"{config}/{split}" if config else split
    where = " ".join(filter(None, (hub, config, split)))
    for number, row in enumerate(load_hub(hub, config, split), start=1):
        yield f"{where}:{number}", f"{place}/{number}", row


def pool_rows(hub: str, split: str) -> Iterator[PlacedRow]:
    """Yield each question of a pool of responses once, with its statistics from a second set."""
    statistics = {row["query_id"]: row for row in load_hub(f"{hub}{STATISTICS}", None, split)}
    pool = load_hub(hub, None, split)
    pool = pool.select_columns([name for name in QUERY if name in pool.column_names])
    # read by column: a million rows one by one take minutes
    first = pool.select_columns("query_id").to_pandas().drop_duplicates().index
    for index, row in zip(first, pool.select(first), strict=True):
        yield f"{hub} {split}:{index + 1}", None, statistics.get(row["query_id"], {}) | row


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


def config_names(hub: str) -> list[str]:
    """List the subsets of a data set; none where that fails, as loading it then reports."""
    import datasets

    try:
        return datasets.get_dataset_config_names(hub)
    except Exception:
        return []
