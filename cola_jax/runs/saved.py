"""`save_run`: a search made in Python, as a run directory that `cola report` reads."""

import dataclasses
import os

from cola_jax.checkpoint import identity, read_metadata
from cola_jax.runs.directory import RunDirectory
from cola_jax.runs.machine import machine
from cola_jax.runs.schema import search_evaluation_rows, search_question_row
from cola_jax.scoring.evaluator import ModelEvaluator
from cola_jax.strategies.outcome import Outcomes


def save_run(
    directory: str | os.PathLike[str], outcomes: Outcomes, evaluate: ModelEvaluator
) -> RunDirectory:
    """Write the outcomes of a search as a run directory.

    Args:
      directory: a new one.
      outcomes: from `cola_jax.search`.
      evaluate: from `cola_jax.evaluator`, that of the search.

    Returns:
      The run; `cola report DIRECTORY` shows it.

    Raises:
      InputError: for a directory that has other files, or a run of other settings.
    """
    settings, scorer = outcomes.settings, evaluate.scorer
    source = evaluate.model.checkpoint
    recorded = {
        "command": "search",
        "strategy": settings.preset.name,
        **dataclasses.asdict(settings),
        **scorer.record(),
        "scorer": scorer.name,
        "chat": scorer.chat,
        "questions": len(outcomes),
        "dtype": str(evaluate.model.embedding.dtype),
        "model": None if source is None else identity(read_metadata(source)),
    }
    environment = {
        "model": source,
        "num_layers": evaluate.num_layers,
        "scorer": {"open": scorer.open, "decodes": scorer.decodes},
        **machine(),
    }
    rows = list(zip(evaluate.encoded, outcomes, strict=True))
    with RunDirectory(directory).open(recorded, environment, again=True) as run:
        run.write(
            [row for pair in rows for row in search_evaluation_rows(*pair)],
            [search_question_row(*pair) for pair in rows],
        )
    return run
