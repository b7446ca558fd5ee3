"""The loop that every strategy runs in, a wave at a time."""

import dataclasses
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Unpack

import numpy as np

from cola_jax.errors import InputError, check_keywords, did_you_mean, shown
from cola_jax.execute.plan import Workload
from cola_jax.execute.worker import Worker
from cola_jax.params import Model
from cola_jax.path import identity
from cola_jax.question import Question
from cola_jax.scoring.evaluations import Evaluations
from cola_jax.scoring.evaluator import (
    EncodedQuestions,
    EvaluatorOptions,
    ModelEvaluator,
    PathFunction,
    evaluator,
)
from cola_jax.scoring.scorer import Evaluate, Scorer
from cola_jax.scoring.verdicts import Completion, Verdicts
from cola_jax.strategies.controls import control_targets
from cola_jax.strategies.outcome import ROOT, History, Leaf, Outcome, as_ids, as_text
from cola_jax.strategies.outcomes import Outcomes
from cola_jax.strategies.rules import DEFAULT, PRESETS, Control, Rules, Settings
from cola_jax.strategies.walks import Search, searches

NO_LEAF = Leaf("")


def ignore_steps(steps: int) -> None:
    """No-op."""


def search(
    model: Model | PathFunction,
    questions: Sequence[Question],
    *,
    scorer: Scorer | str | None = None,
    preset: str | Rules = DEFAULT,
    simulations: int = 100,
    leaves: int = 16,
    seed: int = 0,
    early_stop: bool = False,
    control: Control = "all",
    num_layers: int | None = None,
    layer_costs: Sequence[float] | None = None,
    **options: Unpack[EvaluatorOptions],
) -> Outcomes:
    """Search paths for every question.

    Args:
      model: a model, with its `scorer`; or a function of your own from paths [B, C, P], padded with
        STOP, to the scores of every option [B, C, J], to a number for each path [B, C], right where
        it is 0 or more, or to Verdicts with fields [B, C].
      questions: B questions, such as those of `cola_jax.load_questions`.
      scorer: how the model is asked; as for `cola_jax.evaluate`.
      preset: the name of a strategy, or its rules.
      simulations: evaluations per question beyond the baseline; fewer where a tree runs out of
        paths.
      leaves: C, evaluations per question and wave; larger waves use staler tree statistics.
      seed: combined with a question's id into the random key of its search, which depends on
        neither the other questions nor their order.
      early_stop: end a question's search once a wrong answer is right, or a right one needs fewer
        layers.
      control: wrong options for which a question that the model gets wrong is searched as well, to
        tell skill from luck: `all` that are not its answer, `one` of them, both with a search for
        its own answer, or `none`.
      num_layers: L; needed where `model` is a function of your own.
      layer_costs: milliseconds by layer [L], which a tree weighs in place of the number of layers.
      options: of a model: chat, format and max_new_tokens of a scorer that is given by name;
        batch_size, engine, dtype, memory_budget, tile_tokens, metrics and progress, as
        `cola_jax.scoring.evaluator.EvaluatorOptions` describes them.

    Raises:
      InputError: for no questions, those that the scorer cannot ask, and invalid settings.
    """
    check_keywords(search, options, EvaluatorOptions)
    if not isinstance(layer_costs, Iterable | None):
        raise InputError(f"layer_costs must be a list [L], it is {shown(layer_costs)}.")
    costs = None if layer_costs is None else tuple(layer_costs)
    settings = Settings(resolve(preset), simulations, leaves, seed, early_stop, control, costs)
    run = evaluator(model, questions, scorer, num_layers=num_layers, **options)
    listed, layers = run.questions, run.num_layers
    settings.costs(layers)  # raises before anything runs

    def work(evaluate: Evaluate, indices: np.ndarray) -> list[Outcome]:  # Ray sends it to workers
        evaluations = Evaluations(evaluate, [listed[i] for i in indices])
        return search_batch(evaluations, layers, settings)

    outcomes: dict[int, Outcome] = {}
    for indices, batch in run.over_batches(work, settings.workload(layers), None):
        outcomes |= zip(indices.tolist(), batch, strict=True)
    return Outcomes((outcomes[i] for i in sorted(outcomes)), settings, run.asked)


def resolve(strategy: str | Rules) -> Rules:
    """Return a preset by its name; InputError with the list of names for an unknown name."""
    if isinstance(strategy, Rules):
        return strategy
    if not isinstance(strategy, str) or strategy not in PRESETS:
        near = did_you_mean(str(strategy), PRESETS)
        raise InputError(f"preset {shown(strategy)} is not one of {', '.join(PRESETS)}{near}.")
    return PRESETS[strategy]


