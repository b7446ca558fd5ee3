"""The loop that every strategy runs in, a wave at a time, and its control searches.

With enough perturbed networks some path gives any answer, and any answer is kept on fewer layers.
So hits of gold are compared with those of wrong answers that the model does not give, and layers
saved on right answers with those saved on the model's own wrong answers.
"""

import dataclasses
from collections.abc import Collection, Sequence

import numpy as np

from cola_jax.errors import InputError, did_you_mean
from cola_jax.execute.memory import format_bytes
from cola_jax.identity import stable_hash
from cola_jax.path import identity, pad_path
from cola_jax.question import Question
from cola_jax.scoring.evaluations import Evaluations
from cola_jax.scoring.evaluator import ModelEvaluator, layers_in, question_batches
from cola_jax.scoring.scorer import Evaluate
from cola_jax.scoring.verdicts import Completion
from cola_jax.strategies.mcts import TreeSearch
from cola_jax.strategies.outcome import History, Outcome, Outcomes, Proposals
from cola_jax.strategies.rules import DEFAULT, PRESETS, Control, Rules, Settings, TreeRules
from cola_jax.strategies.walks import Walks

EDIT = 64  # bytes of an edit that fits: four integers, its start and its weight
NODE = 400  # bytes of an evaluation and its node, beside its path


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
    """Search paths for every question.

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

    over_batches = getattr(evaluate, "over_batches", None)  # of a model: each batch by itself
    if over_batches is None:
        return Outcomes(work(evaluate, np.arange(len(questions))), settings)
    searches = settings.searches(max(len(question.options) for question in questions))
    expected = len(questions) * (1 + simulations * searches)
    outcomes: dict[int, Outcome] = {}
    for indices, batch in over_batches(work, settings.workload(layers), expected):
        outcomes |= zip(indices.tolist(), batch, strict=True)
    return Outcomes((outcomes[i] for i in sorted(outcomes)), settings)


def resolve(strategy: str | Rules) -> Rules:
    """Return the preset of that name; InputError with the list of names where there is none."""
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
    """Search a batch of questions in step, each for gold and for its control targets.

    The searches of a question share their evaluations: only what none has evaluated before is run.
    `answers` are the pretrained model's in all variants of each question; that of the identity path
    when None.
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
    searched = [questions[b] for b in question]
    kind = TreeSearch if isinstance(settings.preset, TreeRules) else Walks
    strategy = kind(settings, [each.id for each in searched], num_layers)
    history = History(searched, target.tolist(), root, settings.simulations + 1)
    proposals: Proposals | None = Proposals.root(root, len(searched))
    while proposals is not None:
        verdicts, reused = evaluations.of_searches(question, target, proposals.paths)
        if not history.waves:
            reused[: len(questions)] = before  # evaluated above, for them
        history.record(proposals, verdicts, reused)
        strategy.update(proposals, verdicts)
        active = ~(settings.early_stop & history.improved)
        proposals = strategy.propose(active)
    outcomes = history.outcomes()
    searches = list(zip((b for b, _ in controls), outcomes[len(questions) :], strict=True))
    return [
        dataclasses.replace(outcome, controls=tuple(each for i, each in searches if i == b))
        for b, outcome in enumerate(outcomes[: len(questions)])
    ]


def control_targets(question: Question, answers: Collection[int], control: Control) -> list[int]:
    """Return the options that a question is searched for beside gold, in order.

    None where the pretrained model gives gold in any way the question is asked: a search for gold
    then only keeps its answer. Elsewhere the wrong options that it gives in none, since such a
    search must start where that for gold starts; and after them, where options are offered, the
    wrong one that it gives in all, which that search only keeps. With `one`, a hash of the
    question's id picks one of the wrong options.
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
    """Return the ids of questions that have no wrong answer for a control search to look for."""
    if control == "none":
        return []
    return [question.id for question in questions if len(question.options) < 2]


def check_memory(settings: Settings, num_layers: int, searches: int, budget: int) -> None:
    """Raise InputError for searches that together need more than `budget` bytes of the host.

    It names the flag to lower.
    """
    rules, positions = settings.preset, settings.positions(num_layers)
    sizes = rules.max_skip, rules.max_repeat, rules.max_times, rules.max_move
    skip, repeat, times, move = (min(size, positions) for size in sizes)
    edits = skip + repeat * times + 2 * move * min(rules.max_move_block, positions)
    node = 5 * positions + NODE
    needed = {
        f"--rules.max-length {rules.max_length:g}": edits * positions * EDIT,
        f"--simulations {settings.simulations:,}": (settings.simulations + 1) * node,
        f"--leaves {settings.leaves:,}": (settings.leaves + 1) * node,
    }
    for flag, size in needed.items():
        if searches * size > budget:
            raise InputError(
                f"{flag} makes {searches} searches together take {format_bytes(searches * size)}, "
                f"of {format_bytes(budget)}: lower it, or give a smaller --batch-size."
            )


def paths_to_confirm(
    outcomes: Sequence[Outcome],
) -> tuple[list[tuple[int, ...] | None], list[Completion | None]]:
    """Return each shortest correct path, and what was decoded along it; None where none is."""
    completions = [
        None if (i := outcome.shortest_correct) is None else outcome.verdicts.completion[i]
        for outcome in outcomes
    ]
    return [outcome.best for outcome in outcomes], completions


def with_confirmed(outcomes: Sequence[Outcome], held: Sequence[bool | None]) -> list[Outcome]:
    """Add to outcomes whether `paths_to_confirm` are right in float32 too."""
    return [dataclasses.replace(o, confirmed=h) for o, h in zip(outcomes, held, strict=True)]


def confirm(evaluate: ModelEvaluator, outcomes: Outcomes) -> Outcomes:
    """Run each shortest correct path once more in float32.

    That is not an evaluation of the search.

    Args:
      evaluate: from `cola_jax.evaluator`, that of the search.
      outcomes: of its questions, in order.

    Returns:
      The outcomes with `confirmed`.
    """
    workload = outcomes.settings.workload(evaluate.num_layers)._replace(wave=1)
    batches = question_batches(evaluate.encoded, workload, evaluate.encoded)
    confirmed = np.full(len(outcomes), None)
    for indices in batches.cut(range(len(outcomes)), 1, evaluate.batch_size):
        confirmed[indices] = evaluate.scorer.confirm(
            evaluate.workers.workers[0],
            [evaluate.encoded[i] for i in indices],
            workload._replace(prefix=batches.prefixes[indices[0]]),
            *paths_to_confirm([outcomes[i] for i in indices]),
        )
    return Outcomes(with_confirmed(outcomes, confirmed.tolist()), outcomes.settings)
