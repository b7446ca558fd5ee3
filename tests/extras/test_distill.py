"""`distill` and `cola distill`: from a run whose verdicts are made up to a router in use."""

import dataclasses
import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import cola_jax
from cola_jax.cli.main import main
from cola_jax.engine.devices import Devices
from cola_jax.engine.local import LocalEngine
from cola_jax.errors import InputError
from cola_jax.extras.distill import (
    ROUTER,
    Distilled,
    Examples,
    distill,
    make_examples,
    segment_loss,
    train,
)
from cola_jax.extras.router import NO_SEGMENT, Record, likeliest_paths, load_router, segment_logits
from cola_jax.extras.router import target_of_path as target
from cola_jax.extras.settings import DistillSettings
from cola_jax.prompts import Prompts
from cola_jax.question import Question
from cola_jax.runs.chosen_on import ChosenOn
from cola_jax.runs.estimates import CHANGE
from cola_jax.runs.results import Results, read_results
from cola_jax.runs.run import Run
from cola_jax.runs.schema import Part, evaluation_rows, question_row
from cola_jax.runs.session import Session, settings_of
from cola_jax.runs.stored import Labels
from cola_jax.scoring.answer import GenerationSettings
from cola_jax.scoring.verdicts import Verdicts
from cola_jax.tasks.task import TaskConfig
from tests import tiny

PATHS = [(0, 1, 2, 3, 4), (0, 1, 3, 4), (0, 1, 1, 2, 3, 4), (0, 2, 1, 3, 4)]
SETTINGS = DistillSettings(labels="all", validation=0.3, epochs=4, batch_size=6)


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return str(tiny.write_questions(tmp_path_factory.mktemp("task") / "task.jsonl", 24))


@pytest.fixture(scope="module")
def session(tiny_checkpoint, task):
    engine = LocalEngine(Devices(data=1))
    return Session.prepare(str(tiny_checkpoint), TaskConfig(task).prepare, engine)


@pytest.fixture(scope="module")
def run(session, tmp_path_factory):
    """A third of the questions is right on a shorter path, a third on a longer one alone."""
    part, folder = Part([], []), str(tmp_path_factory.mktemp("run") / "run")
    for i, encoded in enumerate(session.asked.encode(session.model)):
        right = np.array([[True, True, False, False], [False, False, True, True], [False] * 4])
        gold = encoded.question.answer
        options = np.zeros((4, len(encoded.question.options)))
        options[:, gold] = np.where(right[i % 3], 1.0, -1.0)
        options[:, 1 - min(gold, 1)] -= options[:, gold]
        rows = evaluation_rows(encoded, PATHS, Verdicts.of_scores(options, gold))
        part.evaluations.extend(rows)
        part.questions.append(question_row(encoded, 4))
    with Run(folder).open(settings_of(session), session.environment) as opened:
        opened.write(part)
    return folder


@pytest.fixture(scope="module")
def trained(session, run, tmp_path_factory):
    """The directory of a router, and what `distill` returned."""
    folder = str(tmp_path_factory.mktemp("trained") / "router")
    return folder, distill(session, run, folder, SETTINGS)


def test_distill_trains_and_measures_a_router_that_can_be_loaded(trained, session, run):
    folder, distilled = trained
    examples = distilled.examples
    expressible = [target(path, 5).tolist() for path in PATHS[:3]]
    assert all(row in expressible for row in examples.targets.tolist())
    assert distilled.losses[-1] < distilled.losses[0]
    assert len(examples.held_out) == len(distilled.right) == 7
    assert set(examples.held_out).isdisjoint(examples.questions)
    router = load_router(folder, session.model.load())
    asked = session.asked.take(examples.held_out)
    prompts = Prompts.stack([each.prompts for each in asked.encode(session.model)])
    paths = router.paths(prompts)
    assert Counter(first for (first,) in paths) == distilled.paths
    model, scorer = session.model.load(), asked.scorer
    routed, plain = (
        cola_jax.evaluate(model, asked.questions, used, scorer=scorer).verdicts.verdict
        for used in (paths, [PATHS[0]])
    )
    assert (distilled.right == routed[:, :1]).all()
    assert (distilled.plain == plain[:, :1]).all()
    results = Results(distilled.estimates())
    change = results.find(CHANGE, ROUTER)
    assert change is not None
    assert change.value == distilled.right.mean() - distilled.plain.mean()
    assert results.value("loss of the last epoch") == distilled.losses[-1]
    recommended = distilled.recommendation.recommended
    assert Record.read(folder).recommended == recommended
    named = "the model as it is. the router" if recommended == "the model" else "the router."
    assert results.sentences[0].startswith(f"Recommended: {named}")
    before = Path(folder, "router.json").read_text()
    assert distill(session, run, folder, SETTINGS).losses == distilled.losses
    assert Path(folder, "router.json").read_text() == before


