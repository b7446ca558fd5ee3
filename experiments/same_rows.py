"""Whether two runs have the same rows: `python -m experiments.same_rows RUN OTHER`.

Rows are matched by question, control target and evaluation number. Paths, verdicts and everything
else but floating-point numbers must be equal. Margins, scores and log-probabilities may differ by
1e-5 times the largest one of their column, or by 1e-5 where none is above 1. Exits with status 1 on
a difference. Runs of earlier versions, whose columns had other names, are read as well.
"""

import dataclasses
import sys
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tyro
from tyro.conf import Positional

from cola_jax.runs.directory import RunDirectory

TOLERANCE = 1e-5
FLOATS = ("margin", "logprob", "scores")
EARLIER = {  # names of columns in earlier versions
    "evaluations": {"said": "answer_text", "cut": "truncated", "decoded": "num_decoded"},
    "questions": {"facts": "metadata", "tokens": "num_tokens"},
}

Row = dict[str, Any]
Key = tuple[str, int, int]  # question, target of a control search or GOLD, number
GOLD = -1


@dataclasses.dataclass(frozen=True)
class SameRows:
    """Compare every evaluation and question of two runs."""

    run: Positional[str]
    other: Positional[str]
    bits: bool = False
    """Require floating-point numbers to be equal to the bit."""


def main(settings: SameRows) -> None:
    sys.exit(0 if compare(settings) else 1)


def compare(settings: SameRows) -> bool:
    """Prints how two runs differ; returns whether their rows are the same."""
    runs = [RunDirectory(name) for name in (settings.run, settings.other)]
    first, second = (read_rows(run, "questions") for run in runs)
    same = report("questions", first, second, {})
    first, second = (read_rows(run, "evaluations") for run in runs)
    limits = {name: limit(name, first, second) for name in FLOATS}
    same &= report("evaluations", first, second, limits)
    return same & report_floats(first, second, limits, settings.bits)


def read_rows(run: RunDirectory, kind: str) -> dict[Key, Row]:
    """Reads the rows of a kind by question, target and number, under present column names."""
    rows = {}
    for file in run.parts(kind):
        for row in pq.read_table(pa.BufferReader(file.read_bytes())).to_pylist():
            if isinstance(row.get("tokens"), list):
                row["num_decoded"] = len(row["tokens"])
            if row.keys() & {"said", "facts"}:
                row = {EARLIER[kind].get(name, name): value for name, value in row.items()}
            facts = row.get("metadata")
            if facts and isinstance(facts[0], tuple):  # of a map, as earlier versions have it
                row["metadata"] = [{"name": name, "value": value} for name, value in facts]
            target = row.get("target") if row.get("control") is True else GOLD
            rows[row["question"], target, row.get("node", 0)] = row
    return rows


def values(row: Row, name: str) -> np.ndarray:
    """Returns the numbers of a column, none where it is null or absent."""
    value = row.get(name)
    return np.atleast_1d(np.array([] if value is None else value, np.float64))


def limit(name: str, *runs: dict[Key, Row]) -> float:
    """Returns the largest difference allowed in a column of floating-point numbers."""
    columns = [values(row, name) for rows in runs for row in rows.values()]
    everything = np.abs(np.concatenate([np.zeros(1), *columns]))
    return TOLERANCE * max(1.0, float(everything[np.isfinite(everything)].max()))


def report(
    kind: str,
    first: dict[Key, Row],
    second: dict[Key, Row],
    floats: dict[str, float],
) -> bool:
    """Prints how many rows differ in columns that must be equal; returns whether none does."""
    both = first.keys() & second.keys()
    columns, different = Counter(), 0
    for key in both:
        one, other = first[key], second[key]
        names = [n for n in one.keys() & other.keys() - floats.keys() if one[n] != other[n]]
        columns.update(names)
        different += bool(names)
    lonely = len(first) + len(second) - 2 * len(both)
    print(
        f"{kind}: {len(first)} and {len(second)} rows, {lonely} in one run only, {different} "
        f"differ {dict(columns) or ''}".rstrip()
    )
    return not lonely and not different


def report_floats(
    first: dict[Key, Row],
    second: dict[Key, Row],
    limits: dict[str, float],
    bits: bool,
) -> bool:
    """Prints how far floating-point columns differ; returns whether all are within limits."""
    same = True
    both = sorted(first.keys() & second.keys())
    for name, allowed in limits.items():
        pairs = [(values(first[key], name), values(second[key], name)) for key in both]
        pairs = [(one, other) for one, other in pairs if one.size and other.size]
        if not pairs:
            continue
        different = sum(not np.array_equal(*pair, equal_nan=True) for pair in pairs)
        worst = max(difference(*pair) for pair in pairs)
        print(
            f"{name}: {different} of {len(pairs)} differ to the bit, by up to {worst:.1e} "
            f"(allowed: {0.0 if bits else allowed:.1e})"
        )
        same &= not different if bits else worst <= allowed
    return same


def difference(one: np.ndarray, other: np.ndarray) -> float:
    """Returns the largest difference; infinite where only one is finite, or shapes differ."""
    if one.shape != other.shape:
        return np.inf
    equal = (one == other) | (np.isnan(one) & np.isnan(other))
    with np.errstate(invalid="ignore"):  # of infinities of the same sign
        gap = np.where(equal, 0.0, np.abs(one - other))
    return float(np.nan_to_num(gap, nan=np.inf, posinf=np.inf).max())


if __name__ == "__main__":
    main(tyro.cli(SameRows))
