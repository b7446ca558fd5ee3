"""`BatchSearch`: searches a batch of a session's questions, and makes the rows of what it finds."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from cola_jax.errors import InputError
from cola_jax.execute.evaluator import Workload
from cola_jax.runs.journal import ResumedEvaluator
from cola_jax.runs.reuse import Reuse
from cola_jax.runs.schema import Part, search_evaluation_rows, search_question_row
from cola_jax.scoring import Encoded, Scorer
from cola_jax.scoring.robust import RobustEvaluator
from cola_jax.strategies.again import most_asked, paths_to_ask, with_again, with_robust
from cola_jax.strategies.evaluations import Evaluations
from cola_jax.strategies.loop import confirmed, search_batch
from cola_jax.strategies.outcome import Outcome
from cola_jax.strategies.rules import Settings
from cola_jax.tasks.variants import Variant


@dataclasses.dataclass(frozen=True)
class Questions:
    """What is searched: encoded questions, the other variants of each, and the model's layers."""

    scorer: Scorer
    encoded: Sequence[Encoded]
    variants: Sequence[Variant]
    num_layers: int


@dataclasses.dataclass(frozen=True)
class BatchSearch:
    """A function from the evaluator of a batch to the rows of its searches."""

    questions: Questions
    settings: Settings
    stored: Reuse | None  # what earlier runs evaluated
    robust: bool  # right is what is right in all variants

    @property
    def most_evaluations(self) -> int:
        """The most evaluations of a question: its control searches and its variants included."""
        options = max(len(encoded.question.options) for encoded in self.questions.encoded)
        searches = self.settings.searches(options)
        variants, size = len(self.questions.variants), self.settings.simulations
        if self.robust:
            return (1 + variants) * (1 + size * searches)
        again = 1 + (most_asked(1 + size) - 1) * searches  # the baseline is asked once for all
        return 1 + size * searches + variants * again

    def __call__(self, evaluate: ResumedEvaluator, some: np.ndarray) -> Part:
        """Searches the questions `some`, and returns their rows."""
        batch = [self.questions.encoded[i] for i in some]
        find = self.find_robust if self.robust else self.find
        outcomes = find(evaluate, batch, some)
        rows = list(zip(batch, outcomes, strict=True))
        improved = [outcome for outcome in outcomes if outcome.shortest_correct is not None]
        return Part(
            [row for one in rows for row in search_evaluation_rows(*one)],
            [search_question_row(*one) for one in rows],
            corrected=sum(outcome.baseline is False for outcome in improved),
            shortened=sum(bool(o.baseline) and o.shortened for o in improved),
        )

    def find(
        self, evaluate: ResumedEvaluator, batch: Sequence[Encoded], some: np.ndarray
    ) -> Sequence[Outcome]:
        """Searches a batch, and asks what was found again in the other variants."""
        settings, layers = self.settings, self.questions.num_layers
        asked = [encoded.question for encoded in batch]
        evaluations = Evaluations(evaluate, asked)
        if self.stored is not None:
            evaluations.add(*self.stored.verdicts(batch, settings.positions(layers)))
        outcomes = confirmed(evaluate, search_batch(evaluations, asked, layers, settings))
        if not self.questions.variants:
            return outcomes
        evaluate.close()  # its memory serves for the variants
        paths = paths_to_ask(outcomes, settings.positions(layers))
        workload, verdicts, places = Workload(*paths.shape[1:], fixed=True), [], []
        for v, variant in enumerate(self.questions.variants):
            rows = [variant.encoded[i] for i in some]
            ask = variant.scorer.evaluator(evaluate.worker, rows, workload)
            with evaluate.journal.evaluator(ask, rows, 1 + v) as resumed:
                verdicts.append(resumed(paths))
            places.append([variant.places[i] for i in some])
        return with_again(outcomes, verdicts, places)

    def find_robust(
        self, evaluate: ResumedEvaluator, batch: Sequence[Encoded], some: np.ndarray
    ) -> Sequence[Outcome]:
        """Searches a batch for paths that are right in all variants of its questions."""
        evaluate.close()  # its memory serves for all variants
        variants, layers = self.questions.variants, self.questions.num_layers
        batches = [batch, *([variant.encoded[i] for i in some] for variant in variants)]
        options = [tuple(range(len(encoded.question.options))) for encoded in batch]
        places = [options, *([variant.places[i] for i in some] for variant in variants)]
        workload, scorer = self.settings.workload(layers), self.questions.scorer
        robust = RobustEvaluator(scorer, evaluate.worker, batches, places, workload)
        # the answers to the first path are needed in each variant, and are not stored
        with evaluate.journal.evaluator(robust, batch, always_first=True) as resumed:
            asked = [encoded.question for encoded in batch]
            outcomes = confirmed(resumed, search_batch(resumed, asked, layers, self.settings))
            assert robust.asked.all(), "a search begins with the identity path"
            return with_robust(outcomes, robust.plain, robust.plain_scores)


def check_robust(scorer: Scorer, variants: Sequence[Variant], reuse: Sequence[str]) -> None:
    """Raises ValueError where a robust search cannot be made."""
    if not variants:
        raise InputError(
            "a robust search needs another way to ask each question: give variants, such as chat."
        )
    if scorer.decodes:
        raise InputError(
            f"the scorer {scorer.name!r} decodes answers, which a robust search does not: leave it "
            "out, and what the search finds is asked again in the variants."
        )
    if reuse:
        raise InputError("a robust search evaluates all variants: it can reuse no other run.")
