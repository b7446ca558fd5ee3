"""The results of a run in a few lines: of its searches, or of the paths that it evaluated."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from cola_jax.errors import InputError, shown
from cola_jax.scoring.evaluation_summary import EvaluationSummary
from cola_jax.strategies.reached import Case, Ways
from cola_jax.strategies.summary import SearchSummary

if TYPE_CHECKING:
    from cola_jax.runs.run import Run

COLUMNS = ["question", "options", "gold", "baseline", "baseline_answer", "baseline_scores"]
COLUMNS += ["variant_answers", "best", "robust", "again", "controls"]


def scorer_flag(manifest: Mapping[str, Any], name: str) -> bool:
    """Return a flag of the scorer (`open`, `decodes`), False where it was not recorded."""
    return bool((manifest["starts"][-1].get("scorer") or {}).get(name))


def read_ways(run: "Run", questions: pa.Table | None = None) -> Ways:
    """Read what the searches of a run reached, from its questions if they are at hand."""
    manifest = run.manifest()
    table = run.questions(COLUMNS) if questions is None else questions
    rows = table.filter(pc.field("baseline").is_valid()).select(COLUMNS)
    cases = [Case.of(row) for batch in rows.to_batches() for row in batch.to_pylist()]
    robust = bool(manifest["settings"].get("robust"))
    return Ways.of(cases, robust=robust, weighted=not scorer_flag(manifest, "open"))


def read_summary(run: "Run") -> SearchSummary | EvaluationSummary:
    """Summarise a run of searches or of given paths; InputError for one of another command."""
    manifest = run.manifest()
    settings, num_layers = manifest["settings"], manifest["starts"][-1]["num_layers"]
    if settings.get("command") == "search":
        return SearchSummary.of(read_ways(run), num_layers)
    if "paths" not in settings:
        raise InputError(
            f"{run.directory} was made by {shown(settings.get('command'))}, not by a search or an "
            f"evaluation of given paths: see `cola report {run.directory}`."
        )
    paths = [tuple(path) for path in settings["paths"]]
    right: dict[tuple[int, ...], dict[str, bool]] = {path: {} for path in paths}
    rows = run.evaluations(["question", "node", "verdict"]).to_pydict()
    for question, node, verdict in zip(*rows.values(), strict=True):
        if verdict is not None:  # ungraded
            right[paths[node]][question] = verdict
    return EvaluationSummary.of(right, num_layers)
