"""The loop that every strategy runs in, a wave at a time."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from cola_jax.errors import InputError, did_you_mean, shown
from cola_jax.path import LayerPath, identity
from cola_jax.scoring.evaluations import Evaluations
from cola_jax.scoring.verdicts import Completion, Verdicts
from cola_jax.strategies.controls import control_targets
from cola_jax.strategies.outcome import ROOT, History, Leaf, Outcome
from cola_jax.strategies.rules import PRESETS, Rules, Settings, TreeRules, check_renamed
from cola_jax.strategies.trees import Trees
from cola_jax.strategies.walks import Walks


class Proposing(Protocol):
    """S searches that propose paths, a wave at a time."""

    def propose(self, wanted: Sequence[bool]) -> list[list[Leaf]]:
        """Return the leaves of a wave of the searches that are wanted; none at their ends."""
        ...

    def take(self, verdicts: Sequence[Verdicts | None]) -> None:
        """Take the verdicts of the leaves that were proposed last; None where none were."""
        ...


# Starts searches, each after the identity path
Start = Callable[[Sequence[History]], Proposing]


def ignore_steps(steps: int) -> None:
    """No-op."""


def resolve(strategy: str | Rules) -> Rules:
    """Return a preset by its name; InputError with the list of names for an unknown name."""
    if isinstance(strategy, Rules):
        return strategy
    check_renamed(str(strategy))
    if not isinstance(strategy, str) or strategy not in PRESETS:
        near = did_you_mean(str(strategy), PRESETS)
        raise InputError(f"preset {shown(strategy)} is not one of {', '.join(PRESETS)}{near}.")
    return PRESETS[strategy]


def search_batch(
    evaluations: Evaluations,
    num_layers: int,
    settings: Settings,
    on_steps: Callable[[int], None] = ignore_steps,
    start: Start | None = None,
) -> list[Outcome]:
    """Search a batch of questions in step, each for gold and for its control targets.

    The searches of a question share their evaluations: no path is evaluated twice.

    `start` starts the searches, by default those of the strategy on the host. `on_steps` is called
    with the evaluations for gold after each wave, and with those that are left over at the end, so
    that `settings.steps` of each question are counted in all.
    """
    questions = evaluations.questions
    positions = settings.positions(num_layers)
    root = [Leaf(identity(num_layers))]
    costs = settings.costs(num_layers)
    of_gold = [History(question, question.answer, b, costs) for b, question in enumerate(questions)]
    record_wave(evaluations, 0, [(history, root) for history in of_gold], positions)
    on_steps(len(of_gold))
    controls = []
    for b, history in enumerate(of_gold):
        answer = int(history.verdicts[0].answer[ROOT])
        for target in control_targets(history.question, answer, settings.control):
            controls.append(History(history.question, target, b, costs))
    record_wave(evaluations, 0, [(history, root) for history in controls], positions)
    for history in controls:
        plain = history.verdicts[0].take(ROOT)
        if plain.finite and np.isnan(plain.scores[history.target]):
            raise InputError(
                "one number a path says nothing of wrong options, so there is no control: return "
                "the scores of every option [B, C, J], or give control='none'."
            )
    every = [*of_gold, *controls]
    searches = (start or on_host(settings, num_layers))(every)
    going = [True] * len(every)
    wave = 0
    while any(going):
        wave += 1
        proposed = searches.propose(
            [
                goes_on and not (settings.early_stop and history.improved)
                for goes_on, history in zip(going, every, strict=True)
            ]
        )
        going = [bool(leaves) for leaves in proposed]
        leaves = [(history, row) for history, row in zip(every, proposed, strict=True) if row]
        record_wave(evaluations, wave, leaves, positions)
        searches.take(
            [
                history.verdicts[-1] if row else None
                for history, row in zip(every, proposed, strict=True)
            ]
        )
        gold = (len(row) for history, row in leaves if history.target == history.question.answer)
        on_steps(sum(gold))
    on_steps(sum(settings.steps - len(history.leaves) for history in of_gold))
    outcomes: list[list[Outcome]] = [[] for _ in questions]
    for history in every:
        outcomes[history.index].append(history.outcome())
    return [dataclasses.replace(outcome, controls=tuple(others)) for outcome, *others in outcomes]


def on_host(settings: Settings, num_layers: int) -> Start:
    """Return a function that starts the searches of a strategy in this process."""
    strategy = Trees if isinstance(settings.preset, TreeRules) else Walks

    def start(histories: Sequence[History]) -> Proposing:
        roots = [history.verdicts[0] for history in histories]
        ids = [history.question.id for history in histories]
        return strategy(settings, num_layers, ids, roots)

    return start


def record_wave(
    evaluations: Evaluations,
    wave: int,
    leaves: Sequence[tuple[History, list[Leaf]]],
    positions: int,
) -> None:
    """Evaluate the leaves of several searches, and record them."""
    if not leaves:
        return
    verdicts, reused = evaluations.of_searches(
        [history.index for history, _ in leaves],
        [history.target for history, _ in leaves],
        [[leaf.path for leaf in row] for _, row in leaves],
        positions,
    )
    for s, (history, row) in enumerate(leaves):
        present = slice(len(row))
        history.record(wave, row, verdicts.take((s, present)), reused[s, present])


def paths_to_confirm(
    outcomes: Sequence[Outcome],
) -> tuple[list[LayerPath | None], list[Completion | None]]:
    """Return each shortest correct path and its completion; None without one."""
    completions = [
        None if (i := outcome.shortest_correct) is None else outcome.verdicts.completion[i]
        for outcome in outcomes
    ]
    return [outcome.best for outcome in outcomes], completions


def with_confirmed(outcomes: Sequence[Outcome], held: Sequence[bool | None]) -> list[Outcome]:
    """Add to outcomes whether `paths_to_confirm` are right in float32 too."""
    return [dataclasses.replace(o, confirmed=h) for o, h in zip(outcomes, held, strict=True)]