def test_lm_eval_runs_each_prompt_on_the_path_of_a_router(trained, tiny_checkpoint):
    routed = pytest.importorskip("cola_jax.extras.routed_lm")
    folder, distilled = trained
    with pytest.raises(InputError, match="needs router=DIRECTORY"):
        routed.RoutedLM(checkpoint=str(tiny_checkpoint))
    with pytest.raises(InputError, match="router and menu both name the paths"):
        routed.RoutedLM(checkpoint=str(tiny_checkpoint), router=folder, menu=folder)
    lm = routed.RoutedLM(checkpoint=str(tiny_checkpoint), router=folder, data=1)
    free = GenerationSettings((), 8)
    prompts = [lm.prompt(text, free) for text in ("the sun", "moon water ice")]
    paths = distilled.router.paths(Prompts.stack(prompts))
    assert lm.paths_of(prompts) == paths
    assert lm.path == f"router {Record.read(folder).weights}"  # of what the harness's cache keeps


def test_distill_refuses_a_task_that_changed_since_the_run(session, run, tmp_path):
    questions = list(session.asked.questions)
    questions[3] = dataclasses.replace(questions[3], answer=1 - min(questions[3].answer, 1))
    asked = dataclasses.replace(session.asked, questions=questions)
    changed = dataclasses.replace(session, asked=asked)
    with pytest.raises(InputError, match=r"does not belong to.*1 of 24 golds have changed"):
        distill(changed, run, str(tmp_path / "router"), SETTINGS)
    assert not (tmp_path / "router").exists()


def label(i, right):
    verdicts = dict(zip(PATHS, map(bool, right), strict=True))
    return Labels(f"q{i}", f"text {i}", (), None, verdicts)


def examples_of(rows, texts=None, **settings):
    texts = texts or {}
    questions = [Question(f"q{i}", texts.get(i, f"text {i}")) for i in range(20)]
    asked = SimpleNamespace(questions=questions)
    model = SimpleNamespace(config=SimpleNamespace(num_layers=5))
    session: Any = SimpleNamespace(asked=asked, model=model)
    return make_examples(rows, session, DistillSettings(**settings))


HELD = examples_of([label(i, [1, 0, 0, 0]) for i in range(20)]).held_out


def test_distill_refuses_runs_of_parts_and_shares(session, tmp_path):
    folder = tmp_path / "steps"
    with Run(folder).open({"command": "search", "steps": True}, {"num_layers": 5}):
        pass
    with pytest.raises(InputError, match="parts or shares of layers, and a router names paths of"):
        distill(session, str(folder), str(tmp_path / "router"), SETTINGS)


def test_make_examples_chooses_and_weighs_the_correct_paths_of_a_question():
    labels = [label(i, [1, 1, i % 2, 1]) for i in range(20)]
    shortest = examples_of(labels)
    trained = [i for i in range(20) if i not in HELD]
    assert len(HELD) == 4
    assert shortest.questions.tolist() == trained
    assert (shortest.targets == target(PATHS[1], 5)).all()
    assert (shortest.weights == 1).all()
    every = examples_of(labels, labels="all")
    assert every.held_out == HELD
    sums = np.bincount(every.questions, every.weights)[trained]
    np.testing.assert_allclose(sums, sums[0])
    assert Counter(every.questions.tolist()) == {i: 2 + i % 2 for i in trained}


def test_make_examples_counts_what_cannot_be_learned():
    rows = {i: label(i, [1, 0, 0, 0]) for i in range(20)}
    a, b, c, d = [i for i in rows if i not in HELD][:4]
    rows[a] = label(a, [0, 0, 0, 0])
    rows[b] = label(b, [0, 1, 0, 1])
    rows[c] = label(c, [1, 0, 0, 0])
    rows[d] = label(d, [1, 0, 0, 0])
    every = [*rows.values(), label(99, [1, 0, 0, 0])]
    made = examples_of(every, texts={d: f" text {HELD[0]}"})
    targets = dict(zip(made.questions.tolist(), made.targets.tolist(), strict=True))
    assert not {a, d} & set(targets)
    assert targets[b] == target(PATHS[1], 5).tolist()
    assert targets[c] == target(PATHS[0], 5).tolist()
    assert made.left_out == {
        "questions that the task does not have": 1,
        "questions without a correct path": 1,
        "paths not expressible": 1,
        "questions asked in both parts": 1,
    }
    with pytest.raises(InputError, match="no question with a correct path is left to train on"):
        examples_of([label(i, [0, 0, 0, 1]) for i in range(20)])