def search_batch(
    evaluations: Evaluations,
    num_layers: int,
    settings: Settings,
    answers: Sequence[Collection[int]] | None = None,
    on_steps: Callable[[int], None] = ignore_steps,
) -> list[Outcome]:
    """Search a batch of questions in step, each for gold and for its control targets.

    The searches of a question share their evaluations: no path is evaluated twice.

    Args:
      answers: the pretrained model's in all variants of each question; that of the identity path
        when None.
      on_steps: called with the evaluations for gold after each wave, and with those that are left
        over at the end, so that `settings.steps` of each question are counted in all.
    """
    questions, positions = evaluations.questions, settings.positions(num_layers)
    root = [Leaf(as_text(identity(num_layers)))]
    of_gold = [History(question, question.answer, b) for b, question in enumerate(questions)]
    record_wave(evaluations, 0, [(history, root) for history in of_gold], positions)
    on_steps(len(of_gold))
    if answers is None:
        answers = [[int(history.verdicts[0].answer[ROOT])] for history in of_gold]
    controls = [
        History(question, target, b)
        for b, question in enumerate(questions)
        for target in control_targets(question, answers[b], settings.control)
    ]
    record_wave(evaluations, 0, [(history, root) for history in controls], positions)
    for history in controls:
        plain = history.verdicts[0].take(ROOT)
        if plain.finite and np.isnan(plain.scores[history.target]):
            raise InputError(
                "one number a path says nothing of wrong options, so there is no control: return "
                "the scores of every option [B, C, J], or give control='none'."
            )
    start, wave = searches(settings, num_layers), 0
    running = [
        (history, start(history.question.id, history.verdicts[0]))
        for history in (*of_gold, *controls)
    ]
    while running:
        wave += 1
        proposed = [
            (history, search, advance(search, history.verdicts[-1] if wave > 1 else None))
            for history, search in running
            if not (settings.early_stop and history.improved)
        ]
        running = [(history, search) for history, search, leaves in proposed if leaves]
        leaves = [(history, leaves) for history, _, leaves in proposed if leaves]
        record_wave(evaluations, wave, leaves, positions)
        gold = (len(row) for history, row in leaves if history.target == history.question.answer)
        on_steps(sum(gold))
    on_steps(sum(settings.steps - len(history.leaves) for history in of_gold))
    outcomes: list[list[Outcome]] = [[] for _ in questions]
    for history in (*of_gold, *controls):
        outcomes[history.index].append(history.outcome())
    return [dataclasses.replace(outcome, controls=tuple(others)) for outcome, *others in outcomes]


def advance(search: Search, verdicts: Verdicts | None) -> list[Leaf]:
    """Return the next wave of a search; empty at its end."""
    try:
        return search.send(verdicts)  # type: ignore[arg-type] # None starts a generator
    except StopIteration:
        return []


def record_wave(
    evaluations: Evaluations,
    wave: int,
    leaves: Sequence[tuple[History, list[Leaf]]],
    positions: int,
) -> None:
    """Evaluate the leaves of several searches, and record them."""
    if not leaves:
        return
    width = max(len(row) for _, row in leaves)
    texts = [leaf.path for _, row in leaves for leaf in (*row, *[NO_LEAF] * (width - len(row)))]
    verdicts, reused = evaluations.of_searches(
        np.array([history.index for history, _ in leaves]),
        np.array([history.target for history, _ in leaves]),
        as_ids(texts, positions).reshape(len(leaves), width, positions),
    )
    for s, (history, row) in enumerate(leaves):
        present = slice(len(row))
        history.record(wave, row, verdicts.take((s, present)), reused[s, present])


def paths_to_confirm(
    outcomes: Sequence[Outcome],
) -> tuple[list[tuple[int, ...] | None], list[Completion | None]]:
    """Return each shortest correct path and its completion; None without one."""
    completions = [
        None if (i := outcome.shortest_correct) is None else outcome.verdicts.completion[i]
        for outcome in outcomes
    ]
    return [outcome.best for outcome in outcomes], completions


def with_confirmed(outcomes: Sequence[Outcome], held: Sequence[bool | None]) -> list[Outcome]:
    """Add to outcomes whether `paths_to_confirm` are right in float32 too."""
    return [dataclasses.replace(o, confirmed=h) for o, h in zip(outcomes, held, strict=True)]


def asked_questions(outcomes: Outcomes, call: str) -> EncodedQuestions:
    """Return the questions of outcomes, in their order, as a model was asked them.

    Outcomes are a list, which may have been sorted or shortened since. InputError for other first
    arguments, and for outcomes of other searches among them.
    """
    if not isinstance(outcomes, Outcomes):
        raise InputError(
            f"the first argument of {call} is of type {type(outcomes).__name__}, but must be the "
            "outcomes that cola_jax.search returned."
        )
    if outcomes.asked is None:
        raise InputError(
            f"{call} takes outcomes of a search of a model in this process, and these are of a "
            "function or were copied: search(model, questions, scorer=...)."
        )
    by_id = {each.question.id: each for each in outcomes.asked.encoded}
    encoded = []
    for outcome in outcomes:
        each = by_id.pop(outcome.question.id, None)
        if each is None or each.question != outcome.question:
            raise InputError(
                f"question {shown(outcome.question.id)} is of another search, or there twice: give "
                "the outcomes that cola_jax.search returned, or some of them."
            )
        encoded.append(each)
    return outcomes.asked._replace(encoded=encoded)


def confirm(outcomes: Outcomes) -> Outcomes:
    """Run each shortest correct path once more in float32; not counted as evaluations.

    Takes the outcomes of a search of a model, and returns them with `confirmed`.
    """
    asked = asked_questions(outcomes, "confirm(outcomes)")
    scorer, encoded = asked.scorer, asked.encoded
    again = ModelEvaluator(asked.model, encoded, scorer, keep_open=False, **asked.options)

    def run(worker: Worker, indices: np.ndarray, workload: Workload) -> list[bool | None]:
        paths = paths_to_confirm([outcomes[i] for i in indices])
        return scorer.confirm(worker, [encoded[i] for i in indices], workload, *paths)

    workload = outcomes.settings.workload(again.num_layers)._replace(wave=1)
    confirmed = np.full(len(outcomes), None)
    for indices, held in again.map_batches(run, workload):
        confirmed[indices] = held
    return Outcomes(with_confirmed(outcomes, confirmed.tolist()), outcomes.settings, outcomes.asked)
