"""The results of a run in a few lines: of its searches, or of the paths that it evaluated."""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cola_jax.scoring.evaluation_summary import EvaluationSummary
from cola_jax.strategies.reached import Case, Ways

# of the questions of a search, and of the evaluations of given paths
COLUMNS = ["question", "options", "gold", "baseline", "baseline_answer", "baseline_scores"]
COLUMNS += ["again_answers", "best", "again", "controls"]
VERDICTS = ["question", "node", "verdict"]


def scorer_flag(manifest: Mapping[str, Any], name: str) -> bool:
    """Return a flag of the scorer (`open`, `decodes`), False where it was not recorded."""
    return bool((manifest["starts"][-1].get("scorer") or {}).get(name))


def ways_of(manifest: Mapping[str, Any], questions: pa.Table) -> Ways:
    """Tell what the searches of a run reached, from its manifest and its questions."""
    rows = questions.filter(pc.field("baseline").is_valid()).select(COLUMNS)
    cases = [Case.of(row) for batch in rows.to_batches() for row in batch.to_pylist()]
    combined = bool(manifest["settings"].get("robust"))  # of an earlier version
    return Ways.of(cases, weighted=not scorer_flag(manifest, "open"), combined=combined)


def summarise_evaluation(manifest: Mapping[str, Any], evaluations: pa.Table) -> EvaluationSummary:
    """Summarise a run of given paths, from its manifest and its evaluations."""
    paths = [tuple(path) for path in manifest["settings"]["paths"]]
    right: dict[tuple[int, ...], dict[str, bool]] = {path: {} for path in paths}
    rows = evaluations.select(VERDICTS).to_pydict()
    for question, node, verdict in zip(*rows.values(), strict=True):
        if verdict is not None:  # ungraded
            right[paths[node]][question] = verdict
    return EvaluationSummary.of(right, manifest["starts"][-1]["num_layers"])
