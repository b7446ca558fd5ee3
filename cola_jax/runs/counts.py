"""How far a session is, the earlier starts of its run included."""

import dataclasses
from collections.abc import Callable

from cola_jax.runs.directory import RunDirectory


@dataclasses.dataclass
class Counts:
    """How far a session is, for whoever watches; the numbers of earlier starts included."""

    total: int  # evaluations expected; a search that runs out of paths makes fewer
    evaluations: int = 0
    fixed: int = 0  # wrong answers made right
    shortened: int = 0  # right answers that need fewer layers


Watch = Callable[[Counts], None]


def earlier(run: RunDirectory, num_layers: int, left: int) -> Counts:
    """Counts what earlier starts of a run have done, and the evaluations still to come."""
    rows = run.questions(["evaluations", "baseline", "best"]).to_pylist()
    right = [row for row in rows if row["best"] is not None]
    evaluations = sum(row["evaluations"] for row in rows)
    return Counts(
        total=evaluations + left,
        evaluations=evaluations,
        fixed=sum(row["baseline"] is False for row in right),
        shortened=sum(bool(row["baseline"]) and len(row["best"]) < num_layers for row in right),
    )
