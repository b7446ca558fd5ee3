"""Mutations of Parquet files: other columns and types, nulls, and values that no run writes."""

import io
import json
import random
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.fuzz.mutations import mutate_bytes, mutate_json

INTEGERS = (-(2**31), -(2**15), -2, -1, 0, 1, 2, 3, 4, 5, 99, 2**15 - 1, 2**31 - 1)
FLOATS = (0.0, -1.0, 1e38, float("nan"), float("inf"), -float("inf"))
TEXTS = ("", "q1", "q2", "nobody", "x" * 5000, "a\nb", "\0", "right", "stop", "é", "</script>")
PATHS = ([], [0], [3], [4], [99], [-1], [2**15 - 1], [None], [0] * 9999, [3, 2, 1, 0], [0, None, 1])
TYPES = (
    *(pa.string(), pa.large_string(), pa.int64(), pa.float64(), pa.bool_(), pa.null(), pa.binary()),
    *(pa.list_(pa.int64()), pa.list_(pa.string()), pa.dictionary(pa.int32(), pa.string())),
    *(pa.int8(), pa.uint64(), pa.decimal128(20, 2), pa.timestamp("s"), pa.struct({"a": pa.int8()})),
)


def written(table: pa.Table) -> bytes:
    """Writes a table as Parquet."""
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def mutate_table(table: pa.Table, seed: int) -> bytes:
    """Changes a few columns or rows for two seeds of three, and else bytes."""
    if seed % 3 == 0:
        return mutate_bytes(written(table), seed)
    draw = random.Random(seed)
    for _ in range(draw.choice((1, 1, 2, 3))):
        table = draw.choice(CHANGES)(table, draw)
    return written(table)


def change_value(table: pa.Table, draw: random.Random) -> pa.Table:
    """Changes one value, or all values of a column."""
    if not table.num_rows or not table.num_columns:
        return table
    at = draw.randrange(table.num_columns)
    column = table.column(at)
    values, rows = column.to_pylist(), range(table.num_rows)
    for row in rows if draw.random() < 0.2 else [draw.choice(rows)]:
        values[row] = other(values[row], column.type, draw)
    return with_column(table, at, values, column.type)


def other(value: Any, kind: pa.DataType, draw: random.Random) -> Any:
    """Draws another value of a type."""
    if draw.random() < 0.25:
        return None
    if pa.types.is_integer(kind):
        return draw.choice(INTEGERS)
    if pa.types.is_floating(kind):
        return draw.choice(FLOATS)
    if pa.types.is_boolean(kind):
        return not value
    if pa.types.is_string(kind):
        return draw.choice(TEXTS)
    if pa.types.is_list(kind) and pa.types.is_integer(kind.value_type) and draw.random() < 0.7:
        return draw.choice(PATHS)
    return mutate_json(value, draw.randrange(2**32))


def with_column(table: pa.Table, at: int, values: list[Any], kind: pa.DataType | None) -> pa.Table:
    """Puts values in place of a column, which stays where they do not have the type."""
    try:
        column = pa.array(values, kind)
    except (pa.ArrowException, OverflowError, TypeError, ValueError):
        return table
    return table.set_column(at, table.column_names[at], column)


def change_type(table: pa.Table, draw: random.Random) -> pa.Table:
    """Gives a column another type."""
    if not table.num_columns:
        return table
    at, kind = draw.randrange(table.num_columns), draw.choice(TYPES)
    values = table.column(at).to_pylist()
    if kind in (pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())):
        values = [None if value is None else json.dumps(value, default=str) for value in values]
    if pa.types.is_null(kind):
        values = [None] * len(values)
    return with_column(table, at, values, kind)


def change_columns(table: pa.Table, draw: random.Random) -> pa.Table:
    """Leaves a column out, adds one, or calls one otherwise."""
    if not table.num_columns:
        return table
    at, way = draw.randrange(table.num_columns), draw.randrange(4)
    if way == 0:
        return table.remove_column(at)
    if way == 1:
        return table.append_column("extra", pa.array(range(table.num_rows)))
    if way == 2:
        return table.append_column(table.column_names[at], table.column(at))
    names = [*table.column_names]
    names[at] = draw.choice(("question", "Path", "", "x"))
    return table.rename_columns(names)


def change_rows(table: pa.Table, draw: random.Random) -> pa.Table:
    """Leaves rows out, doubles them, or puts them in another order."""
    if not table.num_rows:
        return table
    order = draw.choice(
        (
            [],
            [0],
            [*range(table.num_rows)] * 2,
            [*range(table.num_rows)][::-1],
            [*range(1, table.num_rows)],
            [0] * 1000,
        )
    )
    return table.take(pa.array(order, pa.int64()))


CHANGES: tuple[Callable[[pa.Table, random.Random], pa.Table], ...] = (
    *(change_value, change_value, change_value, change_value),
    *(change_type, change_columns, change_rows),
)
