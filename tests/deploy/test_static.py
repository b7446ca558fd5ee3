"""The search for one path on made-up questions whose best path is known."""

import dataclasses
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from cola_jax.deploy import static
from cola_jax.deploy.settings import LABEL_FREE, Fitness, StaticSettings
from cola_jax.layer_costs import LayerCosts
from cola_jax.path import STOP, format_path, parse_path
from cola_jax.question import Question
from cola_jax.runs.estimates import CHOSEN, CORRECT
from cola_jax.runs.results import Results
from cola_jax.runs.schema import Part, question_row
from cola_jax.runs.session import Session, open_run
from cola_jax.scoring.evaluations import Evaluations
from cola_jax.scoring.verdicts import Verdicts
from cola_jax.steps import ATTENTION, MLP, WHOLE, Step
from cola_jax.tasks.task import TaskConfig

LAYERS, COUNT = 8, 80
IDENTITY = tuple(range(LAYERS))
QUESTIONS = [Question(f"q{i}", f"{i}?", ("a", "b")) for i in range(COUNT)]
EVERYTHING = np.arange(COUNT)
BEST = (0, 1, 3, 4, 5, 5, 6, 7)  # without 2, with 5 twice
FITNESS = get_args(Fitness)
EVEN = LayerCosts(LAYERS)
UNEVEN = LayerCosts(LAYERS, (1.0, 1.0, 1.0, 5.0, 1.0, 3.0, 1.0, 7.0))
PARTS = LayerCosts(LAYERS, None, ((0.25, 0.75),) * LAYERS)
HARDNESS = np.random.default_rng(5).random(COUNT)


def make_evaluations(spent: list[int] | None = None) -> Evaluations:
    """A question is right on paths close to BEST, the harder the closer."""

    def evaluate(paths: np.ndarray) -> Verdicts:
        present = paths[:, :, 0] != STOP
        if spent is not None:
            spent.append(int(present.sum()))
        counts = (paths[..., None] == np.arange(LAYERS)).sum(axis=2)
        distance = np.abs(counts - np.bincount(BEST, minlength=LAYERS)).sum(axis=-1)
        margin = 1 - 0.2 * distance - HARDNESS[:, None]
        return Verdicts.of_scores(np.stack([margin, np.zeros_like(margin)], axis=-1), 0)

    return Evaluations(evaluate, QUESTIONS)


@pytest.mark.parametrize("fitness", [each for each in FITNESS if each not in LABEL_FREE])
def test_evolve_finds_the_best_path(fitness: Fitness) -> None:
    settings = StaticSettings(generations=25, offspring=12, first=10, fitness=fitness)
    spent: list[int] = []
    candidates = static.evolve(make_evaluations(spent), EVERYTHING, EVEN, settings)
    assert sorted(next(iter(candidates))) == sorted(BEST)
    assert IDENTITY in candidates
    assert candidates == static.evolve(make_evaluations(), EVERYTHING, EVEN, settings)
    assert sum(spent) < 25 * 12 * COUNT / 2  # poor paths are dropped early


def test_evolve_keeps_to_the_lengths() -> None:
    settings = StaticSettings(generations=8, offspring=8, first=10, max_layers=6)
    candidates = static.evolve(make_evaluations(), EVERYTHING, EVEN, settings)
    assert candidates
    assert all(3 <= len(path) <= 6 for path in candidates)
    endless = StaticSettings(generations=100_000, max_layers=1)  # ends where no path is new
    candidates = static.evolve(make_evaluations(), EVERYTHING, LayerCosts(2), endless)
    assert candidates
    assert candidates.keys() <= {(0,), (1,)}


def test_evolve_keeps_to_the_highest_cost() -> None:
    settings = StaticSettings(generations=8, offspring=8, first=10, max_layers=4)
    by_count = static.evolve(make_evaluations(), EVERYTHING, UNEVEN, settings)
    for highest, most in (("60%", 12.0), ("9.5ms", 9.5)):
        settings = StaticSettings(generations=8, offspring=8, first=10, max_cost=highest)
        candidates = static.evolve(make_evaluations(), EVERYTHING, UNEVEN, settings)
        assert max(map(UNEVEN.of, candidates)) <= most < max(map(UNEVEN.of, by_count))
        assert max(map(len, candidates)) > 4
    settings = StaticSettings(generations=4, max_cost="9%")
    candidates = static.evolve(make_evaluations(), EVERYTHING, UNEVEN, settings)
    assert candidates
    assert candidates.keys() <= {(0,), (1,), (2,), (4,), (6,)}  # the cheap layers, each alone


