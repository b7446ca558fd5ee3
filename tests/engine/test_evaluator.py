"""`EngineEvaluator`: verdicts in the order of questions, and batches that stay open."""

import numpy as np
import pytest

from cola_jax.engine import evaluator
from cola_jax.engine.engine import Capacity
from cola_jax.engine.evaluator import EngineEvaluator
from cola_jax.engine.local import LocalEngine
from cola_jax.engine.model import ModelHandle
from cola_jax.engine.question_set import QuestionSet
from cola_jax.engine.work import Failed
from cola_jax.errors import Unfinished
from cola_jax.execute.memory import Memory
from cola_jax.metrics import Metrics
from cola_jax.path import STOP, pad_lists, random_paths
from cola_jax.prompts import Prompts
from cola_jax.scoring import Options, Verdicts
from cola_jax.scoring.encoder import Encoder
from cola_jax.scoring.scorer import score_readings
from tests import tiny
from tests.execute.one_by_one import run_reference

QUESTIONS = tiny.questions(7)  # of three to five options
PATHS = random_paths(tiny.LAYERS, 9, seed=0)
WIDTH = 2 * tiny.LAYERS


@pytest.fixture(scope="module")
def handle(model):
    return ModelHandle.of(model)


@pytest.fixture(scope="module")
def asked(handle):
    return QuestionSet.of(QUESTIONS, Encoder((Options(handle.tokenizer),)), handle)


def padded(paths, questions=7):
    return pad_lists([paths] * questions, WIDTH)


def verdicts_by_reference(model, asked, paths):
    encoded = asked.encoder.tokenize(asked.questions)
    prompts = Prompts.stack([each.prompts for each in encoded])
    return score_readings(asked.scorer, encoded, run_reference(model, prompts, paths), paths)


@pytest.mark.parametrize("keep_open", [True, False])
@pytest.mark.parametrize("batch_size", [2, 1])  # more batches than stay open
def test_verdicts_are_in_the_order_of_questions(model, handle, asked, keep_open, batch_size):
    engine = LocalEngine(batch_size=batch_size)
    evaluate = EngineEvaluator(engine, handle, asked, keep_open=keep_open)
    assert evaluate.keeps_open == (keep_open and batch_size == 2)
    first, second = padded(PATHS[:4]), padded(PATHS[4:])
    first[[1, 5]] = STOP  # questions without a path
    first[3, 2] = STOP
    for paths in (first, second):
        got, expected = evaluate(paths), verdicts_by_reference(model, asked, paths)
        np.testing.assert_allclose(got.scores, expected.scores, rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(got.finite, paths[:, :, 0] != STOP)


def count_layers(handle, asked, waves, **options):
    """The layers that run in each of several calls, and their verdicts."""
    metrics = Metrics()
    evaluate = EngineEvaluator(LocalEngine(), handle, asked, metrics, **options)
    counts, verdicts = [], []
    for wave in waves:
        before = metrics.cost
        verdicts.append(evaluate(wave))
        cost = metrics.cost
        counts.append(cost.unique + cost.last - before.unique - before.last)
    return counts, verdicts


def test_open_batches_keep_states_for_later_calls(handle, asked):
    """Of paths that begin alike; a longer path than those before opens the batches anew."""
    short = padded([(0, 1, 2), (0, 2, 4)])[:, :, :5]
    longer = padded([(0, 1, 2, 3), (0, 2, 4, 4)])[:, :, :5]
    wide = padded([(0, 1, 2, 3, 4, 4, 4), (0, 2, 4, 4, 3)])
    waves = [short, longer, wide]
    kept, ours = count_layers(handle, asked, waves)
    fresh, theirs = count_layers(handle, asked, waves, keep_open=False)
    assert kept[0] == fresh[0]
    assert kept[1] < fresh[1]
    assert kept[2] == fresh[2]
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one.scores, other.scores, rtol=1e-4, atol=1e-4)


def test_evaluators_that_share_an_engine_close_each_others_batches(model, handle, asked):
    engine, few = LocalEngine(), asked.take([4, 2])
    evaluators = [EngineEvaluator(engine, handle, each) for each in (asked, few, asked)]
    for evaluate in (*evaluators, *evaluators):
        paths = padded(PATHS[:3], len(evaluate.asked))
        expected = verdicts_by_reference(model, evaluate.asked, paths)
        np.testing.assert_allclose(evaluate(paths).scores, expected.scores, rtol=1e-4, atol=1e-4)


def test_a_batch_that_fails_while_open_runs_in_halves(model, handle, asked, monkeypatch):
    """The halves are other batches than the whole, which is closed."""
    evaluate, paths = EngineEvaluator(LocalEngine(), handle, asked), padded(PATHS[:3])
    expected = verdicts_by_reference(model, asked, paths)
    score, largest = evaluator.PathVerdicts.__call__, [7]
    sizes = []

    def limited(work, worker, batch, keep):
        sizes.append(len(batch.questions))
        verdicts = score(work, worker, batch, keep)
        if len(batch.questions) > largest[0]:
            raise RuntimeError("RESOURCE_EXHAUSTED")
        return verdicts

    monkeypatch.setattr(evaluator.PathVerdicts, "__call__", limited)
    for most, ran in ((7, [7]), (4, [7, 3, 4]), (7, [7])):
        largest[0] = most
        sizes.clear()
        got = evaluate(paths)
        assert sizes == ran
        np.testing.assert_allclose(got.scores, expected.scores, rtol=1e-4, atol=1e-4)


class FakeEngine:
    """An engine that judges paths by their length, and sets some questions aside."""

    def __init__(self, *aside):
        self.aside, self.ran = set(aside), []

    def capacity(self, model, questions):
        return Capacity(Memory(1 << 30, sharing=1, itemsize=4, backend="cpu"), 2, 2, 2)

    def map(self, work, batches, metrics):
        for batch in batches:
            self.ran += batch.indices.tolist()
            if self.aside & {question.id for question in batch.questions}:
                yield batch, Failed("its machine was lost", 3), "machine"
            else:
                lengths = (work.paths[batch.indices] != STOP).sum(axis=2)
                yield batch, Verdicts.of_margins(4.5 - lengths), "machine"


def test_questions_without_a_path_do_not_run(handle, asked):
    engine, paths = FakeEngine(), padded([(0, 1), (0, 1, 2, 3, 4)])
    evaluate = EngineEvaluator(engine, handle, asked)
    assert not evaluate(np.full_like(paths, STOP)).finite.any()
    assert engine.ran == []
    paths[[0, 3, 6]] = STOP
    verdicts = evaluate(paths)
    assert sorted(engine.ran) == [1, 2, 4, 5]
    assert verdicts.verdict[[1, 2, 4, 5]].tolist() == [[True, False]] * 4
    assert not verdicts.finite[[0, 3, 6]].any()


def test_questions_that_are_set_aside_are_named(handle, asked):
    evaluate = EngineEvaluator(FakeEngine("q2"), handle, asked)
    with pytest.raises(Unfinished, match=r"q2.* failed 3 times \(its machine was lost\)"):
        evaluate(padded([(0, 1)]))
