"""The loop that every strategy runs in, a wave of evaluations at a time."""

import dataclasses
from collections.abc import Collection, Sequence

import numpy as np

from cola_jax.errors import InputError, did_you_mean
from cola_jax.execute.inputs import bucket
from cola_jax.path import STOP, identity, pad_path
from cola_jax.question import Question
from cola_jax.scoring.evaluations import Evaluations
from cola_jax.scoring.evaluator import ModelEvaluator, layers_in
from cola_jax.scoring.scorer import Evaluate
from cola_jax.scoring.verdicts import Verdicts
from cola_jax.strategies.controls import control_targets
from cola_jax.strategies.mcts import TreeSearch
from cola_jax.strategies.outcome import History, Outcome, Outcomes, Proposals
from cola_jax.strategies.rules import DEFAULT, PRESETS, Control, Rules, Settings, TreeRules
from cola_jax.strategies.walks import Walks


def search(
    evaluate: Evaluate,
    questions: Sequence[Question],
    *,
    preset: str | Rules = DEFAULT,
    simulations: int = 100,
    leaves: int = 16,
    seed: int = 0,
    early_stop: bool = False,
    control: Control = "all",
    num_layers: int | None = None,
) -> Outcomes:
    """Searches paths for every question.

    Args:
      evaluate: from `cola_jax.evaluator(model, questions, scorer)`, or any function from paths
        [B, C, P], padded with STOP, to Verdicts with fields [B, C], such as `Verdicts.of_margins`
        makes of a number for each path.
      questions: those that `evaluate` knows, in the same order.
      preset: the name of a strategy, or its rules.
      simulations: evaluations per question beyond the baseline; fewer where a tree runs out of
        paths.
      leaves: C, evaluations per question and wave; larger waves use staler tree statistics.
      seed: combined with a question's id into the random key of its tree: what a question yields
        depends on neither the other questions nor their order.
      early_stop: end a question's search once a wrong answer is right, or a right one needs fewer
        layers.
      control: wrong options for which a question that the model gets wrong is searched as well, to
        tell skill from luck: `all` that are not its answer, `one` of them, both with a search for
        its own answer, or `none`.
      num_layers: L; needed where `evaluate` is a function of your own.

    Returns:
      What was found for each question, a list that becomes a DataFrame with `to_pandas`.

    Raises:
      InputError: for no questions, other questions than the evaluator's, an unknown preset, counts
        below 1, or no `num_layers`; and as `evaluate` does.
    """
    settings = Settings(resolve(preset), simulations, leaves, seed, early_stop, control)
    if not questions:
        raise InputError("there are no questions to search.")
    if list(questions) != getattr(evaluate, "questions", list(questions)):
        raise InputError("the questions are not those that the evaluator was made for.")
    layers = layers_in(evaluate, num_layers)

    def work(evaluate: Evaluate, indices: np.ndarray) -> list[Outcome]:
        evaluations = Evaluations(evaluate, [questions[i] for i in indices])
        return search_batch(evaluations, layers, settings)

    everything = np.arange(len(questions))
    over_batches = getattr(evaluate, "over_batches", None)  # of a model, each batch by itself
    if over_batches is None:
        return Outcomes(work(evaluate, everything), settings)
    searches = settings.searches(max(len(question.options) for question in questions))
    expected = len(questions) * (1 + simulations * searches)
    found = {}
    for indices, outcomes in over_batches(work, settings.workload(layers), expected):
        found |= zip(indices.tolist(), outcomes, strict=True)
    return Outcomes((found[i] for i in everything.tolist()), settings)


def resolve(strategy: str | Rules) -> Rules:
    """Returns the preset of that name; ValueError with the list of names where there is none."""
    if not isinstance(strategy, str):
        return strategy
    if strategy not in PRESETS:
        near = did_you_mean(strategy, PRESETS)
        raise InputError(f"preset {strategy!r} is not one of {', '.join(PRESETS)}{near}.")
    return PRESETS[strategy]


