"""Part files: tables of rows, of which a run of many questions has thousands."""

import itertools
from collections.abc import Iterable, Sequence

import pyarrow as pa
import pyarrow.parquet as pq
from etils import epath

from cola_jax.errors import InputError, first_line
from cola_jax.files import read_bytes
from cola_jax.runs.part_checks import check_names, check_size, check_table

TOGETHER = 64  # tables that are joined at once


def read_parts(
    files: Sequence[epath.Path],
    schema: pa.Schema,
    columns: Sequence[str] | None,
    num_layers: int | None,
) -> pa.Table:
    """Reads columns of part files into one table; ValueError as `read_part`."""
    if columns is not None:
        schema = pa.schema([schema.field(name) for name in columns])
    return join([schema.empty_table()], (read_part(file, schema, num_layers) for file in files))


def join(*tables: Iterable[pa.Table]) -> pa.Table:
    """Joins tables, some at a time: what describes thousands of small ones takes most memory."""
    every, joined = itertools.chain(*tables), []
    while some := list(itertools.islice(every, TOGETHER)):
        joined.append(pa.concat_tables(some).combine_chunks())
    return pa.concat_tables(joined)


def read_part(
    file: epath.Path,
    schema: pa.Schema,
    num_layers: int | None = None,
    what: str = "questions are evaluated",
) -> pa.Table:
    """Reads one file of rows, which may come from elsewhere.

    Args:
      schema: the columns to read; those that an older run lacks are null.
      num_layers: of the model, beyond which paths are refused; None where that is not known.
      what: what happens again once the file is removed, for messages.

    Raises ValueError where the file is damaged, or holds what no run writes.
    """
    try:
        content = read_bytes(file)
        # a third of the time that `read_table` takes, which adds columns that an older part lacks
        opened = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
        # its other facts are not read: pyarrow ends the process where those of a column are wrong
        check_size(opened.metadata.num_rows, len(content))
        table = with_schema(opened.read(schema.names, use_threads=False), schema)
        check_table(table, num_layers)
        return table
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(
            f"{file} is damaged ({first_line(error)}): remove it, and its {what} again."
        ) from error


def with_schema(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Returns the columns of a schema, null where a table lacks them."""
    there = table.column_names
    check_names(there, schema.names)
    columns = [
        table[field.name].cast(field.type)
        if field.name in there
        else pa.chunked_array([pa.nulls(table.num_rows, field.type)])
        for field in schema
    ]
    return pa.table(columns, schema=schema)
