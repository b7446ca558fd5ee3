"""Controls: searches for wrong answers, and right paths asked again in other variants.

With enough perturbed networks some path gives any answer, and any answer is kept on fewer layers.
So hits of gold are compared with those of wrong answers that the model does not give, and layers
saved on right answers with those saved on the model's own wrong answers. And a path that is right
by luck is wrong when the question is asked in another way.
"""

import dataclasses
from collections.abc import Callable, Collection, Sequence

import numpy as np

from cola_jax.path import STOP, pad_lists
from cola_jax.question import Question, stable_hash
from cola_jax.scoring.scorer import Evaluate
from cola_jax.scoring.verdicts import NO_ANSWER, Verdicts
from cola_jax.strategies.outcome import ROOT, Again, Outcome
from cola_jax.strategies.rules import Control

MOST = 4  # right paths of a search that are asked again
FIRST = 25  # evaluations of the first budget

# of each variant and question: the place of each of its options in the variant
Places = Sequence[Sequence[Sequence[int]]]


def control_targets(question: Question, answers: Collection[int], control: Control) -> list[int]:
    """Return the options that a question is searched for beside gold, in order.

    `answers` are the pretrained model's, one for each variant. There are no controls where one is
    gold, since the search for gold then only keeps its answer. Otherwise the controls are the wrong
    options that it gives in no variant, or with `one` a single one by a hash of the id; then, where
    options are offered, the wrong answer that it gives in all variants, which its search keeps.
    """
    if control == "none" or question.answer in answers:
        return []
    options = range(len(question.options))
    others = [j for j in options if j != question.answer and j not in answers]
    if control == "one" and others:
        others = [others[stable_hash(f"control {question.id}") % len(others)]]
    kept = set(answers)
    keeps = len(kept) == 1 and kept <= set(options) and not question.open
    return [*others, *kept] if keeps else others


def without_control(questions: Sequence[Question], control: Control) -> list[str]:
    """Return the ids of questions without a wrong answer for a control search."""
    if control == "none":
        return []
    return [question.id for question in questions if len(question.options) < 2]


def in_order(verdicts: Verdicts, place: Sequence[int]) -> Verdicts:
    """Put the options of a variant's verdicts in the order of the question."""
    option = np.append(np.argsort(place), NO_ANSWER)  # the last is that of NO_ANSWER
    return verdicts._replace(
        answer=option[verdicts.answer], scores=verdicts.scores[..., list(place)]
    )


def in_variants(
    verdicts: Verdicts, places: Places, question: int, index: int | np.ndarray
) -> list[Verdicts]:
    """Take a question's verdicts in each variant from [V * B, C], the first variant's first."""
    size = len(places[0])
    return [
        in_order(verdicts.take((v * size + question, index)), of_questions[question])
        for v, of_questions in enumerate(places)
    ]


def robust(evaluate: Evaluate, questions: Sequence[Question], places: Places) -> Evaluate:
    """Combine evaluations of V variants of B questions: a path must be right in all of them.

    `evaluate` takes paths [V * B, C, P], those of the first variant first. In the verdicts, an
    option's score is the least of its margins in any variant; the answer is that of all, or none.
    """

    def evaluate_all(paths: np.ndarray) -> Verdicts:
        verdicts = evaluate(np.tile(paths, (len(places), 1, 1)))
        out = Verdicts.empty(paths.shape[:2], max(len(each.options) for each in questions))
        for b, question in enumerate(questions):
            present = np.flatnonzero(paths[b, :, 0] != STOP)
            variants = in_variants(verdicts, places, b, present)
            options = range(len(question.options))
            margins = [
                np.stack([each.of_target(j).margin for j in options], axis=1) for each in variants
            ]
            answers = np.stack([each.answer for each in variants])
            agreed = np.where((answers == answers[:1]).all(axis=0), answers[0], NO_ANSWER)
            least = Verdicts.of_scores(
                np.min(margins, axis=0),
                question.answer,
                np.all([each.finite for each in variants], axis=0),
                answer=agreed,
                outside=np.nan,
                log_likelihoods=np.all([each.log_likelihoods for each in variants], axis=0),
            )
            out.put((b, present), least)
        return out

    return evaluate_all