def search_batch(
    evaluations: Evaluations,
    num_layers: int,
    settings: Settings,
    answers: Sequence[Collection[int]] | None = None,
) -> list[Outcome]:
    """Searches a batch of questions in step, each for gold and for its control targets.

    The searches of a question share their evaluations: only what none has evaluated before is run.

    Args:
      evaluations: of the questions.
      answers: of the pretrained model to each question, in every variant asked; that of the
        identity path when None.
    """
    questions = evaluations.questions
    root = pad_path(identity(num_layers), settings.positions(num_layers))
    question = np.arange(len(questions))
    target = np.array([each.answer for each in questions])
    plain, before = evaluations.of_searches(question, target, np.tile(root, (len(questions), 1, 1)))
    if answers is None:
        answers = [[int(answer)] for answer in plain.answer[:, 0]]
    controls = [
        (b, j)
        for b, each in enumerate(questions)
        for j in control_targets(each, answers[b], settings.control)
    ]
    question = np.array([*question, *(b for b, _ in controls)])
    target = np.array([*target, *(j for _, j in controls)])
    asked = [questions[b] for b in question]
    kind = TreeSearch if isinstance(settings.preset, TreeRules) else Walks
    strategy = kind(settings, [each.id for each in asked], num_layers)
    history = History(asked, target.tolist(), num_layers, settings.simulations + 1)
    proposals: Proposals | None = Proposals.root(root, len(asked))
    while proposals is not None:
        verdicts, reused = evaluations.of_searches(question, target, proposals.paths)
        if not history.waves:
            reused[: len(questions)] = before  # evaluated above, for them
        history.record(proposals, verdicts, reused)
        strategy.update(proposals, verdicts)
        active = ~(settings.early_stop & history.improved)
        proposals = strategy.propose(active)
    return grouped(history.outcomes(), [b for b, _ in controls])


def grouped(outcomes: Sequence[Outcome], controls: Sequence[int]) -> list[Outcome]:
    """Gives the searches for gold their control searches, which come last, each of a question."""
    count = len(outcomes) - len(controls)
    others = list(zip(controls, outcomes[count:], strict=True))
    return [
        dataclasses.replace(outcome, controls=tuple(one for i, one in others if i == b))
        for b, outcome in enumerate(outcomes[:count])
    ]


def paths_to_confirm(outcomes: Sequence[Outcome]) -> tuple[np.ndarray, Verdicts]:
    """Returns each shortest correct path [B, P], STOP alone where none is, and verdicts [B]."""
    best = [outcome.shortest_correct for outcome in outcomes]
    lengths = [len(o.paths[i]) for o, i in zip(outcomes, best, strict=True) if i is not None]
    width = bucket(max(lengths, default=1))  # since each width compiles
    paths = np.full((len(outcomes), width), STOP, np.int32)
    verdicts = Verdicts.empty((len(outcomes),), max(o.verdicts.scores.shape[1] for o in outcomes))
    for b, (outcome, i) in enumerate(zip(outcomes, best, strict=True)):
        if i is not None:
            paths[b] = pad_path(outcome.paths[i], width)
            verdicts.put((b,), outcome.verdicts.take(i))
    return paths, verdicts


def with_confirmed(outcomes: Sequence[Outcome], held: Sequence[bool | None]) -> list[Outcome]:
    """Adds to outcomes whether `paths_to_confirm` are right in float32 too."""
    return [dataclasses.replace(o, confirmed=h) for o, h in zip(outcomes, held, strict=True)]


def confirm(evaluate: ModelEvaluator, outcomes: Outcomes) -> Outcomes:
    """Runs each shortest correct path once more in float32 by the reference executor.

    That is not an evaluation of the search.

    Args:
      evaluate: from `cola_jax.evaluator`, that of the search.
      outcomes: of its questions, in order.

    Returns:
      The outcomes with `confirmed`.
    """
    paths, verdicts = paths_to_confirm(outcomes)
    worker = evaluate.workers.workers[0]
    held = evaluate.scorer.confirm(worker, evaluate.encoded, paths, verdicts)
    return Outcomes(with_confirmed(outcomes, held), outcomes.settings)
