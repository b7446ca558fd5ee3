"""Checks of part files, which may come from elsewhere, before they are used."""

from collections.abc import Collection
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from etils import epath

from cola_jax.config import MOST_LAYERS
from cola_jax.errors import InputError, shown
from cola_jax.scoring.grader import Grade
from cola_jax.scoring.verdicts import NO_ANSWER

NEVER_NULL = {
    *("question", "path", "length", "margin", "answer", "finite", "node"),  # of evaluations
    *("options", "prompt_hash", "evaluations", "metadata.name", "metadata.value"),  # of questions
    *("again.path", "again.holds", "controls.again.path", "controls.again.holds"),
    *("controls.target", "controls.evaluations", "controls.shared"),
}
ALWAYS = {"verdict", "target", "gold", "baseline", "best"}  # columns that are never missing
PATHS = {"path", "best", "robust", "front"}
# The least number of a column, 0 of others
LEAST: dict[str, int] = dict.fromkeys(("answer", "baseline_answer", "variant_answers"), NO_ANSWER)
TEXTS = {  # what a column may say
    "finish": {"stop", "length", "not finite"},
    "grade": {grade.value for grade in Grade},
}
COMPLETED = ("text", "tokens", "truncated", "logprob")  # are there where `finish` is
ASKED_AGAIN = ("variant_answers", "baseline_answer")  # are there where `again` is


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


def check_size(rows: int, size: int) -> None:
    """Raises ValueError where a file claims more rows than one of its size can have.

    A row has a margin of four bytes, but a few bytes can stand for millions of equal values.
    """
    if rows > size:
        raise InputError(f"it claims {rows:,} rows in {size:,} bytes")


def check_names(names: Collection[str], wanted: Collection[str]) -> None:
    """Raises ValueError for a column that is there twice, or missing though all runs have it."""
    if len(set(names)) < len(names):
        raise InputError("it has a column twice")
    needed = (ALWAYS | NEVER_NULL).intersection(wanted)
    if missing := sorted(needed.difference(names)):
        raise InputError(f"it has no column {missing[0]}")


def check_table(table: pa.Table, num_layers: int | None) -> None:
    """Raises ValueError for values that no run writes."""
    table.validate(full=True)  # texts that are not UTF-8, lists that end before they begin
    if {"variant", "confirmed"} <= set(table.column_names):
        # of the journal, in which what was confirmed is a path alone
        check_columns(table.select(["question", "path"]), num_layers)
        table = table.filter(pc.field("confirmed").is_null())
    check_columns(table, num_layers)
    check_rows(table)


def check_columns(table: pa.Table, num_layers: int | None) -> None:
    """Raises ValueError for a column that has values which it cannot have, or lacks some."""
    for name in table.column_names:
        for chunk in table[name].chunks:
            check_values(name, chunk, num_layers)
    # evaluations have a text only where something was decoded
    if {"text", "options"} <= set(table.column_names) and table["text"].null_count:
        raise InputError("a row has no text")


def check_values(name: str, values: pa.Array, num_layers: int | None) -> None:
    """Checks the values of a column, and of what it holds, whose names follow after a dot."""
    kind, last = values.type, name.rpartition(".")[2]
    if values.null_count and name in NEVER_NULL:
        raise InputError(f"a row has no {name}")
    if pa.types.is_list(kind):
        items = values.flatten()
        if items.null_count:
            raise InputError(f"a row's {name} has an empty entry")
        if nonempty(name, kind) and compute("min", values.value_lengths()).as_py() == 0:
            raise InputError(f"a row's {name} has no entries")
        check_values(name, items, num_layers)
    elif pa.types.is_struct(kind):
        for field, column in zip(kind, values.flatten(), strict=True):
            check_values(f"{name}.{field.name}", column, num_layers)
    elif pa.types.is_integer(kind) and len(values) > values.null_count:
        check_range(name, values, *limits(last, num_layers))
    elif last in TEXTS and (others := set(values.unique().to_pylist()) - {None, *TEXTS[last]}):
        raise InputError(f"a row's {name} is {shown(others.pop())}")


def nonempty(name: str, kind: pa.ListType) -> bool:
    """Whether a list has entries wherever it is there: paths have layers."""
    last = name.rpartition(".")[2]
    return last == "again" or (last in PATHS and pa.types.is_integer(kind.value_type))


def limits(name: str, num_layers: int | None) -> tuple[int, int | None]:
    """Returns the least and the largest number that a column of integers may have."""
    if name in PATHS:
        return 0, (MOST_LAYERS if num_layers is None else num_layers) - 1
    return LEAST.get(name, 0), None


def check_range(name: str, values: pa.Array, least: int, most: int | None) -> None:
    """Raises ValueError for numbers that are too small or too large."""
    found = compute("min_max", values).as_py()
    if found["min"] < least:
        raise InputError(f"a row's {name} is {found['min']}, less than {least}")
    if most is not None and found["max"] > most:
        raise InputError(f"a row's {name} has layer {found['max']}, but the last one is {most}")


def check_rows(table: pa.Table) -> None:
    """Raises ValueError for columns that contradict each other."""
    rules = [
        ("path", "length", lambda path, length: compute("not_equal", sizes(path), length)),
        ("options", "gold", lambda options, gold: compute("less_equal", sizes(options), gold)),
        ("text", "finish", alone),
        *(("finish", name, alone) for name in COMPLETED),
        *(("again", name, alone) for name in ASKED_AGAIN),
    ]
    for first, second, wrong in rules:
        if not {first, second} <= set(table.column_names):
            continue
        if compute("any", wrong(table[first], table[second])).as_py():
            raise InputError(f"a row's {first} and {second} contradict each other")
    if "node" in table.column_names and table.num_rows:
        largest = compute("max", table["node"]).as_py()
        if largest is not None and largest >= table.num_rows:
            raise InputError(f"a row's node is {largest}, beyond all evaluations")


def alone(values: pa.ChunkedArray, others: pa.ChunkedArray) -> pa.ChunkedArray:
    """Returns where a column has a value and another does not."""
    return compute("and", values.is_valid(), others.is_null())


def sizes(lists: pa.ChunkedArray) -> pa.ChunkedArray:
    """Returns the numbers of entries of lists."""
    return compute("list_value_length", lists)


def compute(name: str, *columns: Any) -> Any:
    """Calls a function of Arrow; pyright does not know those that it makes on import."""
    return pc.call_function(name, list(columns))
