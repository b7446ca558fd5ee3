"""Searches as rows of a run: those of a session, batch by batch, and one made in Python."""

import dataclasses
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cola_jax import checkpoint
from cola_jax.errors import InputError
from cola_jax.execute.metrics import Metrics
from cola_jax.execute.plan import Workload
from cola_jax.execute.reference import block_influence
from cola_jax.execute.worker import Worker
from cola_jax.path import identity, pad_path
from cola_jax.prompts import Prompts
from cola_jax.runs.devices import machine
from cola_jax.runs.run import MANIFEST, Run
from cola_jax.runs.schema import Part, search_part
from cola_jax.runs.stored import Reuse
from cola_jax.scoring import Encoded
from cola_jax.scoring.evaluator import Evaluations, ModelEvaluator
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
from cola_jax.strategies.outcome import Outcome, Outcomes
from cola_jax.strategies.rules import InfluenceRules, Settings
from cola_jax.tasks.variants import Variant

if TYPE_CHECKING:
    from cola_jax.runs.session import Session


@dataclasses.dataclass(frozen=True)
class BatchSearch:
    """A function from a batch of a session's questions to the rows of its searches."""

    session: "Session"
    run: Run
    settings: Settings
    stored: Reuse | None  # evaluations of other runs
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
        batch = [self.session.encoded[i] for i in indices]
        variants = [variant.take(indices.tolist()) for variant in self.session.variants]
        if not self.robust:
            return search_part(batch, self.search(worker, batch, variants, workload))
        part = search_part(batch, self.search_robust(worker, batch, variants, workload))
        # a verdict combines several prompts, so no other search can reuse it
        return part._replace(evaluations=[row | {"asked": None} for row in part.evaluations])

    def search(
        self,
        worker: Worker,
        batch: Sequence[Encoded],
        variants: Sequence[Variant],
        workload: Workload,
    ) -> Sequence[Outcome]:
        """Search a batch, and ask for the best paths again in its variants."""
        layers, scorer = self.session.num_layers, self.session.scorer
        positions, known = self.settings.positions(layers), None
        if self.stored is not None:
            known = [self.stored.known(encoded, positions) for encoded in batch]
        with scorer.evaluator(worker, batch, workload) as evaluate:
            evaluations = self.run.resume(evaluate, batch, known=known, call_size=scorer.call_size)
            outcomes = search_batch(evaluations, layers, self.settings)
        held = scorer.confirm(worker, batch, workload, *paths_to_confirm(outcomes))
        outcomes = with_confirmed(outcomes, held)
        if not variants:
            return outcomes
        paths = paths_to_ask(outcomes, positions)
        verdicts = [self.ask(worker, variant, paths) for variant in variants]
        return with_again(outcomes, verdicts, [variant.places for variant in variants])

    def ask(self, worker: Worker, variant: Variant, paths: np.ndarray) -> Verdicts:
        """Evaluate paths [B, C, P] on the questions of a batch in another variant."""
        workload, scorer = Workload(*paths.shape[1:]), variant.scorer
        with scorer.evaluator(worker, variant.encoded, workload) as evaluate:
            return self.run.resume(evaluate, variant.encoded, call_size=scorer.call_size)(paths)

    def search_robust(
        self,
        worker: Worker,
        batch: Sequence[Encoded],
        variants: Sequence[Variant],
        workload: Workload,
    ) -> Sequence[Outcome]:
        """Search a batch for paths that are right in all variants of its questions."""
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
        return with_robust(with_confirmed(outcomes, agreed), plain, places)


def recorded_search(settings: Settings) -> dict[str, Any]:
    """Return the settings of a search as a run records them."""
    name = {"command": "search", "strategy": settings.preset.name}
    return name | dataclasses.asdict(settings)


def ordered(
    session: "Session", directory: str, settings: Settings, metrics: Metrics | None
) -> Settings:
    """Order the layers by their influence on the first questions for rules that need it.

    A run keeps its order.
    """
    rules = settings.preset
    if not isinstance(rules, InfluenceRules) or rules.order:
        return settings
    run = Run(directory)
    run.refuse_foreign()  # before the weights load
    before = run.settings() if (run.directory / MANIFEST).exists() else {}
    if len(session.first) <= (before.get("questions") or 0):
        # a run of another strategy is refused later
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
    with Run(directory).open(recorded, environment, again=True) as run:
        run.replace(*search_part(evaluate.encoded, outcomes))
    return run
