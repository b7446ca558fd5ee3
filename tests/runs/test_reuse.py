"""Rows of earlier runs, by question."""

import pyarrow as pa

from cola_jax.runs.reuse import StoredRows, by_question

TABLE = pa.table({"question": ["b", "a", "b", None, "a"], "path": [[0], [1], [2], [3], [4]]})


def test_by_question_keeps_the_order_of_rows():
    tables = {name: table["path"].to_pylist() for name, table in by_question(TABLE).items()}
    assert tables == {"b": [[0], [2]], "a": [[1], [4]], "": [[3]]}
    assert by_question(TABLE.slice(0, 0)) == {}


def test_stored_rows_are_those_of_all_tables():
    stored = StoredRows()
    assert stored.add(TABLE, {"a", "x"}) == {"a", "b", ""}
    stored.add(TABLE.slice(0, 2), {"a", "b"})
    assert [row["path"] for row in stored.of("a")] == [[1], [4], [1]]
    assert [row["path"] for row in stored.of("b")] == [[0]]
    stored.forget("a")
    assert not list(stored.of("a"))