def test_search_path_chooses_on_validation_questions() -> None:
    settings = StaticSettings(generations=12, offspring=8, first=10, finalists=4, max_layers=8)
    best = static.search_path(make_evaluations(), EVEN, settings)
    assert sorted(best.chosen.path) == sorted(BEST)
    assert best.plain.path == best.paths[0] == IDENTITY
    assert len(best.chosen.training) + len(best.chosen.validation) == COUNT
    assert best.chosen.validation.mean() == max(m.validation.mean() for m in best.measured)
    front = [m for m in best.measured if m.on_front]
    assert best.chosen in front
    for member in front:
        shorter = [m for m in best.measured if len(m.path) < len(member.path)]
        assert all(m.validation.mean() <= member.validation.mean() for m in shorter)


@pytest.mark.parametrize(("shortest", "longest"), [(4, 8), (7, 7), (1, 2), (8, 12)])
def test_mutate_keeps_to_the_lengths(shortest: int, longest: int) -> None:
    random, path, seen = np.random.default_rng(0), IDENTITY, set()
    settings = StaticSettings(min_layers=shortest, max_layers=longest)
    mutations = static.Mutations.of(settings, EVEN)
    for _ in range(300):
        path = mutations.mutate(path, random)
        assert set(path) <= set(IDENTITY)
        seen.add(len(path))
    assert seen == set(range(shortest, longest + 1))


def test_restore_puts_a_layer_before_the_first_later_one() -> None:
    random = np.random.default_rng(0)
    four, three = (static.Mutations.of(StaticSettings(), LayerCosts(n)) for n in (4, 3))
    assert four.restore((0, 2, 3, 3), random) == (0, 1, 2, 3, 3)
    assert three.restore((0, 1), random) == three.restore((0, 1, 2), random) == (0, 1, 2)


@pytest.mark.parametrize("shares", [(), (0.5, 0.25)])
def test_mutate_of_parts_keeps_to_the_cost(shares: tuple[float, ...]) -> None:
    settings = StaticSettings(parts=True, shares=shares, max_cost="70%", max_layers=7)
    mutations, random = static.Mutations.of(settings, PARTS), np.random.default_rng(0)
    path, steps = IDENTITY, set()
    for _ in range(300):
        path = mutations.mutate(path, random)
        assert PARTS.of(path) <= 0.7 * PARTS.total
        assert 2 <= PARTS.layers(path) <= 7
        assert len(path) <= LAYERS
        steps |= set(map(Step.of, path))
    assert {step.part for step in steps} == {WHOLE, ATTENTION, MLP}
    assert {step.share for step in steps} == {1, *shares}


def test_skip_and_restore_take_parts_or_layers() -> None:
    random = np.random.default_rng(0)
    of_parts = static.Mutations.of(StaticSettings(parts=True), LayerCosts(2))
    seen = {format_path(of_parts.skip((0, 1), random)) for _ in range(50)}
    assert seen == {"0m,1", "0a,1", "0,1m", "0,1a"}
    seen = {of_parts.skip(parse_path("0,1a", 2), random) for _ in range(50)}
    assert parse_path("0", 2) in seen
    for text, restored in (
        ("0m,1", {"0-1"}),
        ("1m", {"0a,1m", "(0-1)m", "1"}),
        ("0,1m*0.5", {"0,1*0.5", "0,1m"}),
        ("0-1", {"0-1"}),
    ):
        path = parse_path(text, 2)
        seen = {format_path(of_parts.restore(path, random)) for _ in range(50)}
        assert seen == restored
    of_shares = static.Mutations.of(StaticSettings(shares=(0.5,)), LayerCosts(2))
    seen = {format_path(of_shares.restore(parse_path("1*0.5", 2), random)) for _ in range(50)}
    assert seen == {"0,1*0.5", "1"}
    assert {of_shares.skip((0, 1), random) for _ in range(50)} == {(0,), (1,)}


