"""`search`: paths for every question, of a model or of a function of the user's own."""

import dataclasses
import os
from collections.abc import Iterable, Sequence
from typing import Any, Unpack

import numpy as np

from cola_jax.engine.evaluator import succeeded
from cola_jax.errors import InputError, check_keywords, shown
from cola_jax.metrics import Metrics
from cola_jax.params import Model
from cola_jax.progress import metrics_bar
from cola_jax.question import Question, check_questions
from cola_jax.runs.evaluate import (
    EvaluatorOptions,
    count_layers,
    prepared_by,
    refuse_options,
    session_in_memory,
)
from cola_jax.runs.outcomes import Outcomes, Searched
from cola_jax.runs.prior import with_prior
from cola_jax.runs.run import Run
from cola_jax.runs.schema import search_part
from cola_jax.runs.session import (
    Session,
    capacity_of,
    make_session,
    open_run,
    parts_of,
    prompts_of_run,
    recorded_search,
    with_part_costs,
)
from cola_jax.runs.settings import PRIOR
from cola_jax.runs.stored import stored_outcomes
from cola_jax.runs.work import Confirmed, search_work
from cola_jax.scoring.evaluations import Evaluations
from cola_jax.scoring.evaluator import FunctionEvaluator, PathFunction
from cola_jax.scoring.scorer import Scorer
from cola_jax.storage import AnyPath
from cola_jax.strategies.loop import paths_to_confirm, resolve, search_batch, with_confirmed
from cola_jax.strategies.outcome import Outcome
from cola_jax.strategies.rules import DEFAULT, Control, Rules, Settings, simulations_of

# settings of asking again and of a prior, which a run records beside those of its search
RECORDED = ("prompts", "prompts_digest", *PRIOR)


