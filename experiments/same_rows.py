"""Whether two runs found the same: `python -m experiments.same_rows RUN OTHER`.

The paths of every question and target must be the same, and margins equal within 1e-4, relative to
the largest if that is above 1; verdicts must be equal wherever a margin is above 1e-3. Prints what
differs, and exits with status 1 if anything does.
"""

import dataclasses
import io
import sys
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import tyro
from etils import epath
from tyro.conf import Positional

from cola_jax.path import format_path
from cola_jax.runs.run import Run, check_once

TOLERANCE = 1e-4  # of margins
CLEAR = 1e-3  # a margin above which no rounding changes a verdict
COLUMNS = ["question", "target", "control", "path", "verdict", "margin"]
SHOWN = 20  # differences printed

Key = tuple[str, int | None, tuple[int, ...]]  # question, target of a control search, path


@dataclasses.dataclass(frozen=True)
class SameRows:
    """Compare the paths, verdicts and margins of two runs."""

    run: Positional[str]
    other: Positional[str]


def main(settings: SameRows) -> None:
    lines = differences(Run(settings.run), Run(settings.other))
    print("\n".join([*lines[:SHOWN], f"{len(lines)} differences"]))
    sys.exit(1 if lines else 0)


def differences(run: Run, other: Run) -> list[str]:
    """Describe each evaluation in which two runs differ."""
    rows, others = read_rows(run), read_rows(other)
    margins = np.abs([margin for each in (rows, others) for _, margin in each.values()])
    limit = TOLERANCE * max([1.0, *margins[np.isfinite(margins)]])
    lines = [f"{shown(key)} is in one run only" for key in rows.keys() ^ others.keys()]
    for key in sorted(rows.keys() & others.keys(), key=shown):
        (verdict, margin), (other_verdict, other_margin) = rows[key], others[key]
        if margin != other_margin and not abs(margin - other_margin) <= limit:
            lines.append(f"{shown(key)} has margins {margin:.6g} and {other_margin:.6g}")
        elif verdict != other_verdict and abs(margin) > CLEAR:
            lines.append(f"{shown(key)} has verdicts {verdict} and {other_verdict}")
    return lines


def read_rows(run: Run) -> dict[Key, tuple[bool | None, float]]:
    """Read the verdict and the margin of every evaluation; a question twice is an error.

    Reads the tables as they are, so that runs of two versions can be compared.
    """
    rows, questions = {}, []
    for part in run.parts():
        questions += read_table(part["questions"], ["question"])
        for row in read_table(part["evaluations"], COLUMNS):
            key = row["question"], row["target"] if row["control"] else None, tuple(row["path"])
            rows[key] = row["verdict"], row["margin"]
    check_once(run.directory, [row["question"] for row in questions])
    return rows


def read_table(file: epath.Path, columns: list[str]) -> list[dict[str, Any]]:
    """Read columns of a Parquet file."""
    return pq.ParquetFile(io.BytesIO(file.read_bytes())).read(columns).to_pylist()


def shown(key: Key) -> str:
    """Write the name of an evaluation."""
    question, target, path = key
    search = "" if target is None else f", search for option {target}"
    return f"question {question}{search}, path {format_path(path)}"


if __name__ == "__main__":
    main(tyro.cli(SameRows))