def test_evolve_of_parts_finds_those_that_matter_least() -> None:
    """Attentions of the later half and MLPs of the first half cost nothing to lose."""
    settings = StaticSettings(generations=20, offspring=16, first=10, parts=True, max_cost="50%")
    free = {(i, ATTENTION if i >= LAYERS // 2 else MLP) for i in range(LAYERS)}

    def evaluate(paths: np.ndarray) -> Verdicts:
        lost = np.zeros(paths.shape[:2])
        for index in np.ndindex(*lost.shape):
            steps = [Step.of(int(step)) for step in paths[index] if step != STOP]
            runs = {(s.layer, p) for s in steps for p in (ATTENTION, MLP) if s.part in (WHOLE, p)}
            every = {(i, part) for i in range(LAYERS) for part in (ATTENTION, MLP)}
            lost[index] = len(every - runs - free) + 0.1 * (len(steps) > LAYERS)
        margin = 1 - 0.2 * lost - HARDNESS[:, None]
        return Verdicts.of_scores(np.stack([margin, np.zeros_like(margin)], axis=-1), 0)

    candidates = static.evolve(Evaluations(evaluate, QUESTIONS), EVERYTHING, EVEN, settings)
    best = next(iter(candidates))
    assert format_path(best) == "(0-3)a,(4-7)m"


def test_evolve_of_whole_layers_draws_as_before() -> None:
    settings = StaticSettings(generations=3, offspring=6, first=10, max_cost="70%", seed=7)
    candidates = static.evolve(make_evaluations(), EVERYTHING, UNEVEN, settings)
    assert list(map(format_path, candidates)) == ["1,4-7", "1,5,4,6-7", "1,4-5,7"]


def test_settings_without_parts_are_recorded_as_before() -> None:
    assert not {"parts", "shares"} & StaticSettings().record().keys()
    assert StaticSettings(shares=(0.5,)).record()["shares"] == (0.5,)


def test_step_sizes_leave_a_quarter_of_the_paths() -> None:
    settings = StaticSettings(first=16, offspring=64)
    assert static.step_sizes(settings, 400) == [(16, 16), (64, 4), (256, 1)]
    assert static.step_sizes(settings, 10) == []


@pytest.mark.parametrize("fitness", [each for each in FITNESS if each != "agreement"])
def test_score_of_paths_that_are_not_finite_is_the_worst(fitness: Fitness) -> None:
    scores = np.array([[[-1.0, -2.0], [np.nan, np.nan], [-2.0, -1.0]]])
    verdicts = Verdicts.of_scores(scores, 0, np.array([[True, False, True]]))
    right, broken, wrong = static.score(verdicts, QUESTIONS[:1], fitness)
    assert right > wrong > broken
    assert fitness != "likelihood" or right == (-1.0,)


def test_finalists_and_front_prefer_the_best_of_each_length() -> None:
    paths = [(0, 1, 2), (0, 2, 1), (0, 1)]
    assert static.finalists(paths, EVEN, 2) == [(0, 1, 2), (0, 1)]
    assert static.finalists(paths, EVEN, 9) == [(0, 1, 2), (0, 1), (0, 2, 1)]
    uneven = LayerCosts(3, (1.2, 1.1, 3.7))  # about 1, 1 and 2 average layers
    assert static.finalists([(0,), (1,), (2,), (0, 2)], uneven, 3) == [(0,), (2,), (1,)]
    costs, fitness = [3.0, 2.0, 2.0, 1.5, 4.2], [0.5, 0.5, 0.4, 0.1, 0.7]
    assert static.pareto_front(costs, [(x,) for x in fitness]) == [3, 1, 4]


def test_settings_that_allow_no_path_are_refused() -> None:
    for settings, message in (
        ({"generations": 0}, "generations must be at least 1"),
        ({"max_layers": 17}, "paths of 8 to 17 layers cannot be searched"),
        ({"max_layers": 4, "min_layers": 5}, "paths of 5 to 4 layers"),
        ({"max_layers": 12, "min_layers": 9}, "paths of 9 to 12 layers"),
        ({"shares": (0.5, 0.0)}, "0.0 is not a share of an update"),
        ({"shares": (1.0,)}, "none of 1"),
        ({"min_layers": 0}, "paths of 0 to 8 layers"),
        ({"fitness": "kl"}, "give --max-layers of at most 7"),
        ({"fitness": "kl", "max_layers": 8}, "give --max-layers of at most 7"),
        ({"fitness": "agreement"}, "the fitness agreement of the model's own 8 layers"),
        ({"fitness": "kl", "max_cost": "100%"}, "or --max-cost below 100%"),
        ({"max_cost": "0.8"}, "'0.8' is neither a share such as 80% nor a time"),
        ({"max_cost": "5ms"}, "--max-cost 5ms is a time: give --layer-costs"),
        ({"max_cost": "12%"}, "--max-cost 12% is below the cheapest path of 1 layer, 12.5%"),
        ({"max_cost": "50%", "min_layers": 5}, "below the cheapest path of 5 layers, 62.5%"),
    ):
        with pytest.raises(ValueError, match=message):
            StaticSettings(**settings).lengths(EVEN)
    assert StaticSettings(max_cost="10%", parts=True).lengths(PARTS) == range(1, LAYERS + 1)
    assert StaticSettings(max_cost="50%").lengths(EVEN) == range(2, LAYERS + 1)
    assert StaticSettings(max_cost="50%", fitness="kl").lengths(EVEN)[-1] == LAYERS


def test_limit_is_named_where_it_leaves_the_model_out() -> None:
    for settings, limit in (
        ({}, ""),
        ({"max_layers": 8}, ""),
        ({"max_cost": "100%"}, ""),
        ({"max_layers": 7}, "at most 7 layers"),
        ({"max_layers": 7, "max_cost": "50%"}, "at most 7 layers and a cost of at most 50%"),
    ):
        assert StaticSettings(**settings).limit(EVEN) == limit


def test_label_free_reads_after_the_shots_of_each_prompt(tiny_checkpoint: Path) -> None:
    task = TaskConfig("arithmetic", limit=16, choose_prompts=2)
    session = Session.prepare(str(tiny_checkpoint), task.prepare)
    free = static.label_free(session)
    words, before, read = session.model.tokenizer, set(), []
    for each in free.asked.encode(free.model):
        ids, first = each.prompts.ids.tolist(), int(each.prompts.read[0])
        before.add(words.decode(ids[:first]))
        read.append(words.decode(ids[first:]))
        assert int(each.prompts.read[-1]) == len(ids) - 1
        assert not each.question.options
    shots = [text.count("=") for text in before]
    assert shots == [2, 2]
    assert max(map(len, read)) < 30


def test_training_and_validation_are_disjoint_and_complete() -> None:
    training, validation = static.training_and_validation(QUESTIONS, 1 / 4)
    assert len(validation) == 20
    assert sorted([*training, *validation]) == list(range(COUNT))
    twice = [*QUESTIONS, *(dataclasses.replace(q, id=f"again {q.id}") for q in QUESTIONS)]
    for part, same in zip(
        (training, validation), static.training_and_validation(twice, 1 / 4), strict=True
    ):
        assert part.tolist() == same.tolist()  # equal questions count as one
    for share in (0, 1, -0.5, float("nan"), 0.01):
        with pytest.raises(ValueError, match="leaves one part empty"):
            static.training_and_validation(QUESTIONS[:3], share)


def test_a_run_without_answers_is_resumed(tiny_checkpoint, tmp_path):
    """Its rows have neither options nor gold, and its questions have both."""
    session = Session.prepare(str(tiny_checkpoint), TaskConfig("demo", limit=3).prepare)
    session = static.label_free(session)
    done = [question_row(each, 0) for each in session.asked.encode(session.model)]
    for rows in (done, []):
        with open_run(session, str(tmp_path / "run"), {"command": "static"}, None) as run:
            run.write(Part([], rows))
    assert not run.missing(session.asked.questions)


def test_estimates_compare_the_front_with_the_model() -> None:
    right = np.arange(10) % 2 == 0
    plain, chosen, dropped = (
        static.Measured(path, right, right[:4], on_front, held_out[:, None])
        for path, on_front, held_out in (
            (IDENTITY, True, right),
            ((0, 1, 3), True, right | (np.arange(10) == 1)),
            ((0, 3), False, right),
        )
    )
    found = static.TaskPath((plain, chosen, dropped), 1, 7, EVEN)
    results = Results(static.static_estimates(found, "accuracy"))
    assert results.groups == ["the model", "0-1,3"]
    correct = results.find(CORRECT, "0-1,3")
    assert correct is not None
    assert (correct.value, correct.n, correct.note) == (0.6, 10, CHOSEN)
    assert results.value("validation", "0-1,3") == 0.5
    assert results.value("paths tried on all training questions") == 7
    assert found.recommended == IDENTITY
    assert results.sentences == [
        "Recommended: the model as it is. 0-1,3 is not shown to be better, in this prompt: +10.0 "
        "points (simultaneous 95 % interval −19.6 to +36.2, p 1.000, corrected for 1 candidate)."
    ]
    costly = dataclasses.replace(found, costs=UNEVEN)
    results = Results(static.static_estimates(costly, "kl"))
    assert (results.value("time", "the model"), results.value("time", "0-1,3")) == (20, 7)
    assert results.value("share of the model's", "0-1,3") == 7 / 20
    training = results.find("training", "the model")
    assert training is not None
    assert training.text == "0.500"  # nats
    limited = dataclasses.replace(found, limit=StaticSettings(max_layers=3).limit(EVEN))
    assert limited.recommended == (0, 1, 3)
    (sentence,) = Results(static.static_estimates(limited, "accuracy")).sentences
    assert sentence.startswith("Of at most 3 layers: 0-1,3, which is not shown to be as good, in")
    assert sentence.endswith("Try it with `cola verify` before use.")
    none_better = dataclasses.replace(found, best=0)
    (sentence,) = Results(static.static_estimates(none_better, "accuracy")).sentences
    assert sentence == (
        "Recommended: the model as it is. Nothing else was chosen, and on held-out questions none "
        "of 1 candidate is shown to be better."
    )
