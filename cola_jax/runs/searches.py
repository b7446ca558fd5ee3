"""Searches as rows of a run: those of a session, batch by batch, and one made in Python."""

import dataclasses
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cola_jax import checkpoint
from cola_jax.errors import InputError, check_belongs, shown
from cola_jax.metrics import Metrics
from cola_jax.runs.compare import deciding
from cola_jax.runs.devices import machine
from cola_jax.runs.run import Path, Run
from cola_jax.runs.schema import asked_digest, by_question, known_verdicts, search_part
from cola_jax.scoring import Encoded
from cola_jax.scoring.grader import Grade
from cola_jax.scoring.verdicts import Verdicts
from cola_jax.strategies.loop import asked_questions
from cola_jax.strategies.outcomes import Outcomes
from cola_jax.strategies.rules import InfluenceRules, Settings

if TYPE_CHECKING:
    from cola_jax.runs.session import Session


class Reuse:
    """The evaluations of other runs with the same checkpoint, prompts and scorer."""

    def __init__(
        self, runs: Sequence[Run], settings: Mapping[str, Any], encoded: Sequence[Encoded]
    ):
        """Read runs; InputError for a run that cannot serve these questions."""
        self.tables: dict[str, list[pa.Table]] = defaultdict(list)
        asked = pa.array([asked_digest(each) for each in encoded])
        ungraded = pc.field("grade").isin([Grade.UNGRADED.value])
        ours, action = deciding(settings), "reuse runs of the same model and scorer"
        for run in runs:
            name = str(run.directory)
            check_belongs(name, deciding(run.settings()), "this command", ours, action)
            rows = run.evaluations().filter(pc.field("asked").isin(asked) & ~ungraded)
            if not rows.num_rows:
                raise InputError(
                    f"{name} has none of these questions in the same words: its questions or "
                    "their prompts differ."
                )
            for question, table in by_question(rows).items():
                self.tables[question].append(table)

    def known(self, encoded: Encoded, positions: int) -> dict[Path, Verdicts]:
        """Return the verdict [1] of each path of a question with at most `positions` layers."""
        known = known_verdicts(self.tables[encoded.question.id], encoded)
        return {path: verdict for path, verdict in known.items() if len(path) <= positions}


def recorded_search(settings: Settings) -> dict[str, Any]:
    """Return the settings of a search as a run records them."""
    name = {"command": "search", "strategy": settings.preset.name}
    return name | dataclasses.asdict(settings)


def fitted(
    session: "Session", directory: str, settings: Settings, metrics: Metrics | None
) -> Settings:
    """Fit rules to the model: the period of its kinds of layers, and their order by influence.

    Influence is that on the first questions.
    """
    rules = settings.preset
    if not rules.block_multiple:
        rules = dataclasses.replace(rules, block_multiple=session.handle.config.period)
        settings = dataclasses.replace(settings, preset=rules)
    if not isinstance(rules, InfluenceRules) or rules.order:
        return settings
    run = Run(directory)
    before = run.settings() if run.exists() else {}  # before the weights load
    if len(session.first) <= before.get("questions", 0):
        # the run keeps its order; one of another strategy is refused later
        order = (before.get("preset") or {}).get("order", ())
    else:
        influence = session.influence(metrics)
        order = np.argsort(influence, kind="stable").tolist()
    return dataclasses.replace(settings, preset=dataclasses.replace(rules, order=tuple(order)))


def check_robust(session: "Session", reuse: Sequence[str]) -> None:
    """Raise InputError where a robust search cannot be made."""
    if not session.variants:
        raise InputError(
            "a robust search needs another way to ask each question: give variants, such as chat."
        )
    if session.scorer.decodes:
        raise InputError(
            f"the scorer {session.scorer.name!r} decodes answers, which a robust search does not: "
            "leave out --robust, and the best paths are asked again in the variants."
        )
    if reuse:
        raise InputError("a robust search evaluates all variants: it can reuse no other run.")


def save_run(outcomes: Outcomes, directory: str | os.PathLike[str]) -> Run:
    """Write the outcomes of a search of a model as a run directory.

    Raises InputError for a directory that has other files, or a run of other settings.
    """
    asked = asked_questions(outcomes, "save_run(outcomes, directory)")
    if not isinstance(directory, str | os.PathLike):
        raise InputError(f"a run is saved in a directory, not in {shown(directory)}.")
    settings, scorer, source = outcomes.settings, asked.scorer, asked.model.checkpoint
    recorded = {
        **recorded_search(settings),
        **scorer.record(),
        "scorer": scorer.name,
        "chat": scorer.chat,
        "questions": len(outcomes),
        "dtype": str(asked.model.embedding.dtype),
        "model": checkpoint.digest_of(asked.model),
    }
    environment = {
        "model": source,
        "num_layers": asked.model.config.num_layers,
        "scorer": {"open": scorer.open, "decodes": scorer.decodes},
        **machine(),
    }
    with Run(directory).open(recorded, environment) as run:
        run.replace(search_part(asked.encoded, outcomes))
    return run