def plain_answers(plain: Verdicts, places: Places) -> list[list[int]]:
    """Return the answers to each question in each variant, as options; see `with_robust`."""
    size = len(places[0])
    return [[int(x.answer) for x in in_variants(plain, places, b, 0)] for b in range(size)]


def with_robust(outcomes: Sequence[Outcome], plain: Verdicts, places: Places) -> list[Outcome]:
    """Add the answers of the pretrained model to searches for paths right in all variants.

    `plain` are the verdicts of the identity path, fields [V * B, 1], the first variant's first.
    """

    def add(b: int, outcome: Outcome) -> Outcome:
        variants = in_variants(plain, places, b, 0)
        first, *answers = (int(variant.answer) for variant in variants)
        scores = np.stack([variant.scores for variant in variants])

        def of_search(search: Outcome) -> Again:
            nodes = nodes_to_ask(search)
            holds = np.repeat(search.verdicts.verdict[nodes][:, None], len(answers), axis=1)
            holds[0] = np.array(answers) == search.target
            return Again(nodes, holds, answers, scores, first)

        return for_each_search(outcome, of_search)

    return [add(b, outcome) for b, outcome in enumerate(outcomes)]


def with_again(
    outcomes: Sequence[Outcome], verdicts: Sequence[Verdicts], places: Places
) -> list[Outcome]:
    """Add the answers on `paths_to_ask` to outcomes; verdicts of each variant are [B, C]."""

    def add(b: int, outcome: Outcome) -> Outcome:
        variants = [
            in_order(v.take(b), place[b]) for v, place in zip(verdicts, places, strict=True)
        ]
        column = columns(outcome)
        root = column[outcome.paths[ROOT]]
        first = outcome.verdicts.scores[ROOT, : len(outcome.question.options)]
        scores = np.stack([first, *(each.scores[root] for each in variants)])
        plain = [int(each.answer[root]) for each in variants]

        def of_search(search: Outcome) -> Again:
            nodes = nodes_to_ask(search)
            indices = [column[search.paths[i]] for i in nodes]
            answers = np.stack([each.answer[indices] for each in variants], axis=1)
            return Again(nodes, answers == search.target, plain, scores)

        return for_each_search(outcome, of_search)

    return [add(b, outcome) for b, outcome in enumerate(outcomes)]


def for_each_search(outcome: Outcome, again: Callable[[Outcome], Again]) -> Outcome:
    """Add the answers in other variants to a search and to its control searches."""
    controls = tuple(for_each_search(control, again) for control in outcome.controls)
    return dataclasses.replace(outcome, again=again(outcome), controls=controls)


def nodes_to_ask(outcome: Outcome) -> list[int]:
    """Return the evaluations to ask again: the baseline, and up to four right ones.

    These are the shortest and those of the largest margins, of all evaluations and of the first 25,
    50, 100, ..., so that a search tells its result with fewer.
    """
    verdicts, chosen = outcome.verdicts, [ROOT]
    for size in (*budgets(outcome.evaluations), outcome.evaluations):
        right = np.flatnonzero((verdicts.verdict & verdicts.graded)[:size])
        surest = right[np.argsort(-verdicts.margin[right], kind="stable")]
        shortest = surest[np.argsort(outcome.lengths[surest], kind="stable")][:1]
        chosen += list(dict.fromkeys([*shortest.tolist(), *surest.tolist()]))[:MOST]
    return list(dict.fromkeys(chosen))


def budgets(evaluations: int) -> list[int]:
    """Return 26, 51, 101, ... below the number of evaluations, the baseline included."""
    sizes = [1 + FIRST * 2**n for n in range(evaluations.bit_length())]
    return [size for size in sizes if size < evaluations]


def paths_to_ask(outcomes: Sequence[Outcome], positions: int) -> np.ndarray:
    """Return the paths [B, C, P] to ask again of the searches of each question."""
    return pad_lists([list(columns(outcome)) for outcome in outcomes], positions)


def columns(outcome: Outcome) -> dict[tuple[int, ...], int]:
    """Number the paths to ask again of a question, each once."""
    searches = (outcome, *outcome.controls)
    every = [search.paths[i] for search in searches for i in nodes_to_ask(search)]
    return {path: c for c, path in enumerate(dict.fromkeys(every))}
