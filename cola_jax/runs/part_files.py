"""Part files: tables of rows, of which a run of many questions has thousands."""

import itertools
from collections.abc import Iterable, Sequence

import pyarrow as pa
import pyarrow.parquet as pq
from etils import epath

TOGETHER = 64  # tables that are joined at once


def read_parts(
    files: Sequence[epath.Path], schema: pa.Schema, columns: Sequence[str] | None
) -> pa.Table:
    """Reads part files into one table; ValueError names a damaged one."""
    if columns is not None:
        schema = pa.schema([schema.field(name) for name in columns])
    return join([schema.empty_table()], (read_part(file, schema) for file in files))


def join(*tables: Iterable[pa.Table]) -> pa.Table:
    """Joins tables, some at a time: what describes thousands of small ones takes most memory."""
    every, joined = itertools.chain(*tables), []
    while some := list(itertools.islice(every, TOGETHER)):
        joined.append(pa.concat_tables(some).combine_chunks())
    return pa.concat_tables(joined)


def read_part(
    file: epath.Path, schema: pa.Schema, what: str = "questions are evaluated"
) -> pa.Table:
    """Reads one file of rows; ValueError where it is damaged says what happens without it."""
    try:
        content = pa.BufferReader(file.read_bytes())
        # a third of the time that `read_table` takes, which adds columns that an older part lacks
        table = pq.ParquetFile(content).read(columns=schema.names, use_threads=False)
        return table if table.schema == schema else pq.read_table(content, schema=schema)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(
            f"{file} is damaged ({error}): remove it, and its {what} again."
        ) from error
