"""Controls: searches for wrong answers, and the best paths asked again in other wordings.

With enough perturbed networks some path gives any answer, and any answer is kept on fewer layers.
So hits of gold are compared with those of wrong answers that the model does not give, and layers
saved on right answers with those saved on the model's own wrong answers. And a path that is right
by luck is wrong when the question is asked in another way.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from cola_jax.path import LayerPath, pad_lists
from cola_jax.question import Question, stable_hash
from cola_jax.scoring.verdicts import NO_ANSWER, Verdicts
from cola_jax.strategies.outcome import ROOT, Again, Outcome
from cola_jax.strategies.rules import Control

# of each wording and question: its options in the order in which the wording lists them
Orders = Sequence[Sequence[Sequence[int]]]


def control_targets(question: Question, answer: int, control: Control) -> list[int]:
    """Return the options that a question is searched for beside gold, in order.

    `answer` is the pretrained model's. There are no controls where it is gold, since the search for
    gold then only keeps it. Otherwise the controls are the other wrong options, or with `one` a
    single one by a hash of the id; then, where options are offered, the model's own wrong answer,
    which its search keeps.
    """
    if control == "none" or answer == question.answer:
        return []
    options = range(len(question.options))
    others = [j for j in options if j not in (question.answer, answer)]
    if control == "one" and others:
        others = [others[stable_hash(f"control {question.id}") % len(others)]]
    return [*others, answer] if answer in options and not question.open else others


def without_control(questions: Sequence[Question], control: Control) -> list[str]:
    """Return the ids of questions without a wrong answer for a control search."""
    if control == "none":
        return []
    return [question.id for question in questions if len(question.options) < 2]


def in_order(verdicts: Verdicts, order: Sequence[int]) -> Verdicts:
    """Put the options of verdicts, which are listed in an order, in that of the question."""
    option = np.append(order, NO_ANSWER)  # the last is that of NO_ANSWER
    return verdicts._replace(
        answer=option[verdicts.answer],
        scores=verdicts.scores[..., np.argsort(order)],
        answer_logprobs=verdicts.answer_logprobs[..., np.argsort(order)],
    )


def with_again(
    outcomes: Sequence[Outcome], verdicts: Sequence[Verdicts], orders: Orders
) -> list[Outcome]:
    """Add the answers on `paths_to_ask` to outcomes; verdicts in each wording are [B, C]."""

    def add(b: int, outcome: Outcome) -> Outcome:
        wordings = [
            in_order(v.take(b), order[b]) for v, order in zip(verdicts, orders, strict=True)
        ]
        column = columns(outcome)
        root = column[outcome.paths[ROOT]]
        first = outcome.verdicts.take([ROOT])
        options = len(outcome.question.options)
        asked = [first, *(each.take([root]) for each in wordings)]
        scores = np.concatenate([each.scores[:, :options] for each in asked])
        logprobs = np.concatenate([each.answer_logprobs[:, :options] for each in asked])
        plain = [int(each.answer[root]) for each in wordings]

        def of_search(search: Outcome) -> Again:
            nodes = nodes_to_ask(search)
            indices = [column[search.paths[i]] for i in nodes]
            answers = np.stack([each.answer[indices] for each in wordings], axis=1)
            return Again(nodes, answers == search.target, plain, scores, logprobs)

        controls = [dataclasses.replace(x, again=of_search(x)) for x in outcome.controls]
        return dataclasses.replace(outcome, again=of_search(outcome), controls=tuple(controls))

    return [add(b, outcome) for b, outcome in enumerate(outcomes)]


def nodes_to_ask(outcome: Outcome) -> list[int]:
    """Return the evaluations to ask again: the identity path, and the shortest correct path."""
    best = outcome.shortest_correct
    return [ROOT] if best in (None, ROOT) else [ROOT, best]


def paths_to_ask(outcomes: Sequence[Outcome], positions: int) -> np.ndarray:
    """Return the paths [B, C, P] to ask again of the searches of each question."""
    return pad_lists([list(columns(outcome)) for outcome in outcomes], positions)


def columns(outcome: Outcome) -> dict[LayerPath, int]:
    """Number the paths to ask again of a question, each once."""
    searches = (outcome, *outcome.controls)
    every = [search.paths[i] for search in searches for i in nodes_to_ask(search)]
    return {path: c for c, path in enumerate(dict.fromkeys(every))}
