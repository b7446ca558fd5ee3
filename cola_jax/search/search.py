"""`search`: grows one tree for each question, a wave of evaluations at a time."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from cola_jax.execute.engine import Engine, split
from cola_jax.execute.pipeline import Flight, interleave
from cola_jax.execute.worker import Lane
from cola_jax.params import Model
from cola_jax.scoring.encode import Encoded
from cola_jax.scoring.grader import Grader
from cola_jax.scoring.judge import check_budget, grading, make_judge, prompt_buckets
from cola_jax.search.grove import Grove
from cola_jax.search.outcome import Outcome
from cola_jax.search.presets import PRESETS, Preset, Settings

Progress = Callable[[int, int, int], None]
IN_FLIGHT = 2  # groups that share a lane: one is on the device while the host attends to another


def search(
    model: Model,
    questions: Sequence[Encoded],
    *,
    preset: str | Preset = "cola",
    simulations: int = 100,
    leaves: int = 16,
    seed: int = 0,
    early_stop: bool = False,
    group: int = 64,
    memory_budget: int | None = None,
    rows: int | None = None,
    on_progress: Progress = lambda evaluations, fixed, shortened: None,
) -> list[Outcome]:
    """Searches paths for every question.

    Args:
      model: the pretrained model; questions are divided over the `data` axis of its mesh.
      questions: as `encode` makes them, each with its scorer.
      preset: the rules of the search, or the name of a preset.
      simulations: evaluations per question beyond the baseline; fewer where a tree runs out of
        paths.
      leaves: C, the evaluations per question and wave. More of them are chosen knowing less.
      seed: with a question's id, the random key of its tree: what a question yields depends on
        neither the other questions nor their order.
      early_stop: end a question's search once a wrong answer is right, or a right one needs fewer
        layers.
      group: the most questions in step.
      memory_budget: as `run_paths`; `rows` as well.
      on_progress: called with the evaluations so far, the wrong answers made right and the right
        ones that need fewer layers.

    Raises:
      ValueError: for no questions, an unknown preset, or counts below 1; and as `run_paths`.
    """
    settings = check_settings(questions, preset, simulations, leaves, seed, early_stop)
    found: dict[int, Outcome] = {}
    with (
        grading(questions) as grader,
        Engine(model, memory_budget=memory_budget, rows=rows, in_flight=IN_FLIGHT) as engine,
    ):
        longest = settings.preset.lengths(engine.config.num_layers)[1]
        engine.check_count(len(questions))
        check_budget(engine.config, questions, longest, engine.memory)
        groups = search_groups(engine, questions, settings, group, on_progress, grader)
        for some, outcomes in groups:
            found |= dict(zip(some.tolist(), outcomes, strict=True))
    return [found[i] for i in range(len(questions))]


def search_groups(
    engine: Engine,
    questions: Sequence[Encoded],
    settings: Settings,
    group: int,
    on_progress: Progress,
    grader: Grader | None,
) -> Iterator[tuple[np.ndarray, list[Outcome]]]:
    """Yields groups of questions, as indices, with their outcomes, as they are finished."""
    totals = np.zeros(3, int)

    def count(*gained: int) -> None:
        totals[:] += gained
        on_progress(*totals.tolist())

    def fly(some: np.ndarray, lane: Lane) -> Flight[list[Outcome]]:
        mine = [questions[i] for i in some]
        judge = make_judge(
            engine,
            mine,
            lane,
            each=settings.simulations + 1,
            abreast=settings.leaves,
            positions=settings.preset.lengths(engine.config.num_layers)[1],
            grader=grader,
        )
        return Grove(mine, engine.config.num_layers, settings).grow(judge, count)

    groups = split(prompt_buckets(questions), IN_FLIGHT * len(engine.lanes), group)
    return interleave(engine.lanes, groups, fly, IN_FLIGHT)


def check_settings(
    questions: Sequence[Encoded],
    preset: str | Preset,
    simulations: int,
    leaves: int,
    seed: int = 0,
    early_stop: bool = False,
) -> Settings:
    """Checks the arguments of a search and resolves the preset."""
    if not questions:
        raise ValueError("there are no questions to search.")
    check_alike(questions)
    if isinstance(preset, str):
        if preset not in PRESETS:
            raise ValueError(f"preset {preset!r} is not one of {', '.join(PRESETS)}.")
        preset = PRESETS[preset]
    return Settings(preset, simulations, leaves, seed, early_stop)


def check_alike(questions: Sequence[Encoded]) -> None:
    """Raises ValueError where answers are decoded of some questions, or in several ways."""
    ways = {encoded.reply if encoded.scorer == "generate" else None for encoded in questions}
    if len(ways) > 1:
        raise ValueError(
            "the questions differ in how their answers are decoded and found: search those of one "
            "scorer, format and token limit at a time."
        )
