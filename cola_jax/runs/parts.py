"""Files of a run, each with the digest of its content: tables of rows in parts, and records."""

import hashlib
import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from etils import epath

from cola_jax.errors import InputError, reading
from cola_jax.files import matching, read_bytes, read_json, readable_json, write_whole
from cola_jax.identity import digest

TOGETHER = 64  # tables that are joined at once
MARK = b"cola_run"  # in the metadata of a file: the digest of the settings of its run
TABLES = ("evaluations", "questions")  # the two tables of a part
ROUNDED = 1e-4  # a margin below which rounding may turn its sign


PartFiles = Mapping[str, epath.Path]  # the two files of a part, by kind


def write_record(file: epath.Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file with the digest of its content."""
    write_whole(file, readable_json({**content, "digest": digest(content)}).encode() + b"\n")


def read_record(file: epath.Path) -> dict[str, Any]:
    """Read what `write_record` wrote; InputError for a file that was changed since."""
    content = read_json(file)
    if content.pop("digest", None) != digest(content):
        raise InputError(
            f"{file} is damaged, or was changed or made by an earlier version: restore it, or make "
            "a new run."
        )
    return content


def list_parts(directory: epath.Path) -> list[PartFiles]:
    """List the parts of a run in order, without those that lack one of their two files."""
    parts: dict[str, dict[str, epath.Path]] = defaultdict(dict)
    for kind in TABLES:
        for file in matching(directory / kind, "part-*.parquet"):
            parts[stem_of(file)][kind] = file
    return [parts[stem] for stem in sorted(parts) if len(parts[stem]) == len(TABLES)]


def encode_part(schema: pa.Schema, rows: Iterable[dict[str, Any]], mark: str) -> bytes:
    """Return the content of a file of rows, marked as one of its run."""
    sink = pa.BufferOutputStream()
    table = pa.Table.from_pylist(list(rows), schema=schema.with_metadata({MARK: mark.encode()}))
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()


def part_name(stem: str, content: bytes) -> str:
    """Return the name of a file with this content."""
    return f"{stem}.{hashlib.sha256(content).hexdigest()[:16]}.parquet"


def stem_of(file: epath.Path) -> str:
    """Return the part of a file's name before its digest."""
    return file.name.partition(".")[0]


def read_part(
    file: epath.Path, schema: pa.Schema, mark: str, columns: Sequence[str] | None = None
) -> pa.Table:
    """Read columns of one file of rows, by default those of its schema.

    Raises InputError where the file was changed after it was written, is of another run, or has a
    verdict that its margin contradicts.
    """
    with reading(file, "Remove it, and its questions are evaluated again."):
        content = read_bytes(file)
        if file.name != part_name(stem_of(file), content):
            raise InputError("it is damaged, or was changed or renamed after it was written")
        # a third of the time that `read_table` takes
        opened = pq.ParquetFile(pa.BufferReader(content))
        if (opened.schema_arrow.metadata or {}).get(MARK, b"").decode() != mark:
            raise InputError("it is of another run")
        names = schema.names if columns is None else list(columns)
        table = opened.read(names, use_threads=False).select(names)
        check_verdicts(table)
        return table.replace_schema_metadata()


def check_verdicts(table: pa.Table) -> None:
    """Raise InputError where a right answer has a negative margin, or a wrong one a positive one.

    A letter that is nearly as likely as another token may be rounded either way.
    """
    if not {"verdict", "margin"} <= set(table.column_names):
        return
    right, margin = pc.field("verdict"), pc.field("margin")
    wrong = (right & (margin < -ROUNDED)) | (~right & (margin > ROUNDED))
    if table.select(["verdict", "margin"]).filter(wrong).num_rows:
        raise InputError("a row's verdict and margin contradict each other")


def read_parts(
    files: Iterable[epath.Path],
    schema: pa.Schema,
    mark: str,
    columns: Sequence[str] | None = None,
) -> pa.Table:
    """Read columns of part files into one table; InputError as `read_part`."""
    empty = schema.empty_table().select(schema.names if columns is None else list(columns))
    return join([empty], (read_part(file, schema, mark, columns) for file in files))


def join(*tables: Iterable[pa.Table]) -> pa.Table:
    """Join tables, some at a time: the overhead of thousands of small ones takes most memory."""
    waiting, joined = itertools.chain(*tables), []
    while batch := list(itertools.islice(waiting, TOGETHER)):
        joined.append(pa.concat_tables(batch).combine_chunks())
    return pa.concat_tables(joined)


def by_question(table: pa.Table) -> dict[str, pa.Table]:
    """Divide the rows of a table by their question; those of one keep their order."""
    question = table["question"].combine_chunks().dictionary_encode()
    number = question.indices.to_numpy()
    rows = table.take(np.argsort(number, kind="stable"))
    bounds = itertools.pairwise([0, *np.cumsum(np.bincount(number)).tolist()])
    names = question.dictionary.to_pylist()
    return {
        name: rows.slice(start, end - start)
        for name, (start, end) in zip(names, bounds, strict=True)
    }
