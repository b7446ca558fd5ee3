"""Runs on a Ray cluster of this machine have the rows of those of one process."""

import functools
import sys
from collections.abc import Iterator

import numpy as np
import pytest
import ray
from ray import cloudpickle
from ray.cluster_utils import Cluster

import cola_jax
from cola_jax.engine.ray import RayEngine
from cola_jax.errors import Unfinished
from cola_jax.metrics import Metrics
from cola_jax.runs.run import Run
from cola_jax.runs.session import Session
from cola_jax.runs.work import PathRows
from cola_jax.strategies.rules import PRESETS, Settings
from cola_jax.tasks.task import TaskConfig
from tests import tiny
from tests.same_rows import differences

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # Ray leaves sockets open
]
QUESTIONS = 24
PATHS = [(0, 1, 2, 3, 4), (0, 2, 4), (0, 1, 1, 2, 3, 4)]


@pytest.fixture(scope="module")
def engine() -> Iterator[RayEngine]:
    """A head without workers, and two machines of one worker each."""
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    yield RayEngine(cluster.address, batch_size=4)
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("task")
    return str(tiny.write_questions(folder / "task.jsonl", QUESTIONS))


@pytest.fixture
def prepare(checkpoint, task):
    def call(engine=None, **settings):
        prepared = functools.partial(TaskConfig(task, **settings).prepare, again=True)
        return Session.prepare(checkpoint, prepared, engine)

    return call


@pytest.mark.parametrize(
    ("preset", "prompts"), [("best", 1), ("shortgpt", 0)], ids=["again", "influence"]
)
def test_a_search_finds_what_one_process_does(engine, prepare, tmp_path, preset, prompts):
    search = Settings(PRESETS[preset], simulations=6, leaves=4, seed=0)
    expected, metrics, again = Metrics(), Metrics(), Metrics()
    alone = prepare(prompts=prompts).search(str(tmp_path / "alone"), search, expected)
    session = prepare(engine, prompts=prompts)
    run = session.search(str(tmp_path / "run"), search, metrics)
    assert differences(run, alone) == []
    assert metrics.evaluations == expected.evaluations
    assert metrics.cost.useful == expected.cost.useful
    start = run.read_starts()[1][0]
    assert (start["engine"], start["workers"]) == ("ray", "CPU=1")
    session.search(str(tmp_path / "run"), search, again)
    assert again.evaluations == 0


def test_functions_of_python_give_what_one_process_does(engine, checkpoint):
    model, questions = cola_jax.load(checkpoint), tiny.questions(9)
    for changed in (model, model.replace(norm=model.norm * 2)):
        ours, theirs = (
            cola_jax.evaluate(changed, questions, PATHS, engine=each, scorer="options").verdicts
            for each in (engine, None)
        )
        np.testing.assert_allclose(ours.margin, theirs.margin, atol=1e-4)
        assert (ours.verdict == theirs.verdict).all()
    found, expected = (
        cola_jax.search(model, questions, simulations=5, engine=each, scorer="options")
        for each in (engine, None)
    )
    assert [outcome.paths for outcome in found] == [outcome.paths for outcome in expected]
    again = [cola_jax.confirm(outcomes) for outcomes in (found, expected)]
    assert again[0].to_pandas().equals(again[1].to_pandas())


class Poisoned(PathRows):
    """Rows of paths, which fail at the question q7."""

    def __call__(self, worker, batch, keep):
        if "q7" in [question.id for question in batch.questions]:
            raise RuntimeError("this question is poisoned")
        return super().__call__(worker, batch, keep)


def test_a_poisoned_question_is_recorded_and_the_rest_done(engine, prepare, monkeypatch, tmp_path):
    out = str(tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr("cola_jax.runs.session.PathRows", Poisoned)
        with pytest.raises(Unfinished, match=r"lacks 1 question .*q7"):
            prepare(engine).evaluate(out, PATHS)
    run = Run(out)
    (failure,) = run.failures()
    assert failure["questions"] == ["q7"]
    assert len(run.questions(["question"])) == QUESTIONS - 1
    run = prepare(engine).evaluate(out, PATHS)
    assert differences(run, prepare().evaluate(str(tmp_path / "alone"), PATHS)) == []
    assert run.failures() == []
