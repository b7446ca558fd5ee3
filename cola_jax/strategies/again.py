"""Asking again: whether the paths that a search found are right when a question is asked otherwise.

A path that is right by luck is wrong when the question is asked in another way, so what holds in
all variants of a question tells what the path knows.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from cola_jax.path import STOP, pad_path
from cola_jax.scoring.robust import options_at
from cola_jax.scoring.verdicts import Verdicts
from cola_jax.strategies.outcome import ROOT, Again, Outcome

MOST = 4  # right paths of a search that are asked again
FIRST = 25  # evaluations of the first budget


def nodes_to_ask(outcome: Outcome) -> list[int]:
    """Returns the evaluations to ask again: the baseline, and up to four right ones.

    The first is the shortest, the others are those of the largest margin; so for all evaluations
    and for the first 25, 50, 100, ..., so that a search tells what it would have found with fewer.
    """
    verdicts, chosen = outcome.verdicts, [ROOT]
    for size in (*budgets(outcome.evaluations), outcome.evaluations):
        right = np.flatnonzero((verdicts.verdict & verdicts.graded)[:size])
        surest = right[np.argsort(-verdicts.margin[right], kind="stable")]
        shortest = surest[np.argsort(outcome.lengths[surest], kind="stable")][:1]
        chosen += list(dict.fromkeys([*shortest.tolist(), *surest.tolist()]))[:MOST]
    return list(dict.fromkeys(chosen))


def most_asked(evaluations: int) -> int:
    """Returns the most evaluations that are asked again of a search of so many."""
    return min(evaluations, 1 + MOST * (1 + len(budgets(evaluations))))


def budgets(evaluations: int) -> list[int]:
    """Returns 26, 51, 101, ..., the baseline included, as far as a search is larger."""
    sizes = [1 + FIRST * 2**n for n in range(evaluations.bit_length())]
    return [size for size in sizes if size < evaluations]


def paths_to_ask(outcomes: Sequence[Outcome], positions: int) -> np.ndarray:
    """Returns the paths [B, C, P] that the searches of each question want asked again."""
    rows = [list(columns(outcome)) for outcome in outcomes]
    paths = np.full((len(rows), max(map(len, rows)), positions), STOP, np.int32)
    for b, row in enumerate(rows):
        for c, path in enumerate(row):
            paths[b, c] = pad_path(path, positions)
    return paths


def columns(outcome: Outcome) -> dict[tuple[int, ...], int]:
    """Numbers the paths that are asked again for a question, each once."""
    every = [one.paths[i] for one in (outcome, *outcome.controls) for i in nodes_to_ask(one)]
    return {path: c for c, path in enumerate(dict.fromkeys(every))}


def with_again(
    outcomes: Sequence[Outcome],
    verdicts: Sequence[Verdicts],
    places: Sequence[Sequence[Sequence[int]]],
) -> list[Outcome]:
    """Adds to outcomes what each of V other variants said of `paths_to_ask`.

    Args:
      verdicts: of each variant, fields [B, C].
      places: of each variant and question, where each of its options stands there.
    """
    return [
        attach(
            outcome,
            columns(outcome),
            np.stack([each.answer[b] for each in verdicts]),
            [each[b] for each in places],
            [each.scores[b] for each in verdicts],
        )
        for b, outcome in enumerate(outcomes)
    ]


def attach(
    outcome: Outcome,
    column: dict[tuple[int, ...], int],
    answers: np.ndarray,
    places: Sequence[Sequence[int]],
    scores: Sequence[np.ndarray],
) -> Outcome:
    """Adds what was answered [V, C] again, with scores [C, J], to the searches of one question."""
    nodes = nodes_to_ask(outcome)
    root = column[outcome.paths[ROOT]]
    own = outcome.verdicts.scores[ROOT]
    asked = [column[outcome.paths[i]] for i in nodes]
    targets = np.array([place[outcome.target] for place in places])
    plain = [
        list(place).index(answer) if answer in place else -1
        for place, answer in zip(places, answers[:, root], strict=True)
    ]
    there = [row[root, list(place)] for row, place in zip(scores, places, strict=True)]
    known = np.stack([own[: len(outcome.question.options)], *there])
    again = Again(nodes, (answers[:, asked] == targets[:, None]).T, plain, known)
    controls = tuple(attach(one, column, answers, places, scores) for one in outcome.controls)
    return dataclasses.replace(outcome, again=again, controls=controls)


def with_robust(
    outcomes: Sequence[Outcome],
    plain: Verdicts,
    places: Sequence[Sequence[Sequence[int]]],
) -> list[Outcome]:
    """Adds what is known of a search for paths that are right in all variants.

    Args:
      plain: of the identity path, fields [V * B, 1], all questions in the first variant first.
      places: where each option of the questions stands in each variant.
    """

    def known(outcome: Outcome, answers: list[int], scores: np.ndarray) -> Outcome:
        nodes = nodes_to_ask(outcome)
        holds = np.repeat(outcome.verdicts.verdict[nodes][:, None], len(answers) - 1, axis=1)
        holds[0] = np.array(answers[1:]) == outcome.target
        controls = tuple(known(control, answers, scores) for control in outcome.controls)
        again = Again(nodes, holds, answers[1:], scores, first=answers[0])
        return dataclasses.replace(outcome, again=again, controls=controls)

    size = len(outcomes)
    answers = plain_answers(plain, places)
    return [
        known(
            outcome,
            answers[b],
            np.stack([plain.scores[v * size + b, 0, list(p[b])] for v, p in enumerate(places)]),
        )
        for b, outcome in enumerate(outcomes)
    ]


def plain_answers(plain: Verdicts, places: Sequence[Sequence[Sequence[int]]]) -> list[list[int]]:
    """Returns the answers to each question in each variant, as options; see `with_robust`."""
    size = len(places[0])
    return [
        [
            int(options_at(plain.answer[v * size + b], np.asarray(of_questions[b]))[0])
            for v, of_questions in enumerate(places)
        ]
        for b in range(size)
    ]