def search(
    model: Model | PathFunction,
    questions: Sequence[Question],
    *,
    scorer: Scorer | str | None = None,
    preset: str | Rules = DEFAULT,
    simulations: int | None = None,
    leaves: int = 16,
    seed: int = 0,
    early_stop: bool = False,
    control: Control = "all",
    prompts: int | None = None,
    num_layers: int | None = None,
    layer_costs: Sequence[float] | None = None,
    prior: AnyPath | Sequence[AnyPath] | None = None,
    on_device: bool = False,
    output: str | os.PathLike[str] | None = None,
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
        paths. By default the budget of the preset: 200 of cola-appendix, 50 of drllm, 100 of all
        others and of rules of your own.
      leaves: C, evaluations per question and wave; larger waves use staler tree statistics.
      seed: combined with a question's id into the random key of its search, which depends on
        neither the other questions nor their order.
      early_stop: end a question's search once a wrong answer is right, or a right one needs fewer
        layers.
      control: wrong options for which a question that the model gets wrong is searched as well, to
        tell skill from luck: `all` that are not its answer, `one` of them, both with a search for
        its own answer, or `none`.
      prompts: other wordings of each question, drawn at random, in which the shortest correct path
        of each search is asked again; 4 of a model where the scorer has so many, 0 for none.
      num_layers: L; needed where `model` is a function of your own.
      layer_costs: milliseconds by layer [L], which a tree weighs in place of the number of layers.
      prior: run directories of earlier searches of a model, on other questions: edits that were
        right there beyond their controls are tried first; see `cola_jax.runs.prior.Prior`.
      on_device: run the search of a tree whole on the devices of a model: they select paths, run
        them, and judge them by the scorers of multiple choice or `exact`.
      output: run directory of a model, created or resumed, as of `cola search`.
      options: of a model: chat, format and max_new_tokens of a scorer that is given by name;
        batch_size, engine, dtype, memory_budget, tile_tokens, metrics and progress, as
        `cola_jax.runs.evaluate.EvaluatorOptions` describes them.

    Raises:
      InputError: for no questions, those that the scorer cannot ask, and invalid settings; for a
        prior of another model, or of some of these questions.
      Unfinished: where the engine sets questions aside; with `output` after the others.
    """
    check_keywords(search, options, EvaluatorOptions)
    if not isinstance(on_device, bool):
        raise InputError(f"on_device must be True or False, it is {shown(on_device)}.")
    if not isinstance(layer_costs, Iterable | None):
        raise InputError(f"layer_costs must be a list [L], it is {shown(layer_costs)}.")
    costs = None if layer_costs is None else tuple(layer_costs)
    rules = resolve(preset)
    budget = simulations_of(preset) if simulations is None else simulations
    settings = Settings(rules, budget, leaves, seed, early_stop, control, costs)
    questions = check_questions(questions)
    layers = count_layers(model, num_layers)
    settings.costs(layers)  # raises before anything runs
    earlier = directories_of(prior)
    if not isinstance(model, Model):
        if prompts:
            raise InputError("a function has no other wordings: leave out prompts.")
        if earlier:
            raise InputError("a prior is made of runs of a model: leave it out for a function.")
        if on_device:
            raise InputError("a function of your own runs on the host: leave out on_device.")
        refuse_options(scorer, options, output)
        evaluate = FunctionEvaluator(model, questions, layers)
        return Outcomes(search_batch(Evaluations(evaluate, questions), layers, settings), settings)
    if output is not None:
        prompts = prompts_of_run(os.fspath(output), prompts)
    session, metrics, progress = session_in_memory(model, questions, scorer, options, prompts)
    session, settings = with_prior(session, settings, earlier)
    with metrics_bar(metrics, progress):
        if output is None:
            outcomes = search_in_memory(session, settings, metrics, on_device=on_device)
        else:
            run = session.search(os.fspath(output), settings, metrics, on_device=on_device)
            # as the rows have them: another version may have searched some of the questions
            outcomes = stored_outcomes(run, session.asked.recorded, session.asked.scorer)
    session.engine.free()  # which outcomes keep
    recorded = {name: session.settings[name] for name in RECORDED if name in session.settings}
    searched = Searched(session.model, session.asked, session.engine, recorded)
    return Outcomes(outcomes, settings, searched)


def directories_of(prior: Any) -> list[AnyPath]:
    """Return the run directories of a prior: none, one, or several; InputError for others."""
    every = [prior] if isinstance(prior, str | os.PathLike) else prior
    every = [] if prior is None else every
    if not isinstance(every, list | tuple) or not all(
        isinstance(each, str | os.PathLike) for each in every
    ):
        raise InputError(f"prior must be run directories of searches, it is {shown(prior)}.")
    return [*every]


def search_in_memory(
    session: Session, settings: Settings, metrics: Metrics, *, on_device: bool
) -> list[Outcome]:
    """Search the questions of a session without a run; the outcomes are not confirmed."""
    asked = session.asked
    settings = with_part_costs(settings, session.model.config)
    work = search_work(asked, settings, on_device)(
        **parts_of(session, asked),
        workload=settings.workload(session.model.config.num_layers),
        layout=None,
        settings=settings,
        again=tuple(session.again),
    )
    outcomes: dict[int, Outcome] = {}
    batches = asked.batches(range(len(asked)), capacity_of(session))
    for batch, part, _ in session.engine.map(work, batches, metrics):
        found = succeeded(batch, part).outcomes
        outcomes.update(zip(batch.indices.tolist(), found, strict=True))
    return [outcomes[i] for i in range(len(asked))]


def searched_questions(outcomes: Outcomes, call: str) -> tuple[Searched, list[int]]:
    """Return how outcomes were searched, and the place of the question of each.

    Outcomes are a list, which may have been sorted or shortened since. InputError for other first
    arguments, and for outcomes of other searches among them.
    """
    if not isinstance(outcomes, Outcomes):
        raise InputError(
            f"the first argument of {call} is of type {type(outcomes).__name__}, but must be the "
            "outcomes that cola_jax.search returned."
        )
    if outcomes.searched is None:
        raise InputError(
            f"{call} takes outcomes of a search of a model in this process, and these are of a "
            "function or were copied: search(model, questions, scorer=...)."
        )
    questions = outcomes.searched.asked.questions
    by_id = {each.id: i for i, each in enumerate(questions)}
    places = []
    for outcome in outcomes:
        place = by_id.pop(outcome.question.id, None)
        if place is None or questions[place] != outcome.question:
            raise InputError(
                f"question {shown(outcome.question.id)} is of another search, or there twice: give "
                "the outcomes that cola_jax.search returned, or some of them."
            )
        places.append(place)
    return outcomes.searched, places


def confirm(outcomes: Outcomes) -> Outcomes:
    """Run each shortest correct path once more in float32; not counted as evaluations.

    Takes the outcomes of a search of a model, and returns them with `confirmed`.
    """
    searched, places = searched_questions(outcomes, "confirm(outcomes)")
    asked = searched.asked.take(places)
    layers = searched.model.config.num_layers
    paths, completions = paths_to_confirm(outcomes)
    work = Confirmed(
        model=searched.model,
        encoder=asked.encoder,
        prefixes=asked.prefixes,
        workload=outcomes.settings.workload(layers)._replace(wave=1),
        paths=paths,
        completions=completions,
    )
    batches = asked.batches(range(len(asked)), searched.engine.capacity(searched.model, len(asked)))
    confirmed = np.full(len(outcomes), None)
    for batch, held, _ in searched.engine.map(work, batches):
        confirmed[batch.indices] = succeeded(batch, held)
    searched.engine.free()
    return Outcomes(with_confirmed(outcomes, confirmed.tolist()), outcomes.settings, searched)


def save_run(outcomes: Outcomes, directory: str | os.PathLike[str]) -> Run:
    """Write the outcomes of a search of a model as a run directory.

    Raises InputError for a directory that has other files, or a run of other settings.
    """
    searched, places = searched_questions(outcomes, "save_run(outcomes, directory)")
    if not isinstance(directory, str | os.PathLike):
        raise InputError(f"a run is saved in a directory, not in {shown(directory)}.")
    asked = searched.asked.take(places)
    prepared = prepared_by(asked.scorer, asked.questions)
    session = make_session(searched.model, searched.engine, prepared)
    session = dataclasses.replace(session, settings=session.settings | searched.recorded)
    with open_run(session, os.fspath(directory), recorded_search(outcomes.settings), None) as run:
        run.replace(search_part(asked.encode(searched.model), outcomes))
    return run