@pytest.mark.slow
def test_train_learns_a_path_for_each_prompt_by_heart():
    rng, paths = np.random.default_rng(0), PATHS[:3]
    states = [rng.normal(size=(n, 8)).astype(np.float16) for n in (4, 9, 6)]
    targets = np.array([target(path, 5) for path in paths])
    examples = Examples(np.arange(3), targets, np.ones(3), [], Counter())
    settings = DistillSettings(epochs=60)
    params, losses = train(states, examples, settings)
    assert losses[-1] < 0.05 < losses[0]
    for h, path in zip(states, paths, strict=True):
        boundary, ops = segment_logits(params, h[None], np.array([len(h)]))
        assert likeliest_paths(np.asarray(boundary[0]), np.asarray(ops[0]), 1) == [path]
    with pytest.raises(InputError, match="the loss of epoch 1 is nan: choose a lower"):
        train([h * np.float16(np.nan) for h in states], examples, settings)


def test_segment_loss_is_the_formula():
    rng = np.random.default_rng(0)
    boundary, ops = rng.normal(size=(1, 4)), rng.normal(size=(1, 4, 3))
    p, q = 1 / (1 + np.exp(-boundary[0])), np.exp(ops[0]) / np.exp(ops[0]).sum(-1, keepdims=True)
    at_boundary = -np.log([1 - p[1], p[2], p[3]]).mean()
    at_start = -np.log([q[0, 1], q[2, 2], q[3, 0]]).mean()
    loss = segment_loss(np.float32(boundary), np.float32(ops), np.array([[1, NO_SEGMENT, 2, 0]]))
    np.testing.assert_allclose(loss, [at_boundary + at_start], rtol=1e-5)


def test_warning_of_a_collapse():
    router: Any = SimpleNamespace(model=SimpleNamespace(config=SimpleNamespace(num_layers=5)))
    nothing: Any = None
    for counts, warning in (
        ((19, 1, 0), "identity collapse: for 19 of 20"),
        ((0, 20, 0), "collapse to one path: for 20 of 20"),
        ((18, 1, 1), "None"),
    ):
        paths = Counter({path: n for path, n in zip(PATHS, counts, strict=False) if n})
        distilled = Distilled(router, nothing, [], nothing, nothing, 5.0, paths)
        assert distilled.identity_share == counts[0] / 20
        assert str(distilled.warning).startswith(warning)


@pytest.fixture
def command(tiny_checkpoint, task, run):
    flags = ("--model", str(tiny_checkpoint), "--task", task, "--run", run, "--data", "1")
    same = ("--labels", "all", "--validation", "0.3", "--epochs", "4", "--batch-size", "6")
    return ["distill", *flags, *same, "--out"]  # compiles nothing new


def test_cola_distill_prints_the_effect_of_a_router(command, tmp_path, capsys):
    main([*command, str(tmp_path / "router"), "--early-layers", "2"])
    printed, logged = capsys.readouterr()
    assert "epoch 4/4  loss" in logged
    assert "7 held-out questions" in printed
    assert "loss of the last epoch" in printed
    record = json.loads((tmp_path / "router" / "router.json").read_text())
    assert record["early_layers"] == 2
    main(["distill", "--config", str(tmp_path / "router" / "config.yaml"), "--json"])
    results = read_results(tmp_path / "router" / "results.json")
    assert json.loads(capsys.readouterr().out) == results.to_json()
    assert results.run["held_out"] == 7
    chosen_on = ChosenOn.from_json(record["chosen_on"])
    assert len(chosen_on.questions) == 24 - 7
    assert results.run["chosen_on"] == record["chosen_on"]


def test_cola_distill_refuses_other_questions_and_settings(command, tmp_path, capsys):
    for flags, message in (
        (("--scorer", "letter"), "its scorer is options, here it is letter"),
        (("--validation", "2"), "validation must lie between 0 and 1, it is 2.0"),
        (("--early-layers", "6"), "states after 6 layers cannot be read: the model has 5"),
        (("--batch-size", "0"), "batch_size must be at least 1"),
    ):
        with pytest.raises(SystemExit):
            main([*command, str(tmp_path / "out"), *flags])
        assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()
