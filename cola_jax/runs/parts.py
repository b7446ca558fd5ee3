"""Part files: tables of rows, which may come from elsewhere and are checked when they are read."""

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from etils import epath

from cola_jax.config import MOST_LAYERS
from cola_jax.errors import InputError, first_line, reading, shown
from cola_jax.files import read_bytes
from cola_jax.scoring.grader import Grade
from cola_jax.scoring.verdicts import NO_ANSWER

TOGETHER = 64  # tables that are joined at once
MARK = b"cola_run"  # in the metadata of a file: the digest of the settings of its run
NEVER_NULL = {
    *("question", "path", "length", "margin", "answer", "finite", "node"),  # of evaluations
    *("options", "prompt_hash", "evaluations", "metadata.name", "metadata.value"),  # of questions
    *("again.path", "again.holds", "controls.again.path", "controls.again.holds"),
    *("controls.target", "controls.evaluations", "controls.shared"),
}
ROUNDED = 1e-4  # a margin below which rounding may turn its sign
PATHS = {"path", "best", "robust", "front"}  # lists of layers, none of them empty
# The least number of a column, 0 of others
LEAST: dict[str, int] = dict.fromkeys(("answer", "baseline_answer", "variant_answers"), NO_ANSWER)
TEXTS = {  # what a column may say
    "finish": {"stop", "length", "not finite"},
    "grade": {grade.value for grade in Grade},
}


def write_part(schema: pa.Schema, rows: Iterable[dict[str, Any]], mark: str) -> bytes:
    """Returns the content of a file of rows, marked as one of its run."""
    sink = pa.BufferOutputStream()
    table = pa.Table.from_pylist(list(rows), schema=schema.with_metadata({MARK: mark.encode()}))
    pq.write_table(table, sink, write_page_checksum=True)
    return sink.getvalue().to_pybytes()


def read_parts(
    files: Sequence[epath.Path],
    schema: pa.Schema,
    columns: Sequence[str] | None,
    num_layers: int | None,
    mark: str | None,
) -> pa.Table:
    """Reads columns of part files into one table; InputError as `read_part`."""
    if columns is not None:
        schema = pa.schema([schema.field(name) for name in columns])
    return join([schema.empty_table()], (read_part(f, schema, num_layers, mark) for f in files))


def join(*tables: Iterable[pa.Table]) -> pa.Table:
    """Joins tables, some at a time: what describes thousands of small ones takes most memory."""
    every, joined = itertools.chain(*tables), []
    while some := list(itertools.islice(every, TOGETHER)):
        joined.append(pa.concat_tables(some).combine_chunks())
    return pa.concat_tables(joined)


def read_part(
    file: epath.Path, schema: pa.Schema, num_layers: int | None, mark: str | None
) -> pa.Table:
    """Reads one file of rows.

    Args:
      schema: the columns to read; those that an older run lacks are null.
      num_layers: of the model, beyond which paths are refused; None where that is not known.
      mark: of the run; None for one of an earlier version, whose files have none.

    Raises InputError where the file is damaged, of another run, or holds what no run writes.
    """
    with reading(file, "Remove it, and its questions are evaluated again."):
        content = read_bytes(file)
        # a third of the time that `read_table` takes, which adds columns that an older part lacks
        opened = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
        there = (opened.schema_arrow.metadata or {}).get(MARK, b"").decode()
        if mark is not None and there != mark:
            raise InputError("it is of another run")
        try:
            table = with_schema(opened.read(schema.names, use_threads=False), schema)
        except OSError as error:  # a checksum
            raise InputError(first_line(error)) from error
        table.validate(full=True)  # texts that are not UTF-8, lists that end before they begin
        for name in table.column_names:
            for chunk in table[name].chunks:
                check_values(name, chunk, num_layers)
        check_rows(table)
        return table


