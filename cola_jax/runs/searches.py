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
from cola_jax.errors import InputError, check_belongs
from cola_jax.execute.metrics import Metrics
from cola_jax.execute.plan import Workload
from cola_jax.execute.reference import block_influence
from cola_jax.execute.worker import Worker
from cola_jax.path import identity, pad_path
from cola_jax.prompts import Prompts
from cola_jax.runs.devices import machine
from cola_jax.runs.run import MANIFEST, Path, Run
from cola_jax.runs.schema import Part, asked_digest, by_question, known_verdicts, search_part
from cola_jax.runs.stored import deciding
from cola_jax.scoring import Encoded
from cola_jax.scoring.evaluations import Evaluations
from cola_jax.scoring.evaluator import ModelEvaluator
from cola_jax.scoring.grader import Grade
from cola_jax.scoring.scorer import most_options
from cola_jax.scoring.verdicts import Verdicts
from cola_jax.strategies.controls import (
    most_asked,
    paths_to_ask,
    plain_answers,
    robust,
    with_again,
    with_robust,
)
from cola_jax.strategies.loop import paths_to_confirm, search_batch, with_confirmed
from cola_jax.strategies.outcome import Outcomes
from cola_jax.strategies.rules import InfluenceRules, Settings
from cola_jax.tasks.variants import Variant

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


@dataclasses.dataclass(frozen=True)
class BatchSearch:
    """A function from a batch of a session's questions to the rows of its searches."""

    session: "Session"
    run: Run
    settings: Settings
    stored: Reuse  # evaluations of other runs
    robust: bool  # a path is right where it is right in all variants

    @property
    def most_evaluations(self) -> int:
        """The most evaluations of a question, in its control searches and variants as well."""
        searches = self.settings.searches(most_options(self.session.encoded))
        variants, size = len(self.session.variants), self.settings.simulations
        if self.robust:
            return (1 + variants) * (1 + size * searches)
        again = 1 + (most_asked(1 + size) - 1) * searches  # the baseline is asked once for all
        return 1 + size * searches + variants * again

    def __call__(self, worker: Worker, indices: np.ndarray, workload: Workload) -> Part:
        """Search the questions of a batch, and return their rows."""
        search = self.search_robust if self.robust else self.search
        return search(worker, indices.tolist(), workload)

    def take(self, indices: list[int]) -> tuple[list[Encoded], list[Variant]]:
        """Select questions, in the first and in all other variants."""
        encoded = [self.session.encoded[i] for i in indices]
        return encoded, [variant.take(indices) for variant in self.session.variants]

    def search(self, worker: Worker, indices: list[int], workload: Workload) -> Part:
        """Search a batch, and ask for the best paths again in its variants."""
        batch, variants = self.take(indices)
        layers, scorer = self.session.num_layers, self.session.scorer
        positions = self.settings.positions(layers)
        known = [self.stored.known(encoded, positions) for encoded in batch]
        with scorer.evaluator(worker, batch, workload) as evaluate:
            evaluations = self.run.resume(evaluate, batch, known=known, call_size=scorer.call_size)
            outcomes = search_batch(evaluations, layers, self.settings)
        held = scorer.confirm(worker, batch, workload, *paths_to_confirm(outcomes))
        outcomes = with_confirmed(outcomes, held)
        if variants:
            paths = paths_to_ask(outcomes, positions)
            verdicts = [self.ask(worker, variant, paths) for variant in variants]
            outcomes = with_again(outcomes, verdicts, [variant.places for variant in variants])
        return search_part(batch, outcomes)

    def ask(self, worker: Worker, variant: Variant, paths: np.ndarray) -> Verdicts:
        """Evaluate paths [B, C, P] on the questions of a batch in another variant."""
        workload, scorer = Workload(*paths.shape[1:]), variant.scorer
        with scorer.evaluator(worker, variant.encoded, workload) as evaluate:
            return self.run.resume(evaluate, variant.encoded, call_size=scorer.call_size)(paths)

    def search_robust(self, worker: Worker, indices: list[int], workload: Workload) -> Part:
        """Search a batch for paths that are right in all variants of its questions."""
        batch, variants = self.take(indices)
        layers, scorer = self.session.num_layers, self.session.scorer
        options = [tuple(range(len(encoded.question.options))) for encoded in batch]
        places = [options, *(variant.places for variant in variants)]
        rows = [*batch, *(encoded for variant in variants for encoded in variant.encoded)]
        questions = [encoded.question for encoded in batch]
        workload = workload._replace(prefix=0)
        with scorer.evaluator(worker, rows, workload) as evaluate:
            every = self.run.resume(evaluate, rows)
            root = pad_path(identity(layers), self.settings.positions(layers))
            plain = every(np.tile(root, (len(rows), 1, 1)))
            evaluations = Evaluations(robust(every, questions, places), questions)
            answers = plain_answers(plain, places)
            outcomes = search_batch(evaluations, layers, self.settings, answers)
        best, completions = paths_to_confirm(outcomes)
        repeats = len(places)
        held = scorer.confirm(worker, rows, workload, best * repeats, completions * repeats)
        by_question = [held[b :: len(batch)] for b in range(len(batch))]
        agreed = [None if None in each else all(each) for each in by_question]
        part = search_part(batch, with_robust(with_confirmed(outcomes, agreed), plain, places))
        # a verdict combines several prompts, so no other search can reuse it
        return part._replace(evaluations=[row | {"asked": None} for row in part.evaluations])


def recorded_search(settings: Settings) -> dict[str, Any]:
    """Return the settings of a search as a run records them."""
    name = {"command": "search", "strategy": settings.preset.name}
    return name | dataclasses.asdict(settings)


def ordered(
    session: "Session", directory: str, settings: Settings, metrics: Metrics | None
) -> Settings:
    """Order layers by their influence on the first questions, for rules that need it."""
    rules = settings.preset
    if not isinstance(rules, InfluenceRules) or rules.order:
        return settings
    run = Run(directory)
    run.refuse_foreign()  # before the weights load
    before = run.settings() if (run.directory / MANIFEST).exists() else {}
    if len(session.first) <= before.get("questions", 0):
        # the run keeps its order; one of another strategy is refused later
        order = (before.get("preset") or {}).get("order", ())
    else:
        prompts = Prompts.stack([encoded.prompts for encoded in session.first])
        influence = block_influence(session.handle.load(session.mesh, metrics), prompts)
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


def save_run(
    directory: str | os.PathLike[str], outcomes: Outcomes, evaluate: ModelEvaluator
) -> Run:
    """Write the outcomes of `cola_jax.search` with `evaluate` as a run directory.

    Raises InputError for a directory that has other files, or a run of other settings.
    """
    settings, scorer = outcomes.settings, evaluate.scorer
    source = evaluate.model.checkpoint
    metadata = None if source is None else checkpoint.read_metadata(source)
    recorded = {
        **recorded_search(settings),
        **scorer.record(),
        "scorer": scorer.name,
        "chat": scorer.chat,
        "questions": len(outcomes),
        "dtype": str(evaluate.model.embedding.dtype),
        "model": None if metadata is None else checkpoint.model_digest(metadata),
    }
    environment = {
        "model": source,
        "num_layers": evaluate.num_layers,
        "scorer": {"open": scorer.open, "decodes": scorer.decodes},
        **machine(),
    }
    with Run(directory).open(recorded, environment) as run:
        run.replace(*search_part(evaluate.encoded, outcomes))
    return run