def with_schema(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Returns the columns of a schema, null where a table lacks them."""
    names = table.column_names
    if len(set(names)) < len(names):
        raise InputError("it has a column twice")
    if missing := sorted(NEVER_NULL.intersection(schema.names).difference(names)):
        raise InputError(f"it has no column {missing[0]}")
    columns = [
        table[field.name].cast(field.type)
        if field.name in names
        else pa.chunked_array([pa.nulls(table.num_rows, field.type)])
        for field in schema
    ]
    return pa.table(columns, schema=schema)


def check_values(name: str, values: pa.Array, num_layers: int | None) -> None:
    """Checks the values of a column, and of what it holds, whose names follow after a dot."""
    kind, last = values.type, name.rpartition(".")[2]
    if values.null_count and name in NEVER_NULL:
        raise InputError(f"a row has no {name}")
    if pa.types.is_list(kind):
        items = values.flatten()
        if items.null_count:
            raise InputError(f"a row's {name} has an empty entry")
        is_path = last in PATHS and pa.types.is_integer(kind.value_type)
        if (is_path or last == "again") and least(values.value_lengths()) == 0:
            raise InputError(f"a row's {name} has no entries")
        check_values(name, items, num_layers)
    elif pa.types.is_struct(kind):
        for field, column in zip(kind, values.flatten(), strict=True):
            check_values(f"{name}.{field.name}", column, num_layers)
    elif pa.types.is_integer(kind) and len(values) > values.null_count:
        span = compute("min_max", values).as_py()
        lowest, layers = LEAST.get(last, 0), MOST_LAYERS if num_layers is None else num_layers
        if span["min"] < lowest:
            raise InputError(f"a row's {name} is {span['min']}, less than {lowest}")
        if last in PATHS and span["max"] >= layers:
            raise InputError(f"a row's {name} has layer {span['max']}, the last is {layers - 1}")
    elif last in TEXTS and (others := set(values.unique().to_pylist()) - {None, *TEXTS[last]}):
        raise InputError(f"a row's {name} is {shown(others.pop())}")


def check_rows(table: pa.Table) -> None:
    """Raises InputError for columns that contradict each other."""
    for first, second, contradicts in CONTRADICTIONS:
        if {first, second} <= set(table.column_names):
            where = contradicts(table[first], table[second])
            if compute("any", where).as_py():
                raise InputError(f"a row's {first} and {second} contradict each other")
    if "node" in table.column_names and table.num_rows:
        largest = compute("max", table["node"]).as_py()
        if largest is not None and largest >= table.num_rows:
            raise InputError(f"a row's node is {largest}, beyond all evaluations")


def alone(values: pa.ChunkedArray, others: pa.ChunkedArray) -> pa.ChunkedArray:
    """Returns where a column has a value and another does not."""
    return compute("and", values.is_valid(), others.is_null())


def against(verdict: pa.ChunkedArray, margin: pa.ChunkedArray) -> pa.ChunkedArray:
    """Returns where a right answer has a negative margin, or a wrong one a positive one.

    Those of a letter that is nearly as likely as another token are rounded differently.
    """
    wrong = compute("and", verdict, compute("less", margin, -ROUNDED))
    right = compute("and", compute("invert", verdict), compute("greater", margin, ROUNDED))
    return compute("or", wrong, right)


CONTRADICTIONS = (
    ("path", "length", lambda path, length: compute("not_equal", sizes(path), length)),
    ("options", "gold", lambda options, gold: compute("less_equal", sizes(options), gold)),
    ("verdict", "margin", against),
    ("text", "finish", alone),
    *(("finish", name, alone) for name in ("text", "tokens", "truncated", "logprob")),
    *(("again", name, alone) for name in ("variant_answers", "baseline_answer")),
)


def least(values: pa.Array) -> int | None:
    """Returns the least of values; None of none."""
    return compute("min", values).as_py()


def sizes(lists: pa.ChunkedArray) -> pa.ChunkedArray:
    """Returns the numbers of entries of lists."""
    return compute("list_value_length", lists)


def compute(name: str, *columns: Any) -> Any:
    """Calls a function of Arrow; pyright does not know those that it makes on import."""
    return pc.call_function(name, list(columns))


def check_nodes(directory: epath.PathLike, nodes: np.ndarray, paths: int) -> None:
    """Raises ValueError for evaluations of more paths than the settings of a run name."""
    if len(nodes) and nodes.max() >= paths:
        raise InputError(
            f"{directory} has evaluations of {nodes.max() + 1} paths, but its settings name "
            f"{paths}: its files are of several runs, so evaluate the paths again."
        )


def check_counts(directory: epath.PathLike, questions: pa.Table, evaluations: pa.Table) -> None:
    """Raises ValueError unless each question has as many evaluations as its row counts.

    Those of control searches are not counted. Both tables have the column `question`, and the first
    one `evaluations`.
    """
    if "control" in evaluations.column_names:
        evaluations = evaluations.filter(compute("invert", evaluations["control"].fill_null(False)))
    found = evaluations["question"].value_counts()
    there = dict(zip(*(found.field(i).to_pylist() for i in (0, 1)), strict=True))
    columns = (questions[name].to_pylist() for name in ("question", "evaluations"))
    counted = dict(zip(*columns, strict=True))
    for name in there | counted:
        if there.get(name, 0) != counted.get(name, 0):
            raise InputError(
                f"{directory} has {there.get(name, 0)} evaluations of question {shown(name)}, but "
                f"counts {counted.get(name, 0)}: remove the part files that have it, of both "
                "kinds, and it is evaluated again."
            )


def by_question(table: pa.Table) -> dict[str, pa.Table]:
    """Divides the rows of a table by their question; those of one keep their order."""
    question = table["question"].fill_null("").combine_chunks().dictionary_encode()
    number = question.indices.to_numpy()
    rows = table.take(np.argsort(number, kind="stable"))
    bounds = itertools.pairwise([0, *np.cumsum(np.bincount(number)).tolist()])
    names = question.dictionary.to_pylist()
    return {
        name: rows.slice(start, end - start)
        for name, (start, end) in zip(names, bounds, strict=True)
    }
